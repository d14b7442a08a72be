"""`worker readings export OUT`: the series that readers gave a class, for `monai-train convert --from-worker`.

OUT/images/…      the received DICOM files, checked against their hashes, linked where the file system can, else copied;
                  of files with several frames one file a frame, for training takes files of one slice
OUT/labels.csv    one line a slice: its series' label, and what reader and model said of the slice; written last
OUT/left-out.csv  the series that are not in it, with the reason
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from worker.db.engine import Database
from worker.db.readings import NOT_ASSESSABLE, ReadSeries, ReadSlice, read_series
from worker.errors import StartError
from worker.files import write_atomically
from worker.pixels.split_frames import NotDivisible, split_frames

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
    database: Database, data_dir: Path, out: Path, step: Callable[[int, int], None] = lambda done, total: None
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
    return None


def _take(one: ReadSeries, data_dir: Path, folder: Path) -> str | None:
    """The files of a series in a new folder; the reason where one is not what was received, and then no folder."""
    folder.mkdir()
    try:
        for path, slices in groupby(sorted(one.slices, key=lambda each: each.path), key=lambda each: each.path):
            _take_file(data_dir / path, list(slices), folder)
    except _Unusable as fault:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        return fault.reason
    return None


class _Unusable(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _take_file(source: Path, slices: Sequence[ReadSlice], folder: Path) -> None:
    """Link or copy one received file, or split it into the frames that are slices. Raises _Unusable."""
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != slices[0].sha256:
        raise _Unusable("images-damaged")
    ordinals = {each.frame_number: each.ordinal for each in slices}
    if None not in ordinals:
        try:
            wanted = {number: ordinal + 1 for number, ordinal in ordinals.items() if number is not None}
            for number, frame in split_frames(content, wanted):
                (folder / _file(ordinals[number])).write_bytes(frame)
        except NotDivisible:
            raise _Unusable("multi-frame") from None
        return
    target = folder / _file(ordinals[None])
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        target.write_bytes(content)


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
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, table.getvalue())
