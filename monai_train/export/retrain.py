"""`monai-train retrain`: the present model learns from the site's confirmed series, and is offered only if not worse.

The run starts from the present model's weights and learns from its old training data and the site's together. Patients
are parted by the rule and the shares of the present model, so who was in its test part stays there: the frozen test.
A fifth of the site's patients (that rule again) is never trained on; their whole series are judged as the worker would.

Both models answer the same pictures and series. The new one is offered only if, over resampled patients, no figure of
FIGURES is surely lower, none is lower by more than MARGIN, and the site's own balanced accuracy is not lower at all.
Where one of them is not known, for want of a kept-out tumour say, nothing is offered. The worker's models stay.
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
from monai_train.data.labels import CLASS_NAMES, label_index
from monai_train.data.manifest import MANIFEST_COLUMNS, ManifestRow, manifest_path, read_lines, read_manifest, write_csv
from monai_train.data.patients import SplitRole, split_sha256
from monai_train.evaluation.compare import ComparedModel, compare_measurements, comparison_json, comparison_markdown
from monai_train.evaluation.evaluate import Measurement, TrainingSplit, measure_bundle, read_split, select_pictures
from monai_train.evaluation.metrics import Predictions
from monai_train.export.export import export, write_worker_json
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
FEW_PATIENTS = 30  # patients
EXIT_NOT_OFFERED = 1
# A few gentle epochs: the network knows heads already. --config changes what is given here.
FINE_TUNING = {"epochs": 10, "learning_rate": 3e-4, "samples_per_epoch": 2000}


@dataclass(frozen=True, slots=True)
class SiteSeries:
    """One confirmed series: its files in stack order, what the reader said, and whose it is."""

    name: str
    files: tuple[Path, ...]
    label: int
    patient_group: str


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """Both models' figures by what they were measured on, and why the new one is not offered (empty: it is)."""

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
    """Train from the bundle `present` on `base` and `site` (both converted), write the bundle OUT and judge it.

    Raises StartError: a present model that cannot be trained on, other base data than its own, OUT that exists.
    """
    console = console or Console(stderr=True)
    if out.exists():
        raise StartError("out-exists", f"{out} exists already")
    split = read_split(present)
    rows = read_manifest(base)
    frozen = _frozen_test(present, rows, split)
    series = read_series(site)
    kept_out = [one for one in series if _is_kept_out(one, split)]
    _combine(base, site, run / "data")
    console.print(f"{len(series)} confirmed series, {len(kept_out)} of them kept out")
    train(run / "data", run, config, present / "models/model.safetensors", healthy, console)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as temporary:
        made = export(
            run, run / "data", Path(temporary) / "bundle", load_bundle(present).identity.name, version, console
        )
        compared = _compare(present, made, base, [rows[i] for i in frozen], kept_out)
        faults = tuple(_faults(compared))
        _describe(present, made, split_sha256(rows, split.roles(rows)), compared, faults)
        made.rename(out)
    return RetrainResult(out, compared, faults, len({one.patient_group for one in kept_out}))


def retrain_settings(present: Path, config: Path | None, **overrides: object) -> TrainConfig:
    """The configuration: FINE_TUNING, then the file's, then `overrides`; network and split are the present model's.

    Raises StartError for a model of a network that is not ours.
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
    """The present model's test part. StartError where these are not its data: then nobody knows what it has seen."""
    stored = json.loads((present / "configs/metadata.json").read_text())["split"]
    roles = split.roles(rows)
    if split_sha256(rows, roles) not in (stored["split_sha256"], stored.get("base_split_sha256")):
        raise StartError("other-data", f"{present} was trained on other data than these: its test part is not known")
    return select_pictures(rows, roles, SplitRole.TEST, deduplicated=True)


