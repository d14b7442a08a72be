"""`monai-train explore`: a report on a folder of images, as one HTML page with pictures, a CSV and the audit's JSON.

OUT/report.html   self-contained, needs no other file
OUT/images.csv    one row per image
OUT/audit.json    groups and pairs, as `monai-train audit --json` writes them
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np

from monai_train.data.duplicates import Pair
from monai_train.data.explore_pictures import contact_sheet, counts_chart, intensity_chart
from monai_train.data.leakage import Audit, as_json, audit, write_json
from monai_train.data.manifest import write_csv
from worker.errors import StartError
from worker.files import write_atomically
from worker.wording import counted

_CSV_COLUMNS = (
    "path",
    "label",
    "split",
    "mode",
    "format",
    "rows",
    "columns",
    "mean_grey",
    "picture_group",
    "patient_group",
)
_SAMPLES = 8
_EXAMPLES = 12
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #ccc}table{border-collapse:collapse;margin:.7rem 0}
td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #e3e3e3}
td:first-child,th:first-child{text-align:left}.wide{overflow-x:auto}
img{max-width:100%;height:auto;display:block;margin:.5rem 0}.note{background:#fff4d6;padding:.6rem 1rem}
figcaption,small{color:#555}figure{margin:1rem 0}
"""


def explore(data: Path, out: Path, groups: Path | None = None) -> Audit:
    """Write the report on `data` (class folders, DICOM, or the output of `convert`) into `out`.

    Raises StartError if there is nothing to show or the output cannot be written.
    """
    result = audit(data, groups)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "images.csv", _CSV_COLUMNS, _rows(result))
        write_json(out / "audit.json", as_json(result))
        write_atomically(out / "report.html", render_report(result, data).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise StartError("output-not-writable", f"cannot write to {out}: {error.strerror}") from None
    return result


def _rows(result: Audit) -> Iterable[dict[str, str]]:
    columns = (result.images, result.prints, result.pictures, result.patients)
    for image, facts, picture, patient in zip(*columns, strict=True):
        values = (image.source, image.label, image.split, facts.mode, facts.format, facts.rows, facts.columns)
        rest = (f"{_mean_grey(facts.histogram):.4f}", picture, patient)
        yield dict(zip(_CSV_COLUMNS, map(str, values + rest), strict=True))


def _mean_grey(histogram: np.ndarray) -> float:
    """Mean grey value in [0, 1], from the centres of the histogram's bins."""
    return float(histogram @ (np.arange(len(histogram)) + 0.5) / len(histogram))


def render_report(result: Audit, data: Path) -> str:
    """Render the report as HTML."""
    parts = [
        _counts(result),
        _sizes_and_modes(result),
        _samples(result, data),
        _intensity(result),
        _both_sides(result),
        _same_pictures(result, data),
        _conflicts(result, data),
        _rejected(result),
    ]
    title = f"{counted(len(result.images), 'image')} in {escape(data.resolve().name)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}, {datetime.now(UTC):%Y-%m-%d}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{datetime.now(UTC):%Y-%m-%d}. Research use only.</p>{''.join(parts)}</html>\n"
    )


def _counts(result: Audit) -> str:
    labels = [image.label or "no label" for image in result.images]
    splits = [image.split for image in result.images]
    rows = []
    for label in [*sorted(set(labels)), "all"]:
        chosen = [i for i, own in enumerate(labels) if label in ("all", own)]
        pictures, patients = ({names[i] for i in chosen} for names in (result.pictures, result.patients))
        rows.append((label, len(chosen), len(pictures), len(patients)))
    return (
        "<h2>Classes</h2>"
        + _image(counts_chart(labels, splits), "Images by class and split")
        + _table(("class", "images", "different pictures", "patient groups"), rows)
        + "<small>Without patient groups, every picture counts as a patient group of its own.</small>"
    )


def _sizes_and_modes(result: Audit) -> str:
    labels = sorted({image.label for image in result.images})
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    modes: dict[str, Counter[str]] = defaultdict(Counter)
    for image, facts in zip(result.images, result.prints, strict=True):
        sizes[f"{facts.columns} x {facts.rows}"][image.label] += 1
        modes[f"{facts.mode} {facts.format}"][image.label] += 1
    common = sorted(sizes, key=lambda size: (-sizes[size].total(), size))
    shown, others = common[:_EXAMPLES], common[_EXAMPLES:]
    rows = [(size, *(sizes[size][label] for label in labels)) for size in shown]
    if others:
        rest = sum((sizes[size] for size in others), Counter[str]())
        rows.append((counted(len(others), "other size"), *(rest[label] for label in labels)))
    header = [label or "no label" for label in labels]
    return (
        "<h2>Sizes and modes</h2>"
        + _table(("columns x rows", *header), rows)
        + _table(("mode", *header), [(m, *(modes[m][label] for label in labels)) for m in sorted(modes)])
        + _mode_note(modes, len(result.images))
    )


def _mode_note(modes: dict[str, Counter[str]], n: int) -> str:
    """A warning if the colour mode alone, which carries no information on the patient, predicts the class."""
    guessed = sum(max(counts.values()) for counts in modes.values()) / n
    blind = max(sum(modes.values(), Counter[str]()).values()) / n
    if guessed - blind < 0.02:
        return ""
    return (
        f'<p class="note">The mode alone predicts the class of {guessed:.1%} of the images; the most frequent class is '
        f"{blind:.1%}. Convert to one channel, as <code>convert</code> does.</p>"
    )


