"""The goals of the default model beside what was measured: the table that `monai-train evaluate-default` prints first.

Slices are measured as `evaluate` does; whole series and the kinds that are named, by `worker.inference.classify`.
Pictures that the model learned from, and their patients, are left out, but for the few real series of several vendors:
there the row says how many were learned from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from monai_train.data.dataset import series_files
from monai_train.data.labels import NO_TUMOUR, class_name
from monai_train.data.manifest import ManifestRow, manifest_path, read_manifest
from monai_train.data.patients import PREFIX, learned_pictures
from monai_train.evaluation.binomial import counted_interval
from monai_train.evaluation.evaluate import Measurement
from monai_train.evaluation.metrics import BoolArray, binary_figures, level_figures
from monai_train.evaluation.tables import markdown_table
from worker.errors import NotAssessable, StartError
from worker.inference.bundle import load_bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine

DEVELOPMENT = "lgg"  # whole series of patients with a tumour: its test part is the development test
REAL_SERIES = "mr-series"  # of several vendors, heads and others; too few to leave out those that were learned from
_EQUAL_LEVELS = (0.25, 0.85)  # of a series, where slices with and without a tumour both occur
_SKULL_BASE = 0.25  # of a series, from its first slice
_TIMED = 24  # slices, in a batch

Answer = tuple[str | None, bool]  # the label, None if there is none, and whether it is on the lesion


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured share, or error, and its bound: at least, or at most; `value` is None where nothing was measured."""

    value: float | None
    bound: float
    at_least: bool = True
    interval: Sequence[float] | None = None
    n: int | None = None

    @property
    def missing(self) -> float:
        """By how much the bound is missed; 0 where it is reached."""
        if self.value is None:
            return 0.0
        return max(0.0, self.bound - self.value if self.at_least else self.value - self.bound)

    def text(self) -> str:
        """In percent, with interval and n."""
        if self.value is None:
            return "-"
        known = [] if self.interval is None else [f"{100 * self.interval[0]:.1f}-{100 * self.interval[1]:.1f}"]
        known += [] if self.n is None else [f"n={self.n}"]
        return f"{100 * self.value:.1f} %" + (f" ({', '.join(known)})" if known else "")


@dataclass(frozen=True, slots=True)
class GoalRow:
    """What is measured, the goal in words, and the figures."""

    measure: str
    goal: str
    figures: tuple[Figure, ...]
    note: str = ""

    def cells(self) -> tuple[str, str, str, str]:
        """Measure, goal, measured, verdict."""
        measured = " / ".join(figure.text() for figure in self.figures)
        return self.measure, self.goal, "; ".join(filter(None, (measured, self.note))), self._verdict()

    def _verdict(self) -> str:
        if all(figure.value is None for figure in self.figures):
            return "not measured"
        missed = [f"{100 * figure.missing:.1f}" for figure in self.figures if figure.missing > 0]
        return f"missed by {' / '.join(missed)}" if missed else "reached"


def goals_markdown(rows: Iterable[GoalRow]) -> str:
    """The table under its heading."""
    table = markdown_table(("measure", "goal", "measured", ""), [row.cells() for row in rows])
    return f"### Goals, patients apart, int8\n\n{table}"


def stored_goals(crossval: Path | None, series_type: Path | None) -> list[GoalRow]:
    """The rows that other programs measure, from what they wrote; a row without a file names its program.

    `crossval` is report.json of `monai-train crossval`, `series_type` the JSON of `benchmarks/series_type.py`. Raises
    StartError for a file that cannot be read or holds something else.
    """
    folds: tuple[Figure, ...] = ()
    if crossval is not None:
        with _stored(crossval) as found:
            bounds = (("patient", 0.95), ("slice", 0.94))
            folds = tuple(_share(found[level], "balanced_accuracy", bound, n="n") for level, bound in bounds)
    types: tuple[Figure, ...] = ()
    if series_type is not None:
        with _stored(series_type) as found:
            share = int(found["right"]) / int(found["n"])
            types = (Figure(share, 0.97, interval=counted_interval(share, int(found["n"])), n=int(found["n"])),)
    return [
        GoalRow(
            "Cheng, five folds, balanced accuracy: patients / slices",
            ">= 95 / >= 94 %",
            folds,
            "" if folds else "`monai-train crossval --dataset cheng`",
        ),
        GoalRow(
            "series type right, real series", ">= 97 %", types, "" if types else "`benchmarks/series_type.py --truth`"
        ),
    ]


