"""`monai-train compare`: runs and bundles on the same pictures, with the paired bootstrap of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from monai_train.data.manifest import ManifestRow, read_manifest
from monai_train.data.patients import SplitRole, split_sha256
from monai_train.evaluation import plots
from monai_train.evaluation.evaluate import Measurement, select_pictures
from monai_train.evaluation.intervals import Estimate, estimates, paired_differences
from monai_train.evaluation.report import EvaluatedModel, evaluated_bundle, evaluated_runs
from monai_train.evaluation.tables import markdown_table
from worker.errors import StartError
from worker.inference.engines import Precision

FIGURES = ("balanced_accuracy", "accuracy", "sensitivity", "specificity", "auc.tumour", "mcc", "brier", "ece")


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One model's figures, and each one's paired difference from the first model's (None for the first)."""

    name: str
    figures: dict[str, Estimate]
    differences: dict[str, Estimate] | None


def compare(
    models: Sequence[Path],
    data: Path,
    role: SplitRole = SplitRole.TEST,
    precision: Precision = "int8",
    flip: bool = False,
) -> dict[str, list[ComparedModel]]:
    """Every model on one part of the split, one image a picture; by `slice` and by `patient`.

    Raises StartError unless all models kept the same patients apart.
    """
    if len(models) < 2:
        raise StartError("usage", "compare needs two models or more")
    rows = read_manifest(data)
    subjects = [_subject(path, precision, flip) for path in models]
    chosen = _same_part(rows, subjects, role)
    measured = [subject.examine(data, rows, chosen)[0] for subject in subjects]
    names = [path.name if [p.name for p in models].count(path.name) == 1 else str(path) for path in models]
    return {
        "slice": compare_measurements(names, measured, "slices"),
        "patient": compare_measurements(names, measured, "patients"),
    }


def _subject(path: Path, precision: Precision, flip: bool) -> EvaluatedModel:
    return evaluated_bundle(path, precision, flip) if (path / "worker.json").is_file() else evaluated_runs([path], flip)


def _same_part(rows: Sequence[ManifestRow], subjects: Sequence[EvaluatedModel], role: SplitRole) -> list[int]:
    found = []
    for subject in subjects:
        if subject.split is None:
            raise StartError("no-split", f"{subject.name} does not say how its training data were split")
        roles = subject.split.roles(rows)
        if split_sha256(rows, roles) != subject.split.split_sha256:
            raise StartError("other-data", f"{subject.name} was trained on other data: who was kept apart is not known")
        found.append(select_pictures(rows, roles, role, deduplicated=True))
    if any(one != found[0] for one in found):
        raise StartError("other-split", "these models did not keep the same patients apart")
    return found[0]


def compare_measurements(names: Sequence[str], measured: Sequence[Measurement], level: str) -> list[ComparedModel]:
    answers = [getattr(one, level) for one in measured]
    return [
        ComparedModel(name, estimates(one), None if index == 0 else paired_differences(one, answers[0]))
        for index, (name, one) in enumerate(zip(names, answers, strict=True))
    ]


def _rows(models: Sequence[ComparedModel]) -> list[tuple[str, str, str, str, str]]:
    """Figure, n, model, value with its interval, difference from the first model with its interval."""
    return [
        (
            key.replace("_", " ").replace(".", ", "),
            str(model.figures[key].n),
            model.name,
            model.figures[key].text(),
            _difference(model.differences[key]) if model.differences else "",
        )
        for key in FIGURES
        for model in models
    ]


def _header(models: Sequence[ComparedModel]) -> tuple[str, ...]:
    return "figure", "n", "model", "value (95 %)", f"minus {models[0].name} (95 %)"


def comparison_table(title: str, models: Sequence[ComparedModel]) -> Table:
    """Figures of each model with intervals and n, and the difference from the first, for the terminal."""
    table = Table(*_header(models), title=title, title_justify="left")
    for number, (figure, n, *cells) in enumerate(_rows(models)):
        shared = (figure, n) if number % len(models) == 0 else ("", "")  # named once a figure
        table.add_row(*shared, *cells, end_section=(number + 1) % len(models) == 0)
    return table


def comparison_markdown(title: str, models: Sequence[ComparedModel]) -> str:
    """The same as a GFM table under a heading of the third level."""
    return f"### {title}\n\n{markdown_table(_header(models), _rows(models))}"


def _difference(one: Estimate) -> str:
    """The difference, `*` where its interval leaves out zero."""
    if one.value is None or one.low is None or one.high is None:
        return "-"
    star = "" if one.low <= 0 <= one.high else " *"
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f}){star}"


def comparison_json(found: dict[str, list[ComparedModel]]) -> dict[str, Any]:
    """The content of `compare --json`."""
    return {
        level: [
            {
                "name": one.name,
                "figures": {key: value.to_json() for key, value in one.figures.items()},
                "difference_from_first": one.differences and {k: v.to_json() for k, v in one.differences.items()},
            }
            for one in models
        ]
        for level, models in found.items()
    }


def balanced_accuracy_chart(models: Sequence[ComparedModel]) -> bytes:
    """Balanced accuracy of each model and its difference from the first, PNG."""
    nothing = Estimate(None, None, None, 0)
    key = "balanced_accuracy"
    differences = [nothing if one.differences is None else one.differences[key] for one in models]
    return plots.comparison_chart([one.name for one in models], [one.figures[key] for one in models], differences)