def _samples(result: Audit, data: Path) -> str:
    parts = ["<h2>Samples</h2>"]
    for label in sorted({image.label for image in result.images}):
        first: dict[str, int] = {}  # one image per picture, so that copies do not fill the row
        for i, image in enumerate(result.images):
            if image.label == label:
                first.setdefault(result.pictures[i], i)
        choice = list(first.values())
        spread = [choice[k * len(choice) // _SAMPLES] for k in range(_SAMPLES)] if len(choice) > _SAMPLES else choice
        paths = [data / result.images[i].source for i in spread]
        parts.append(
            _image(contact_sheet(paths, len(paths)), f"{label or 'no label'}: {counted(len(first), 'picture')}")
        )
    return "".join(parts)


def _intensity(result: Audit) -> str:
    labels = [image.label or "no label" for image in result.images]
    histograms = np.stack([facts.histogram for facts in result.prints])
    means = np.array([_mean_grey(histogram) for histogram in histograms])
    of = np.array(labels)
    rows = [
        (
            label,
            f"{means[of == label].mean():.3f}",
            f"{means[of == label].std():.3f}",
            f"{histograms[of == label, 0].mean():.1%}",
        )
        for label in sorted(set(labels))
    ]
    return (
        "<h2>Intensity</h2>"
        + _image(intensity_chart(labels, histograms), "Mean share of each grey value by class, logarithmic")
        + _table(("class", "mean grey value", "standard deviation between images", "share of black"), rows)
    )


def _both_sides(result: Audit) -> str:
    rows = [
        (
            f"{side.held_out} in {side.learnt}",
            side.images,
            side.identical,
            side.same_picture,
            side.same_patient,
            side.clean,
        )
        for side in result.across
    ]
    if not rows:
        return "<h2>Leakage between splits</h2><p>The folder has no split.</p>"
    header = ("images of", "images", "same pixels", "same picture", "same patient", "clean")
    worst = max(result.across, key=lambda side: side.same_patient / max(1, side.images))
    note = ""
    if worst.same_patient:
        note = (
            f'<p class="note">{worst.same_patient} of {worst.images} {worst.held_out} images are known from '
            f"{worst.learnt}: figures on this split measure memory. Split by <code>patient_group</code>.</p>"
        )
    return "<h2>Leakage between splits</h2>" + _table(header, rows) + note


def _same_pictures(result: Audit, data: Path) -> str:
    kinds = Counter(pair.kind for pair in result.pairs)
    transforms = Counter(pair.transform for pair in result.pairs if pair.kind == "near")
    sizes = Counter(Counter(result.pictures).values())
    examples: dict[str, Pair] = {}  # the least similar pair of each group, for a person to check
    for pair in sorted((p for p in result.pairs if p.kind == "near"), key=lambda p: p.score):
        examples.setdefault(result.pictures[pair.a], pair)
    shown = list(examples.values())[:_EXAMPLES]
    parts = [
        "<h2>The same picture</h2>",
        f"<p>{counted(kinds['exact'], 'pair')} with identical pixels, "
        f"{counted(kinds['near'], 'pair')} of a picture that was changed.</p>",
        _table(("transform", "pairs"), transforms.most_common()),
        _table(("images of a picture", "pictures"), _binned(sizes)),
    ]
    if shown:
        paths = [data / result.images[i].source for pair in shown for i in (pair.a, pair.b)]
        scores = ", ".join(f"{pair.score:.2f} {pair.transform}" for pair in shown)
        parts.append(
            _image(
                contact_sheet(paths, 8),
                f"The least similar pair of {counted(len(shown), 'group')}, two by two: {scores}",
            )
        )
    return "".join(parts)


def _binned(sizes: Counter[int]) -> list[tuple[str, int]]:
    bins = [(1, 1), (2, 2), (3, 5), (6, 10), (11, 50), (51, max([51, *sizes]))]
    binned = [(low, high, sum(n for size, n in sizes.items() if low <= size <= high)) for low, high in bins]
    return [(f"{low}" if low == high else f"{low} to {high}", n) for low, high, n in binned if n]


def _conflicts(result: Audit, data: Path) -> str:
    if not result.conflicts:
        return "<h2>Conflicting labels</h2><p>None.</p>"
    rows = [
        (result.images[i].source, result.images[i].label, result.images[i].split)
        for members in result.conflicts
        for i in members
    ]
    paths = [data / result.images[members[0]].source for members in result.conflicts[:_EXAMPLES]]
    return (
        "<h2>Conflicting labels</h2>"
        f"<p>{counted(len(result.conflicts), 'picture')} with labels that contradict each other.</p>"
        + _image(contact_sheet(paths, min(8, len(paths))), "One image of each picture")
        + _table(("image", "label", "split"), rows)
    )


def _rejected(result: Audit) -> str:
    if not result.rejected:
        return "<h2>Rejected files</h2><p>None.</p>"
    counts = Counter((file.reason, file.detail) for file in result.rejected)
    return "<h2>Rejected files</h2>" + _table(
        ("reason", "detail", "files"), [(*why, n) for why, n in counts.most_common()]
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(name)}" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows)
    return f'<div class="wide"><table><tr>{head}{body}</table></div>'


def _image(png: bytes, caption: str) -> str:
    content = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{content}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
