"""The labels: the classes of a run, class and split folders, and the user's CSV or TSV of labels and groups."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from worker.errors import StartError

KNOWN_CLASSES = ("glioma", "meningioma", "pituitary", "other", "notumor")  # in this order; others follow
NO_TUMOUR = "notumor"
ANY_TUMOUR = "tumor"  # a lesion of unknown kind
UNLABELLED = -1  # the index of a picture without a label

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
_MEASURED = ("source", "source_sha256", "rows", "columns")  # determined by convert


def class_name(text: str) -> str:
    """Normalise the name of a class: `no_tumor` → notumor, `yes` → tumor, `Glioma_Tumour` → glioma.

    Any other name is returned in lower case.
    """
    return _ALIASES.get(re.sub(r"[\s_-]+", "", text.lower()), text.strip().lower())


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a run or a bundle, in the order of the network's logits; `no_tumour` is the index of "no lesion".

    Every other class is a lesion. What a picture shows is the index of a class, `any_tumour` for a lesion of unknown
    kind, or UNLABELLED.
    """

    names: tuple[str, ...]
    no_tumour: int

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """The classes of these names, in this order. Raises StartError: a name twice, no "notumor", no lesion."""
        if len(set(names)) < len(names) or NO_TUMOUR not in names:
            raise StartError("classes-invalid", f"the classes {', '.join(names)} are not {NO_TUMOUR} and others, once")
        if len(names) < 2:
            raise StartError("classes-invalid", f"the labels name no lesion: there is no class but {NO_TUMOUR}")
        return cls(tuple(names), names.index(NO_TUMOUR))

    @classmethod
    def of(cls, labels: Iterable[str]) -> Classes:
        """The classes of these labels and "notumor": the known ones in their order, then the others by name.

        A lesion of unknown kind is a class where no kind is named. Raises StartError without any lesion.
        """
        found = {label for label in labels if label} | {NO_TUMOUR}
        kinds = found - {ANY_TUMOUR}
        if len(kinds) > 1:
            found = kinds
        others = sorted(found - set(KNOWN_CLASSES))
        return cls.named([*(name for name in KNOWN_CLASSES if name in found), *others])

    def __len__(self) -> int:
        return len(self.names)

    @property
    def any_tumour(self) -> int:
        """The index of a lesion of unknown kind."""
        return len(self.names)

    @property
    def lesions(self) -> list[int]:
        """The indices of the classes that are lesions."""
        return [index for index in range(len(self.names)) if index != self.no_tumour]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of all that a picture can show, by index."""
        return (*self.names, ANY_TUMOUR)

    def index(self, label: str) -> int:
        """The index of what a picture shows. A lesion that is none of the classes is a lesion of unknown kind."""
        if not label:
            return UNLABELLED
        if label == NO_TUMOUR:
            return self.no_tumour
        return self.names.index(label) if label in self.names else self.any_tumour


def split_name(text: str) -> str:
    """`train`, `test` or `val` for the usual names of such folders, "" for any other name."""
    return _SPLITS.get(text.strip().lower(), "")


def are_in_conflict(labels: set[str]) -> bool:
    """Whether these labels contradict each other; `tumor` is compatible with every kind of tumour."""
    return len(labels - {ANY_TUMOUR}) > 1 or labels >= {ANY_TUMOUR, NO_TUMOUR}


def folder_label(path: str, source: Path) -> tuple[str, str]:
    """(label, split) by the folders above an image, the source folder included; "" if no folder names it."""
    above = (source.name, *PurePosixPath(path).parts[:-1])
    split = next((name for name in map(split_name, reversed(above)) if name), "")
    return ("" if split_name(above[-1]) else class_name(above[-1])), split


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A row of the user's file on one image or series; "" where it has no value.

    With `final`, a row without a label says that the image has none, whatever its folder is called.
    """

    label: str = ""
    split: str = ""
    patient_group: str = ""
    picture_group: str = ""
    extras: Mapping[str, str] = field(default_factory=dict)
    final: bool = False


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A CSV/TSV of labels and groups, by path, by series or by instance."""

    folder: Path
    by_path: Mapping[str, LabelRow]
    by_uid: Mapping[str, LabelRow]
    extra_columns: tuple[str, ...]

    def match(self, paths: Sequence[str], source: Path) -> dict[str, LabelRow]:
        """Find the rows that name these paths (relative to `source`).

        The file's paths may be relative to `source`, to a folder above it (`cheng/…` where source is …/cheng) or to
        the file's own folder inside it: the base that matches most images is used.
        Raises StartError if two bases match equally many.
        """
        top = source.resolve()
        above = ["/".join(top.parts[-k:]) + "/" for k in range(1, len(top.parts))]
        candidates = [[prefix + path for path in paths] for prefix in ("", *above)]
        if self.folder != top and self.folder.is_relative_to(top):
            own = self.folder.relative_to(top).as_posix() + "/"
            candidates.append([path.removeprefix(own) if path.startswith(own) else "" for path in paths])
        matches = [
            {
                path: self.by_path[key]
                for path, name in zip(paths, names, strict=True)
                if (key := _normalised_path(name)) in self.by_path
            }
            for names in candidates
        ]
        matches.sort(key=len, reverse=True)
        if len(matches) > 1 and matches[0] and len(matches[0]) == len(matches[1]):
            raise StartError("ambiguous-paths", "the paths of the groups file match relative to two folders")
        return matches[0]


def read_label_file(path: Path) -> LabelFile:
    """Read a CSV or TSV with `path`, `series_instance_uid` or `sop_instance_uid`, and `label` or `patient_group`.

    Raises StartError: missing, not a table, unknown columns, or an image in two rows that differ.
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
        raise StartError("labels-unreadable", f"{path} is not a table: {error}") from None
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
        key = next((key for key in keys if values[key].strip()), None)  # a row on one image also names its series
        if key is None:
            continue
        name = _normalised_path(values[key])
        row = _label_row(values, extras)
        if (by_path if key == "path" else by_uid).setdefault(name, row) != row:
            raise StartError("labels-contradict", f"{path} row {number} names an image again, with other values")
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


def _normalised_path(path: str) -> str:
    """The path with `/` between its parts, no leading `./`, in composed Unicode (macOS decomposes file names)."""
    return unicodedata.normalize("NFC", path.strip().replace("\\", "/")).removeprefix("./")
