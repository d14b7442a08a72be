"""`monai-train retrain`: fine-tune the present model on the site's confirmed series, offered only if not worse.

The run starts from the present model's weights and trains on its old training data and the site's together. Patients
are split by the rule and the shares of the present model, so those in its test part stay there: the frozen test. A
fifth of the site's patients (by the same rule) is never trained on; their whole series are classified as by the worker.

Both models classify the same pictures and series. The new model is offered only if, over resampled patients, the
interval of no difference in FIGURES lies below 0, no figure is lower by more than MARGIN, and the site's own balanced
accuracy is not lower at all. If one of them is undefined, for lack of a kept-out tumour for example, the new model is
not offered. The worker's models do not change.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from monai_train.config import TrainConfig, read_config
from monai_train.data.from_worker import SERIES
from monai_train.data.labels import class_name
from monai_train.data.manifest import MANIFEST_COLUMNS, ManifestRow, manifest_path, read_lines, read_manifest, write_csv
from monai_train.data.patients import SplitRole, learned_pictures, split_classes, split_sha256
from monai_train.evaluation.compare import ComparedModel, compare_measurements, comparison_json, comparison_markdown
from monai_train.evaluation.evaluate import (
    Measurement,
    TrainingSplit,
    bundle_classes,
    measure_bundle,
    read_split,
    select_pictures,
)
from monai_train.evaluation.metrics import Predictions
from monai_train.export.bundle_files import write_json, write_worker_json
from monai_train.export.export import export
from monai_train.networks.classifier import ServedNetwork
from monai_train.networks.registry import NETWORKS
from monai_train.training.train import train
from worker.errors import NotAssessable, StartError
from worker.inference.bundle import load_bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine
from worker.inference.golden import check_golden
from worker.results import SeriesResult

FIGURES = ("balanced_accuracy", "sensitivity", "specificity")
MARGIN = 0.01
FEW_PATIENTS = 30
EXIT_NOT_OFFERED = 1
# A few epochs at a low learning rate: the network already knows heads. --config overrides these.
FINE_TUNING = {"epochs": 10, "learning_rate": 3e-4, "samples_per_epoch": 2000}


@dataclass(frozen=True, slots=True)
class SiteSeries:
    """A confirmed series: its files in stack order, the label that the reader gave, its patient."""

    name: str
    files: tuple[Path, ...]
    label: str
    patient_group: str


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """Both models' figures by what they were measured on, and why the new model is not offered; if empty, it is."""

    bundle: Path
    compared: dict[str, list[ComparedModel]]
    faults: tuple[str, ...]
    patients: int  # of the site, kept out


def retrain(
    present: Path,
    base: Path,
    site: Path,
    run: Path,
    out: Path,
    config: TrainConfig,
    version: str,
    healthy: Path | None = None,
    console: Console | None = None,
) -> RetrainResult:
    """Fine-tune the bundle `present` on `base` and `site` (both converted), write the bundle OUT and compare the two.

    Raises StartError: a network that cannot be trained, other base data than the present model's, OUT that exists.
    """
    console = console or Console(stderr=True)
    if out.exists():
        raise StartError("out-exists", f"{out} exists already")
    split = read_split(present)
    rows = read_manifest(base)
    frozen = _frozen_test(present, rows, split)
    series = read_confirmed_series(site)
    kept_out = [confirmed for confirmed in series if is_kept_out(confirmed, split)]
    _combine(base, site, run / "data")
    together = read_manifest(run / "data")
    if split_classes(together, split.roles(together)) != bundle_classes(load_bundle(present)):
        raise StartError("other-classes", f"{base} and {site} have other classes than {present}")
    console.print(f"{len(series)} confirmed series, {len(kept_out)} of them kept out")
    train(run / "data", run, config, present / "models/model.safetensors", healthy, console)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as temporary:
        name = load_bundle(present).identity.name
        new = export(run, run / "data", Path(temporary) / "bundle", name, version, console)
        compared = _compare(present, new, base, [rows[i] for i in frozen], kept_out)
        faults = tuple(faults_of(compared))
        _describe(present, new, split_sha256(rows, split.roles(rows)), compared, faults)
        new.rename(out)
    return RetrainResult(out, compared, faults, len({confirmed.patient_group for confirmed in kept_out}))


def retrain_settings(present: Path, config: Path | None, **overrides: object) -> TrainConfig:
    """The configuration: FINE_TUNING, then the file's, then `overrides`; network and split are the present model's.

    Raises StartError for a network that monai-train does not have.
    """
    family, split = load_bundle(present).identity.family, read_split(present)
    if not isinstance(NETWORKS.get(family), ServedNetwork):
        raise StartError("other-network", f"{present} is a {family}, which monai-train cannot train")
    given = {key: value for key, value in overrides.items() if value is not None}
    own: dict[str, object] = {"network": family, "external": split.external}
    own |= {"test_share": split.test_share, "validation_share": split.validation_share}
    stored = read_config(config).model_dump(exclude_unset=True) if config else {}
    return read_config(None, **(FINE_TUNING | stored | given | own))


def _frozen_test(present: Path, rows: Sequence[ManifestRow], split: TrainingSplit) -> list[int]:
    """The present model's test part. Raises StartError for other data: which of it training used is unknown then."""
    stored = json.loads((present / "configs/metadata.json").read_text())["split"]
    roles = split.roles(rows)
    if split_sha256(rows, roles) not in (stored["split_sha256"], stored.get("base_split_sha256")):
        raise StartError("other-data", f"{present} was trained on other data than these: its test part is unknown")
    return select_pictures(rows, roles, SplitRole.TEST, True, learned_pictures(present))