@contextmanager
def _stored(path: Path) -> Iterator[dict[str, Any]]:
    """The content of a JSON file; a key that is missing inside the block is an error of the file."""
    try:
        yield json.loads(path.read_text())
    except OSError as error:
        raise StartError("unreadable-data", f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise StartError("unreadable-data", f"{path} does not hold the figures that are looked for") from error


def measure_goals(folder: Path, data: Path, measured: Mapping[str, Measurement]) -> list[GoalRow]:
    """Every row of the goals for a bundle and a converted folder; `measured` is of `measure_split` on the same."""
    return _Goals(folder, data, measured).rows()


class _Goals:
    """A bundle, a converted folder, and what was measured of its slices."""

    def __init__(self, folder: Path, data: Path, measured: Mapping[str, Measurement]) -> None:
        self._data, self._measured = data, measured
        self._every = read_manifest(data)
        self._learned = learned_pictures(folder)
        self._rows = {key: measurement.rows for key, measurement in measured.items()}
        self._bundle = load_bundle(folder)
        self._engine = OpenVinoEngine(self._bundle)

    def rows(self) -> list[GoalRow]:
        """Every row, in the order of the goals."""
        return [
            *(self._slices(name) for name in ("T1", "T1C", "FLAIR")),
            *(self._series(name) for name in ("T1", "T1C", "FLAIR")),
            self._patients(),
            self._skull_base(),
            *(self._other_diagnoses(name) for name in ("T1", "T1C", "T2")),
            self._kinds(),
            self._four_classes(),
            self._external(),
            self._no_head(),
            self._healthy(),
            *(self._calibration(name) for name in ("T1", "T1C", "FLAIR")),
            self._int8(),
            self._time(),
        ]

    def _chosen(self, part: str, wanted: Callable[[ManifestRow], bool]) -> BoolArray:
        return np.array([wanted(row) for row in self._rows[part]], bool)

    def _binary(self, part: str, wanted: Callable[[ManifestRow], bool]) -> dict[str, Any]:
        if part not in self._measured:
            return {}
        return binary_figures(self._measured[part].slices.select(self._chosen(part, wanted)))

    def _slices(self, sequence: str) -> GoalRow:
        low, high = _EQUAL_LEVELS
        found = self._binary(
            "test",
            lambda row: row.dataset == DEVELOPMENT and row.sequence == sequence and low <= _level(row) < high,
        )
        figures = (
            _share(found, "sensitivity", 0.95, n="n_tumour"),
            _share(found, "specificity", 0.95, n="n_no_tumour"),
            _share(found, "not_assessed", 0.10, at_least=False),
        )
        return GoalRow(
            f"{DEVELOPMENT}, {sequence}, slices of equal levels: sensitivity / specificity / not assessed",
            ">= 95 / >= 95 / <= 10 %",
            figures,
        )

    def _series(self, sequence: str) -> GoalRow:
        def own(row: ManifestRow) -> bool:
            return row.dataset == DEVELOPMENT and row.sequence == sequence

        answers = self._whole([row for row in self._rows["test"] if own(row)])
        found = [label is not None and label != NO_TUMOUR for label, _ in answers]
        on_lesion = [hit for (_, hit), lesion in zip(answers, found, strict=True) if lesion]
        return GoalRow(
            f"{DEVELOPMENT}, {sequence}, whole series: tumour found / by slices on the lesion",
            ">= 95 / >= 95 %",
            (_counted(found, 0.95), _counted(on_lesion, 0.95)),
        )

    def _patients(self) -> GoalRow:
        patients = self._measured["test"].patients
        own = {row.patient_group for row in self._rows["test"] if row.dataset == DEVELOPMENT}
        found = binary_figures(patients.select(np.isin(patients.groups, sorted(own))))
        return GoalRow(
            f"{DEVELOPMENT}, patients, slices with and without a tumour apart: sensitivity / specificity",
            ">= 95 / >= 95 %",
            (_share(found, "sensitivity", 0.95, n="n_tumour"), _share(found, "specificity", 0.95, n="n_no_tumour")),
        )

    def _skull_base(self) -> GoalRow:
        figures = []
        for sequence in ("T1", "T1C", "FLAIR"):

            def base(row: ManifestRow, sequence: str = sequence) -> bool:
                lowest = row.label == NO_TUMOUR and _level(row) < _SKULL_BASE
                return row.dataset == DEVELOPMENT and row.sequence == sequence and lowest

            found = self._binary("test", base)
            figures.append(_share(found, "false_alarms", 0.08, at_least=False, n="n_no_tumour"))
        return GoalRow("skull base called a tumour, T1 / T1C / FLAIR", "<= 8 % each", tuple(figures))

    def _other_diagnoses(self, sequence: str) -> GoalRow:
        lesions = self._binary(
            "external", lambda row: row.dataset == "feltrin" and row.sequence == sequence and row.label != NO_TUMOUR
        )
        free = self._binary("test", lambda row: row.sequence == sequence and row.label == NO_TUMOUR)
        return GoalRow(
            f"feltrin, diagnoses never trained on, {sequence}: any lesion found / not assessed / specificity of the "
            "test part",
            ">= 92 / <= 12 / >= 94 %",
            (
                _share(lesions, "sensitivity", 0.92, n="n_tumour"),
                _share(lesions, "not_assessed", 0.12, at_least=False),
                _share(free, "specificity", 0.94, n="n_no_tumour"),
            ),
        )

    def _kinds(self) -> GoalRow:
        figures = []
        for sequence in ("FLAIR", "T2"):
            rows = [
                row
                for part in ("test", "external")
                for row in self._rows.get(part, ())
                if row.label == "glioma" and row.sequence == sequence
            ]
            others = {name for name in self._classes() if name not in ("glioma", NO_TUMOUR)}
            answers = [self._answer([row])[0] for row in track(rows, "kinds", console=_console(), transient=True)]
            figures.append(_counted([answer in others for answer in answers], 0.05, at_least=False))
        return GoalRow("gliomas named another kind, each slice alone, FLAIR / T2", "<= 5 % each", tuple(figures))

    def _classes(self) -> list[str]:
        return [class_name(served.name) for served in self._bundle.identity.classes]

    def _four_classes(self) -> GoalRow:
        wanted = self._chosen("test", lambda row: row.dataset in ("cheng", "nickparvar"))
        found = level_figures(self._measured["test"].slices.select(wanted))
        figure = Figure(found["balanced_accuracy"], 0.95, True, found["balanced_accuracy_ci"], found["n"])
        return GoalRow("four classes, Cheng and Nickparvar: balanced accuracy of slices", ">= 95 %", (figure,))

    def _external(self) -> GoalRow:
        found = self._binary("external", lambda row: row.dataset == "navoneel")
        return GoalRow(
            "Navoneel, never trained on: sensitivity / specificity",
            ">= 93 / >= 93 %",
            (_share(found, "sensitivity", 0.93, n="n_tumour"), _share(found, "specificity", 0.93, n="n_no_tumour")),
        )

    def _no_head(self) -> GoalRow:
        rows = [row for row in self._every if row.dataset == REAL_SERIES and row.region == "other"]
        answers = self._whole(rows)
        return GoalRow(
            "real series that are no structural brain MRI: given a class",
            "<= 1 %",
            (_counted([label is not None for label, _ in answers], 0.01, at_least=False),),
            self._known(rows),
        )

    def _healthy(self) -> GoalRow:
        rows = [
            row
            for row in self._every
            if row.dataset in ("ms", REAL_SERIES)
            and row.label == NO_TUMOUR
            and row.series
            and row.sequence in ("T1", "T2", "FLAIR")
            and (row.dataset == REAL_SERIES or not self._was_learned(row))
        ]
        answers = [label for label, _ in self._whole(rows)]
        return GoalRow(
            'whole series without a tumour, T1, T2 and FLAIR: called a tumour / answered "no tumour"',
            "0 / >= 70 %",
            (
                _counted([label not in (None, NO_TUMOUR) for label in answers], 0.0, at_least=False),
                _counted([label == NO_TUMOUR for label in answers], 0.70),
            ),
            self._known(rows),
        )

    def _calibration(self, sequence: str) -> GoalRow:
        wanted = self._chosen("test", lambda row: row.dataset == DEVELOPMENT and row.sequence == sequence)
        found = level_figures(self._measured["test"].slices.select(wanted))
        figure = Figure(found["ece"], 0.04, at_least=False, n=found["n"])
        return GoalRow(f"calibration error, {DEVELOPMENT}, {sequence}", "<= 4 %", (figure,))

    def _int8(self) -> GoalRow:
        int8, fp32 = (level_figures(self._measured[key].slices)["balanced_accuracy"] for key in ("test", "test-fp32"))
        return GoalRow(
            "int8 against fp32: balanced accuracy of the test part lost",
            "<= 0.5 %",
            (Figure(max(0.0, fp32 - int8), 0.005, at_least=False),),
        )

    def _time(self) -> GoalRow:
        size = self._bundle.preprocessing.size
        tensor = np.random.default_rng(0).random((_TIMED, 1, size, size), np.float32)
        self._engine.run(tensor)
        start = time.process_time()
        self._engine.run(tensor)
        spent = 1000 * (time.process_time() - start) / _TIMED
        return GoalRow("a slice's time in the network", "2 x that of 0.3.0", (), f"{spent:.1f} ms of a core")

    def _whole(self, rows: Sequence[ManifestRow]) -> list[Answer]:
        """The worker's answer to each whole series of these rows."""
        chosen: dict[str, list[ManifestRow]] = {}
        for row in rows:
            chosen.setdefault(row.series or row.patient_group, []).append(row)
        files = series_files(self._data, rows)
        by_path = {row.path: row for row in self._every}
        return [
            self._answer([by_path[path] for path in files[name]] if name in files else own)
            for name, own in track(chosen.items(), "whole series", console=_console(), transient=True)
        ]

    def _answer(self, rows: Sequence[ManifestRow]) -> Answer:
        ordered = sorted(rows, key=lambda row: row.slice_number or 0)
        root = manifest_path(self._data).parent
        try:
            result = classify([root / row.path for row in ordered], self._bundle, self._engine)
        except NotAssessable:
            return None, False
        if result.reason is not None or result.label is None:
            return None, False
        deciding = [index for index, each in enumerate(result.slices) if each.deciding]
        hit = any((ordered[index].tumour_pixels or 0) > 0 for index in deciding if index < len(ordered))
        return class_name(result.label), hit

    def _was_learned(self, row: ManifestRow) -> bool:
        return row.source_sha256[:PREFIX] in self._learned

    def _known(self, rows: Sequence[ManifestRow]) -> str:
        own = {row.series or row.patient_group for row in rows}
        known = {row.series or row.patient_group for row in rows if self._was_learned(row)}
        return f"{len(known)} of {len(own)} were learned from" if known else ""


def _console() -> Console:
    return Console(stderr=True)


def _level(row: ManifestRow) -> float:
    """Where in its series a slice lies, from 0 to 1; NaN where unknown."""
    if row.slice_number is None or not row.slice_count:
        return float("nan")
    return (row.slice_number - 0.5) / row.slice_count


def _share(found: Mapping[str, Any], name: str, bound: float, *, at_least: bool = True, n: str | None = None) -> Figure:
    """A figure of `binary_figures`, with its interval."""
    return Figure(found.get(name), bound, at_least, found.get(f"{name}_ci"), found.get(n) if n is not None else None)


def _counted(hits: Sequence[bool], bound: float, *, at_least: bool = True) -> Figure:
    """The share of series, each of another patient or close to it, with its exact interval."""
    if not hits:
        return Figure(None, bound, at_least)
    share = sum(hits) / len(hits)
    return Figure(share, bound, at_least, counted_interval(share, len(hits)), len(hits))