def read_series(site: Path) -> list[SiteSeries]:
    """The whole series of a folder that `convert --from-worker` wrote. StartError where it is none."""
    path = site / SERIES
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except OSError as error:
        raise StartError("no-series", f"cannot read {path}: run `monai-train convert --from-worker`") from error
    found: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        found.setdefault(line["series"], []).append(line)
    return [
        SiteSeries(
            name,
            tuple(site / line["path"] for line in sorted(members, key=lambda line: int(line["ordinal"]))),
            label_index(members[0]["label"]),
            members[0]["patient_group"],
        )
        for name, members in found.items()
    ]


def _is_kept_out(one: SiteSeries, split: TrainingSplit) -> bool:
    row = ManifestRow("", one.label, one.patient_group, "", "site", "", 0, 0, None, False)
    return split.roles([row]) == (SplitRole.TEST,)


def _combine(base: Path, site: Path, out: Path) -> None:
    """One manifest of both that names their files where they are."""
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
    measured = [measure_bundle(one, base, frozen) for one in (present, new)]
    found = {
        f"frozen test, {level[:-1]}": compare_measurements(names, measured, level) for level in ("slices", "patients")
    }
    if kept_out:
        of_site = [_judge(one, kept_out) for one in (present, new)]
        found["site, series"] = compare_measurements(names, of_site, "slices")
    return found


def _judge(folder: Path, series: Sequence[SiteSeries]) -> Measurement:
    """What the worker would say of each series; whole series, so `slices` and `patients` hold the same."""
    bundle = load_bundle(folder)
    engine = OpenVinoEngine(bundle, "int8")
    results: list[SeriesResult | None] = []
    for one in series:
        try:
            results.append(classify(one.files, bundle, engine))
        except NotAssessable:
            results.append(None)
    nothing = [float("nan")] * len(CLASS_NAMES)
    probabilities = [
        [one.probabilities[name] for name in CLASS_NAMES] if one is not None and one.probabilities else nothing
        for one in results
    ]
    answers = Predictions(
        np.array([one.label for one in series], np.int64),
        np.array(probabilities, np.float32),
        np.array([one.patient_group for one in series], np.str_),
        np.array([one is not None and one.label is not None for one in results], bool),
    )
    return Measurement(answers, answers)


def _faults(compared: dict[str, list[ComparedModel]]) -> list[str]:
    """Why the new model is not offered, a sentence each."""
    faults = []
    if "site, series" not in compared:
        faults.append("no confirmed series was kept out: more patients must be confirmed before anything can be said")
    for what, (_, new) in compared.items():
        differences = new.differences or {}
        for figure in FIGURES:
            one = differences[figure]
            if one.value is None or one.high is None:
                faults.append(f"{what}: {figure.replace('_', ' ')} is not known, n={one.n}")
                continue
            told = f"{what}: {figure.replace('_', ' ')} {one.value:+.3f} (n={one.n})"
            of_site = what.startswith("site") and figure == "balanced_accuracy"
            if one.high < 0 or one.value < (0 if of_site else -MARGIN):
                faults.append(told)
    return faults


def _describe(
    present: Path, out: Path, base_sha256: str, compared: dict[str, list[ComparedModel]], faults: Sequence[str]
) -> None:
    """Say in the bundle what it came from, how the two compare, and which base data its frozen test is of."""
    metadata = json.loads((out / "configs/metadata.json").read_text())
    metadata["split"]["base_split_sha256"] = base_sha256
    metadata["retrained"] = {"from": load_bundle(present).identity.sha256, "compared": comparison_json(compared)}
    (out / "configs/metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    judgement = "not worse than the present model" if not faults else "; ".join(faults)
    card = out / "docs/README.md"
    tables = "\n\n".join(comparison_markdown(what, models) for what, models in compared.items())
    text = (
        f"\n## Retrained\nFrom the bundle {load_bundle(present).identity.sha256[:12]}, with a site's confirmed series: "
    )
    card.write_text(f"{card.read_text()}{text}{judgement}.\n\n{tables}\n")
    described: dict[str, Any] = json.loads((out / "worker.json").read_text())
    write_worker_json(out, described)
    bundle = load_bundle(out)
    check_golden(bundle, OpenVinoEngine(bundle, "int8"))
