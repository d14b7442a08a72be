"""`worker readings export OUT`: the series that readers gave a class, for `monai-train convert --from-worker`.

OUT/images/…      the received DICOM files, checked against their hashes, linked where the file system can, else copied
OUT/labels.csv    one line a slice: its series' label, and what reader and model said of the slice; written last
OUT/left-out.csv  the series that are not in it, with the reason
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.errors import StartError
from worker.store import Store
from worker.store_readings import NOT_ASSESSABLE, ReadSeries, read_series

LABELS = "labels.csv"
COLUMNS = ("path", "label", "series", "ordinal", "marked", "deciding", "in_distribution", "answer", "dataset")
SITE = "site"  # the data set that a confirmed series belongs to
_NO_CLASS = ("other", NOT_ASSESSABLE)


@dataclass(frozen=True, slots=True)
class Exported:
    """How many series and slices were written, and why others were not: (series, reason)."""

    series: int
    slices: int
    left_out: tuple[tuple[str, str], ...]


def export_readings(
    database: Store, data_dir: Path, out: Path, step: Callable[[int, int], None] = lambda done, total: None
) -> Exported:
    """Write the folder, which must be new or empty. Raises StartError where it is not, or cannot be written."""
    lines: list[dict[str, str]] = []
    left_out: list[tuple[str, str]] = []
    series = 0
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
        if any(one.name != "images" for one in out.iterdir()) or any((out / "images").iterdir()):
            raise StartError("out-not-empty", f"{out} is not empty")
        with database.read() as session:
            found = list(read_series(session))
        for number, one in enumerate(found, 1):
            name = _name(one)
            reason = _why_not(one) or _take(one, data_dir, out / "images" / name)
            if reason:
                left_out.append((name, reason))
            else:
                series += 1
                lines += _lines(one, name)
            step(number, len(found))
        _write(out / "left-out.csv", ("series", "reason"), [{"series": a, "reason": b} for a, b in left_out])
        _write(out / LABELS, COLUMNS, lines)
    except OSError as error:
        raise StartError("export-unwritable", f"{out} cannot be written: {error.strerror}") from None
    return Exported(series, len(lines), tuple(left_out))


def _name(one: ReadSeries) -> str:
    """The same for the same series in every export, and not its UID."""
    return f"series-{hashlib.sha256(one.series_instance_uid.encode()).hexdigest()[:16]}"


def _why_not(one: ReadSeries) -> str | None:
    if one.label in _NO_CLASS:
        return one.label
    if not one.slices:
        return "no-result"  # nobody knows which of its images are its slices
    if any(each.removed for each in one.slices):
        return "images-deleted"
    if any(each.frame_number is not None for each in one.slices):
        return "multi-frame"  # training takes files of one slice
    return None


def _take(one: ReadSeries, data_dir: Path, folder: Path) -> str | None:
    """Link or copy the files of a series; the reason where one is missing or not what was received."""
    folder.mkdir()
    for each in one.slices:
        source, target = data_dir / each.path, folder / _file(each.ordinal)
        try:
            content = source.read_bytes()
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != each.sha256:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
            return "images-damaged"
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            target.write_bytes(content)
    return None


def _file(ordinal: int) -> str:
    return f"{ordinal:04d}.dcm"


def _lines(one: ReadSeries, name: str) -> Iterable[dict[str, str]]:
    for each in one.slices:
        values = (
            f"images/{name}/{_file(each.ordinal)}", one.label, name, str(each.ordinal),
            _yes(each.ordinal in one.marked), _yes(each.deciding), _yes(each.in_distribution), one.answer or "", SITE,
        )  # fmt: skip
        yield dict(zip(COLUMNS, values, strict=True))


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
