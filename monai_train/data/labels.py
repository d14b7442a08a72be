"""What an image shows and to whom it belongs: class folders, split folders, and the user's CSV or TSV of both."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from worker.errors import StartError

CLASS_NAMES = ("glioma", "meningioma", "pituitary", "notumor")
LABEL_NAMES = (*CLASS_NAMES, "tumor")  # what a picture can show: a class, or a tumour of unknown kind
NO_TUMOUR = LABEL_NAMES.index("notumor")
ANY_TUMOUR = LABEL_NAMES.index("tumor")

_ALIASES = {
    **dict.fromkeys(("no", "none", "normal", "healthy", "notumor", "notumour", "nontumor", "nontumour"), "notumor"),
    **dict.fromkeys(("yes", "tumor", "tumour", "braintumor", "braintumour"), "tumor"),
    **{
        name + ending: name for name in ("glioma", "meningioma", "pituitary") for ending in ("", "s", "tumor", "tumour")
    },
}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
_UNDERSTOOD = ("path", "series_instance_uid", "sop_instance_uid", "label", "split", "patient_group", "picture_group")
_MEASURED = ("source", "source_sha256", "rows", "columns")  # convert knows these itself


def class_name(text: str) -> str:
    """The class that a folder or a label means: `no_tumor` → notumor, `yes` → tumor, `Glioma_Tumour` → glioma.

    Any other name is kept, in lower case.
    """
    return _ALIASES.get(re.sub(r"[\s_-]+", "", text.lower()), text.strip().lower())


def label_index(text: str) -> int:
    """The index in LABEL_NAMES of what `class_name` reads in a label. StartError for any other class."""
    name = class_name(text)
    if name not in LABEL_NAMES:
        raise StartError("unknown-label", f"label {text!r} is none of {', '.join(LABEL_NAMES)}")
    return LABEL_NAMES.index(name)


def split_name(text: str) -> str:
    """`train`, `test`, `val` for the names such folders have, "" for any other."""
    return _SPLITS.get(text.strip().lower(), "")


def are_in_conflict(labels: set[str]) -> bool:
    """True where one picture cannot have all these labels; `tumor` leaves open which tumour it is."""
    any_tumour = LABEL_NAMES[ANY_TUMOUR]
    return len(labels - {any_tumour}) > 1 or {any_tumour, LABEL_NAMES[NO_TUMOUR]} <= labels


def folder_label(path: str, source: Path) -> tuple[str, str]:
    """(label, split) that the folders above an image say, the source folder itself included; "" where none does."""
    above = (source.name, *PurePosixPath(path).parts[:-1])
    split = next((s for s in map(split_name, reversed(above)) if s), "")
    return ("" if split_name(above[-1]) else class_name(above[-1])), split


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What the user's file says of one image or series; "" where it says nothing."""

    label: str = ""
    split: str = ""
    patient_group: str = ""
    picture_group: str = ""
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A CSV/TSV of labels and groups, by path, by series or by instance."""

    folder: Path
    by_path: Mapping[str, LabelRow]
    by_uid: Mapping[str, LabelRow]
    extra_columns: tuple[str, ...]

    def match(self, paths: Sequence[str], source: Path) -> dict[str, LabelRow]:
        """The rows that name these paths (relative to `source`).

        The file's paths may be relative to `source`, to a folder above it (`cheng/…` where source is …/cheng) or to
        the file's own folder inside it: the reading that finds most images counts.
        Raises StartError where two readings find equally many different rows.
        """
        top = source.resolve()
        above = ["/".join(top.parts[-k:]) + "/" for k in range(1, len(top.parts))]
        readings = [[prefix + path for path in paths] for prefix in ("", *above)]
        if self.folder != top and self.folder.is_relative_to(top):
            own = self.folder.relative_to(top).as_posix() + "/"
            readings.append([path.removeprefix(own) if path.startswith(own) else "" for path in paths])
        found = [
            {
                p: self.by_path[key]
                for p, read in zip(paths, reading, strict=True)
                if (key := _plain(read)) in self.by_path
            }
            for reading in readings
        ]
        found.sort(key=len, reverse=True)
        if len(found) > 1 and found[0] and len(found[0]) == len(found[1]):
            raise StartError("ambiguous-paths", "the groups file's paths can be read relative to two folders")
        return found[0]


def read_label_file(path: Path) -> LabelFile:
    """Read a CSV or TSV with `path`, `series_instance_uid` or `sop_instance_uid`, and `label` or `patient_group`.

    Raises StartError: missing, not a table, columns unknown, or one image named twice with different content.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StartError("labels-unreadable", f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartError("labels-unreadable", f"{path} is not UTF-8 text") from None
    try:
        columns, rows = _table(text)
    except csv.Error as error:
        raise StartError("labels-unreadable", f"{path} is no table: {error}") from None
    keys = [c for c in ("path", "sop_instance_uid", "series_instance_uid") if c in columns]
    if not keys or not {"label", "patient_group"} & set(columns):
        raise StartError(
            "unknown-columns",
            f"{path} needs a column path, series_instance_uid or sop_instance_uid, and label or patient_group; "
            f"it has: {', '.join(columns) or 'none'}",
        )
    extras = tuple(c for c in columns if c and c not in _UNDERSTOOD + _MEASURED)
    by_path: dict[str, LabelRow] = {}
    by_uid: dict[str, LabelRow] = {}
    for number, values in enumerate(rows, start=2):
        key = next((key for key in keys if values[key].strip()), None)  # a row of one image also names its series
        if key is None:
            continue
        name = _plain(values[key])
        row = _label_row(values, extras)
        if (by_path if key == "path" else by_uid).setdefault(name, row) != row:
            raise StartError("labels-contradict", f"{path} row {number} names an image again and says another thing")
    return LabelFile(path.resolve().parent, by_path, by_uid, extras)


def _table(text: str) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of tab-, comma- or semicolon-separated text. Raises csv.Error."""
    delimiter = max("\t,;", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    columns = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    return columns, list(reader)


def _label_row(values: Mapping[str, str], extras: tuple[str, ...]) -> LabelRow:
    label = values.get("label", "").strip()
    return LabelRow(
        class_name(label) if label else "",
        split_name(values.get("split", "")),
        values.get("patient_group", "").strip(),
        values.get("picture_group", "").strip(),
        {column: values[column] for column in extras},
    )


def _plain(path: str) -> str:
    """One spelling a path: `/` between parts, no leading `./`, composed Unicode (macOS decomposes file names)."""
    return unicodedata.normalize("NFC", path.strip().replace("\\", "/")).removeprefix("./")
