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
from monai_train.evaluation.cohorts import EvaluatedModel, evaluated_bundle, evaluated_runs
from monai_train.evaluation.evaluate import Measurement, select_pictures
from monai_train.evaluation.intervals import Estimate, estimates, paired_differences
from monai_train.evaluation.tables import markdown_table
from worker.errors import StartError
from worker.inference.engines import Precision

FIGURES = ("balanced_accuracy", "accuracy", "sensitivity", "specificity", "auc.tumour", "mcc", "brier", "ece")


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """A model's figures, and their paired differences from the first model's (None for the first)."""

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
    """Measure every model on the same deduplicated part of the split; by `slice` and by `patient`.

    Raises StartError unless all models have the same patients in that part.
    """
    if len(models) < 2:
        raise StartError("usage", "compare needs two models or more")
    rows = read_manifest(data)
    evaluated = [_evaluated(path, precision, flip) for path in models]
    chosen = _common_part(rows, evaluated, role)
    measured = [model.examine(data, rows, chosen)[0] for model in evaluated]
    names = [path.name if [p.name for p in models].count(path.name) == 1 else str(path) for path in models]
    return {
        "slice": compare_measurements(names, measured, "slices"),
        "patient": compare_measurements(names, measured, "patients"),
    }


def _evaluated(path: Path, precision: Precision, flip: bool) -> EvaluatedModel:
    return evaluated_bundle(path, precision, flip) if (path / "worker.json").is_file() else evaluated_runs([path], flip)


def _common_part(rows: Sequence[ManifestRow], models: Sequence[EvaluatedModel], role: SplitRole) -> list[int]:
    parts = []
    for model in models:
        if model.split is None:
            raise StartError("no-split", f"{model.name} does not say how its training data were split")
        roles = model.split.roles(rows)
        if split_sha256(rows, roles) != model.split.split_sha256:
            raise StartError("other-data", f"{model.name} was trained on other data: its split of these is unknown")
        parts.append(select_pictures(rows, roles, role, deduplicated=True))
    if any(part != parts[0] for part in parts):
        raise StartError("other-split", "these models do not have the same patients in this part of their splits")
    return parts[0]


def compare_measurements(names: Sequence[str], measured: Sequence[Measurement], level: str) -> list[ComparedModel]:
    """The figures of each model's `slices` or `patients`, and their paired differences from the first model's."""
    answers = [getattr(measurement, level) for measurement in measured]
    return [
        ComparedModel(name, estimates(own), None if index == 0 else paired_differences(own, answers[0]))
        for index, (name, own) in enumerate(zip(names, answers, strict=True))
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


def _difference(difference: Estimate) -> str:
    """The difference with its interval, and `*` if that excludes 0."""
    if difference.value is None:
        return "-"
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.3f}"
    star = "" if difference.low <= 0 <= difference.high else " *"
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f}){star}"


def comparison_json(by_level: dict[str, list[ComparedModel]]) -> dict[str, Any]:
    """The content of `compare --json`."""
    return {
        level: [
            {
                "name": model.name,
                "figures": {key: value.to_json() for key, value in model.figures.items()},
                "difference_from_first": model.differences and {k: v.to_json() for k, v in model.differences.items()},
            }
            for model in models
        ]
        for level, models in by_level.items()
    }


def balanced_accuracy_chart(models: Sequence[ComparedModel]) -> bytes:
    """Balanced accuracy of each model and its difference from the first model's, PNG."""
    none = Estimate(None, None, None, 0)
    key = "balanced_accuracy"
    differences = [none if model.differences is None else model.differences[key] for model in models]
    return plots.comparison_chart(
        [model.name for model in models], [model.figures[key] for model in models], differences
    )
