"""`worker readings export OUT`: the series with a reader's class, for `monai-train convert --from-worker`.

OUT/images/…      the received DICOM files, verified by their hashes; hard links where the file system supports them,
                  otherwise copies; a multi-frame file becomes a file per frame, as training reads files of one slice
OUT/labels.csv    a line per slice: the label of its series, and reader and model on the slice; written last
OUT/left-out.csv  the series that are left out, with the reason
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from worker.db.engine import Database
from worker.db.readings import ReadSeries, ReadSlice, is_finding, read_series
from worker.errors import StartError
from worker.files import write_atomically
from worker.pixels.split_frames import NotDivisible, split_frames

LABELS = "labels.csv"
COLUMNS = ("path", "label", "series", "ordinal", "marked", "deciding", "in_distribution", "answer", "dataset")
SITE = "site"  # the data set of every exported series


@dataclass(frozen=True, slots=True)
class Exported:
    """The numbers of series and slices written, and the series left out with the reason."""

    series: int
    slices: int
    left_out: tuple[tuple[str, str], ...]


def export_readings(
    database: Database, data_dir: Path, out: Path, step: Callable[[int, int], None] = lambda done, total: None
) -> Exported:
    """Write the folder, which must be new or empty. Raises StartError when it is neither or cannot be written."""
    lines: list[dict[str, str]] = []
    left_out: list[tuple[str, str]] = []
    series = 0
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
        if any(path.name != "images" for path in out.iterdir()) or any((out / "images").iterdir()):
            raise StartError("out-not-empty", f"{out} is not empty")
        with database.read() as session:
            rows = list(read_series(session))
        for number, read in enumerate(rows, 1):
            name = _name(read)
            reason = _reason_to_leave_out(read) or _export_images(read, data_dir, out / "images" / name)
            if reason:
                left_out.append((name, reason))
            else:
                series += 1
                lines += _lines(read, name)
            step(number, len(rows))
        _write(out / "left-out.csv", ("series", "reason"), ({"series": name, "reason": why} for name, why in left_out))
        _write(out / LABELS, COLUMNS, lines)
    except OSError as error:
        raise StartError("export-unwritable", f"cannot write {out}: {error.strerror}") from None
    return Exported(series, len(lines), tuple(left_out))


def _name(read: ReadSeries) -> str:
    """A name that is the same in every export and does not reveal the UID."""
    return f"series-{hashlib.sha256(read.series_instance_uid.encode()).hexdigest()[:16]}"


def _reason_to_leave_out(read: ReadSeries) -> str | None:
    if not is_finding(read.label, read.labels):
        return read.label
    if not read.slices:
        return "no-result"  # the slices of a series are known from its result only
    if any(slice_.removed for slice_ in read.slices):
        return "images-deleted"
    return None


def _export_images(read: ReadSeries, data_dir: Path, folder: Path) -> str | None:
    """Write the images of a series to a new folder; the reason, and no folder, where a file cannot be exported."""
    folder.mkdir()
    try:
        for path, slices in groupby(sorted(read.slices, key=attrgetter("path")), key=attrgetter("path")):
            _export_file(data_dir / path, list(slices), folder)
    except _Unusable as fault:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        return fault.reason
    return None


class _Unusable(Exception):
    """A file that cannot be exported."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _export_file(source: Path, slices: Sequence[ReadSlice], folder: Path) -> None:
    """Link or copy one received file, or split it into the frames that are slices. Raises _Unusable."""
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != slices[0].sha256:
        raise _Unusable("images-damaged")
    ordinals = {slice_.frame_number: slice_.ordinal for slice_ in slices}
    if None not in ordinals:
        try:
            positions = {number: ordinal + 1 for number, ordinal in ordinals.items() if number is not None}
            for number, frame in split_frames(content, positions):
                (folder / _file(ordinals[number])).write_bytes(frame)
        except NotDivisible:
            raise _Unusable("multi-frame") from None
        return
    target = folder / _file(ordinals[None])
    try:
        os.link(source, target)
    except OSError:  # the file systems differ, or have no hard links
        target.write_bytes(content)


def _file(ordinal: int) -> str:
    return f"{ordinal:04d}.dcm"


def _lines(read: ReadSeries, name: str) -> Iterable[dict[str, str]]:
    for slice_ in read.slices:
        values = (
            f"images/{name}/{_file(slice_.ordinal)}",
            read.label,
            name,
            str(slice_.ordinal),
            _yes(slice_.ordinal in read.marked),
            _yes(slice_.deciding),
            _yes(slice_.in_distribution),
            read.answer or "",
            SITE,
        )
        yield dict(zip(COLUMNS, values, strict=True))


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, table.getvalue())
