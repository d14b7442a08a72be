"""`monai-train explore`: what is in a folder of images, as one HTML page with pictures, a CSV and the audit's JSON.

OUT/report.html   self-contained: opens anywhere, asks no other file
OUT/images.csv    one row an image
OUT/audit.json    groups and pairs, as `monai-train audit --json` writes them
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from monai_train.data.duplicates import Pair
from monai_train.data.explore_pictures import contact_sheet, counts_chart, intensity_chart
from monai_train.data.leakage import Audit, as_json, audit, write_json
from monai_train.data.manifest import write_csv
from worker.errors import StartError
from worker.files import write_atomically

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
td:first-child,th:first-child{text-align:left}
img{max-width:100%;height:auto;display:block;margin:.5rem 0}.note{background:#fff4d6;padding:.6rem 1rem}
figcaption,small{color:#555}figure{margin:1rem 0}
"""


def explore(data: Path, out: Path, groups: Path | None = None) -> Audit:
    """Write the report on `data` (class folders, DICOM, or what `convert` wrote) into `out`.

    Raises StartError where there is nothing to show or the output cannot be written.
    """
    found = audit(data, groups)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "images.csv", _CSV_COLUMNS, _rows(found))
        write_json(out / "audit.json", as_json(found))
        write_atomically(out / "report.html", page(found, data).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise StartError("output-not-writable", f"cannot write to {out}: {error.strerror}") from None
    return found


def _rows(found: Audit) -> Iterable[dict[str, str]]:
    for image, one, picture, patient in zip(found.images, found.prints, found.pictures, found.patients, strict=True):
        values = (image.source, image.label, image.split, one.mode, one.format, one.rows, one.columns)
        rest = (f"{_mean_grey(one.histogram):.4f}", picture, patient)
        yield dict(zip(_CSV_COLUMNS, map(str, values + rest), strict=True))


def _mean_grey(histogram: np.ndarray) -> float:
    """Mean grey value in [0, 1], from the centres of the histogram's bins."""
    return float(histogram @ (np.arange(len(histogram)) + 0.5) / len(histogram))


def page(found: Audit, data: Path) -> str:
    """The whole report as HTML."""
    parts = [
        _counts(found),
        _sizes_and_modes(found),
        _samples(found, data),
        _intensity(found),
        _both_sides(found),
        _same_pictures(found, data),
        _conflicts(found, data),
        _rejected(found),
    ]
    title = f"{len(found.images)} images in {escape(data.resolve().name)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>Research use only.</p>{''.join(parts)}</html>\n"
    )


def _counts(found: Audit) -> str:
    labels = [image.label or "no label" for image in found.images]
    splits = [image.split for image in found.images]
    rows = []
    for label in [*sorted(set(labels)), "all"]:
        chosen = [i for i, own in enumerate(labels) if label in ("all", own)]
        pictures, patients = ({names[i] for i in chosen} for names in (found.pictures, found.patients))
        rows.append((label, len(chosen), len(pictures), len(patients)))
    return (
        "<h2>Classes</h2>"
        + _image(counts_chart(labels, splits), "Images a class and split")
        + _table(("class", "images", "different pictures", "patient groups"), rows)
        + "<small>Where no patient is given, every picture counts as a patient group of its own.</small>"
    )


def _sizes_and_modes(found: Audit) -> str:
    labels = sorted({image.label for image in found.images})
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    modes: dict[str, Counter[str]] = defaultdict(Counter)
    for image, one in zip(found.images, found.prints, strict=True):
        sizes[f"{one.columns} x {one.rows}"][image.label] += 1
        modes[f"{one.mode} {one.format}"][image.label] += 1
    common = sorted(sizes, key=lambda size: (-sizes[size].total(), size))
    shown, others = common[:_EXAMPLES], common[_EXAMPLES:]
    rows = [(size, *(sizes[size][label] for label in labels)) for size in shown]
    if others:
        rest = sum((sizes[size] for size in others), Counter[str]())
        rows.append((f"{len(others)} other sizes", *(rest[label] for label in labels)))
    header = [label or "no label" for label in labels]
    return (
        "<h2>Sizes and modes</h2>"
        + _table(("columns x rows", *header), rows)
        + _table(("mode", *header), [(m, *(modes[m][label] for label in labels)) for m in sorted(modes)])
        + _mode_note(modes, len(found.images))
    )


def _mode_note(modes: dict[str, Counter[str]], n: int) -> str:
    """How well the colour mode alone, which says nothing of the patient, would tell the class."""
    guessed = sum(max(counts.values()) for counts in modes.values()) / n
    blind = max(sum(modes.values(), Counter[str]()).values()) / n
    if guessed - blind < 0.02:
        return ""
    return (
        f'<p class="note">The mode alone tells the class of {guessed:.1%} of the images; the commonest class is '
        f"{blind:.1%}. Force one channel, as <code>convert</code> does.</p>"
    )