def read_confirmed_series(site: Path) -> list[SiteSeries]:
    """Read the whole series of a folder that `convert --from-worker` wrote. Raises StartError for another folder."""
    path = site / SERIES
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except OSError as error:
        raise StartError("no-series", f"cannot read {path}: run `monai-train convert --from-worker`") from error
    slices_of: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        slices_of.setdefault(line["series"], []).append(line)
    return [
        SiteSeries(
            name,
            tuple(site / line["path"] for line in sorted(slices, key=lambda line: int(line["ordinal"]))),
            class_name(slices[0]["label"]),
            slices[0]["patient_group"],
        )
        for name, slices in slices_of.items()
    ]


def is_kept_out(series: SiteSeries, split: TrainingSplit) -> bool:
    """Whether the series' patient is in the test part of this split."""
    row = ManifestRow("", series.label, series.patient_group, "", "site", "", 0, 0, None, False)
    return split.roles([row]) == (SplitRole.TEST,)


def _combine(base: Path, site: Path, out: Path) -> None:
    """Write a manifest of both folders that names their files by absolute paths."""
    lines: list[dict[str, str]] = []
    extras = ("dataset", "label_conflict", "tumour_box_xywh")
    for folder in (base, site):
        root = manifest_path(folder).parent
        for line, row in zip(read_lines(folder), read_manifest(folder), strict=True):
            values = {column: line.values.get(column, "") for column in (*MANIFEST_COLUMNS, *extras)}
            lines.append(values | {"path": str((root / row.path).resolve()), "dataset": row.dataset})
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "manifest.csv", (*MANIFEST_COLUMNS, *extras), lines)


# --- both models side by side ----------------------------------------------------------------------------------


def _compare(
    present: Path, new: Path, base: Path, frozen: Sequence[ManifestRow], kept_out: Sequence[SiteSeries]
) -> dict[str, list[ComparedModel]]:
    names = ("present", "retrained")
    on_frozen = [measure_bundle(bundle, base, frozen) for bundle in (present, new)]
    compared = {
        f"frozen test, {level}": compare_measurements(names, on_frozen, f"{level}s") for level in ("slice", "patient")
    }
    if kept_out:
        on_site = [_classify_series(bundle, kept_out) for bundle in (present, new)]
        compared["site, series"] = compare_measurements(names, on_site, "slices")
    return compared


def _classify_series(folder: Path, series: Sequence[SiteSeries]) -> Measurement:
    """The worker's answer to each whole series; `slices` and `patients` are therefore the same."""
    bundle = load_bundle(folder)
    engine = OpenVinoEngine(bundle, "int8")
    results: list[SeriesResult | None] = []
    for confirmed in series:
        try:
            results.append(classify(confirmed.files, bundle, engine))
        except NotAssessable:
            results.append(None)
    names, classes = [served.name for served in bundle.identity.classes], bundle_classes(bundle)
    unreadable = [float("nan")] * len(names)
    probabilities = [
        [result.probabilities[name] for name in names] if result and result.probabilities else unreadable
        for result in results
    ]
    answers = Predictions(
        classes,
        np.array([classes.index(confirmed.label) for confirmed in series], np.int64),
        np.array(probabilities, np.float32),
        np.array([confirmed.patient_group for confirmed in series], np.str_),
        np.array([result is not None and result.label is not None for result in results], bool),
    )
    return Measurement(answers, answers)


def faults_of(compared: dict[str, list[ComparedModel]]) -> list[str]:
    """Why the new model is not offered, a line per reason."""
    faults = []
    if "site, series" not in compared:
        faults.append("no confirmed series was kept out: confirm series of more patients")
    for what, (_, new) in compared.items():
        differences = new.differences or {}
        for figure in FIGURES:
            name, difference = f"{what}: {figure.replace('_', ' ')}", differences[figure]
            if difference.value is None or difference.high is None:
                faults.append(f"{name} is undefined, n={difference.n}")
                continue
            margin = 0 if what.startswith("site") and figure == "balanced_accuracy" else MARGIN
            if difference.high < 0 or difference.value < -margin:
                faults.append(f"{name} {difference.value:+.3f} (n={difference.n})")
    return faults


def _describe(
    present: Path, out: Path, base_sha256: str, compared: dict[str, list[ComparedModel]], faults: Sequence[str]
) -> None:
    """Record in the bundle OUT its origin, the comparison, and the base data that its frozen test belongs to."""
    origin = load_bundle(present).identity.sha256
    metadata = json.loads((out / "configs/metadata.json").read_text())
    metadata["split"]["base_split_sha256"] = base_sha256
    metadata["retrained"] = {"from": origin, "compared": comparison_json(compared)}
    write_json(out / "configs/metadata.json", metadata)
    outcome = "not worse than the present model" if not faults else "; ".join(faults)
    tables = "\n\n".join(comparison_markdown(what, models) for what, models in compared.items())
    card = out / "docs/README.md"
    heading = f"## Retrained\nFrom the bundle {origin[:12]}, with a site's confirmed series: {outcome}."
    card.write_text(f"{card.read_text()}\n{heading}\n\n{tables}\n")
    described: dict[str, Any] = json.loads((out / "worker.json").read_text())
    write_worker_json(out, described)
    bundle = load_bundle(out)
    check_golden(bundle, OpenVinoEngine(bundle, "int8"))