def _samples(found: Audit, data: Path) -> str:
    parts = ["<h2>Samples</h2>"]
    for label in sorted({image.label for image in found.images}):
        first: dict[str, int] = {}  # one image a picture, else copies fill the row
        for i, image in enumerate(found.images):
            if image.label == label:
                first.setdefault(found.pictures[i], i)
        choice = list(first.values())
        spread = [choice[k * len(choice) // _SAMPLES] for k in range(_SAMPLES)] if len(choice) > _SAMPLES else choice
        paths = [data / found.images[i].source for i in spread]
        parts.append(_image(contact_sheet(paths, len(paths)), f"{label or 'no label'}: {len(first)} pictures"))
    return "".join(parts)


def _intensity(found: Audit) -> str:
    labels = [image.label or "no label" for image in found.images]
    histograms = np.stack([one.histogram for one in found.prints])
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
        + _image(intensity_chart(labels, histograms), "Mean share of each grey value a class, logarithmic")
        + _table(("class", "mean grey value", "standard deviation between images", "share of black"), rows)
    )


def _both_sides(found: Audit) -> str:
    rows = [
        (f"{one.held_out} in {one.learnt}", one.images, one.identical, one.same_picture, one.same_patient, one.clean)
        for one in found.across
    ]
    if not rows:
        return "<h2>Both sides of the split</h2><p>The folder has no split.</p>"
    header = ("images of", "images", "same pixels there", "same picture there", "same patient there", "clean")
    worst = max(found.across, key=lambda one: one.same_patient / max(1, one.images))
    note = ""
    if worst.same_patient:
        note = (
            f'<p class="note">{worst.same_patient} of {worst.images} {worst.held_out} images are known from '
            f"{worst.learnt}: figures on this split measure memory. Split by <code>patient_group</code>.</p>"
        )
    return "<h2>Both sides of the split</h2>" + _table(header, rows) + note


def _same_pictures(found: Audit, data: Path) -> str:
    kinds = Counter(pair.kind for pair in found.pairs)
    transforms = Counter(pair.transform for pair in found.pairs if pair.kind == "near")
    sizes = Counter(Counter(found.pictures).values())
    examples: dict[str, Pair] = {}  # the least alike of each group: what a person would want to check
    for pair in sorted((p for p in found.pairs if p.kind == "near"), key=lambda p: p.score):
        examples.setdefault(found.pictures[pair.a], pair)
    shown = list(examples.values())[:_EXAMPLES]
    parts = [
        "<h2>The same picture</h2>",
        f"<p>{kinds['exact']} pairs with identical pixels, {kinds['near']} pairs of one picture that was changed.</p>",
        _table(("transform", "pairs"), transforms.most_common()),
        _table(("images of one picture", "such pictures"), _binned(sizes)),
    ]
    if shown:
        paths = [data / found.images[i].source for pair in shown for i in (pair.a, pair.b)]
        scores = ", ".join(f"{pair.score:.2f} {pair.transform}" for pair in shown)
        parts.append(
            _image(contact_sheet(paths, 8), f"The least alike pair of {len(shown)} groups, two by two: {scores}")
        )
    return "".join(parts)


def _binned(sizes: Counter[int]) -> list[tuple[str, int]]:
    bins = [(1, 1), (2, 2), (3, 5), (6, 10), (11, 50), (51, max([51, *sizes]))]
    counted = [(low, high, sum(n for size, n in sizes.items() if low <= size <= high)) for low, high in bins]
    return [(f"{low}" if low == high else f"{low} to {high}", n) for low, high, n in counted if n]


def _conflicts(found: Audit, data: Path) -> str:
    if not found.conflicts:
        return "<h2>Conflicting labels</h2><p>None.</p>"
    rows = [
        (found.images[i].source, found.images[i].label, found.images[i].split)
        for members in found.conflicts
        for i in members
    ]
    paths = [data / found.images[members[0]].source for members in found.conflicts[:_EXAMPLES]]
    return (
        f"<h2>Conflicting labels</h2><p>{len(found.conflicts)} pictures have labels that exclude each other.</p>"
        + _image(contact_sheet(paths, min(8, len(paths))), "One image of each picture")
        + _table(("image", "label", "split"), rows)
    )


def _rejected(found: Audit) -> str:
    if not found.rejected:
        return "<h2>Rejected files</h2><p>None.</p>"
    counts = Counter((one.reason, one.detail) for one in found.rejected)
    return "<h2>Rejected files</h2>" + _table(
        ("reason", "detail", "files"), [(*why, n) for why, n in counts.most_common()]
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(name)}" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _image(png: bytes, caption: str) -> str:
    content = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{content}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
