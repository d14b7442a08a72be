"""A run's best checkpoint → a bundle (docs/bundle.md): weights, OpenVINO networks, statistics, golden cases, card.

Temperature, thresholds and out-of-distribution limits are fitted on the validation part by the engine that will serve
(int8); the test part is measured once, for the card.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import binomtest

from monai_train.data.manifest import read_manifest
from monai_train.evaluation.evaluate import Measurement, common_classes, measure_split
from monai_train.evaluation.metrics import right_answers
from monai_train.export.bundle_files import uncalibrated_description, write_configs, write_json, write_worker_json
from monai_train.export.calibration import calibrate, write_statistics
from monai_train.export.coded_classes import coded_classes
from monai_train.export.drawn_figures import drawn_figures
from monai_train.export.engine_networks import write_networks, write_weights
from monai_train.export.golden import write_golden_series
from monai_train.export.model_card import TITLES, data_section, licence, model_card
from monai_train.export.run_inputs import average_runs, read_run
from monai_train.networks.outputs import OutputLayout
from monai_train.training.checkpoint import BEST, read_checkpoint
from worker.errors import StartError
from worker.inference.bundle import load_bundle
from worker.inference.engines import OpenVinoEngine, TorchEngine
from worker.inference.golden import check_golden, golden_case
from worker.inference.series_rule import softmax

MAXIMUM_BYTES = 30_000_000
ENGINE_TOLERANCE = 1e-3
_OTHER_PROCESSORS = 0.05  # additional tolerance of int8 for another CPU than this
_LOST_BY_INT8 = 0.5  # points of balanced accuracy on the test part
_CHANCE = 0.05


def export(
    run: Path,
    data: Path,
    out: Path,
    name: str,
    version: str,
    console: Console | None = None,
    average_with: Sequence[Path] = (),
    concepts: Path | None = None,
) -> Path:
    """Write the bundle to OUT, which must not exist yet, and check it as the worker would; returns OUT.

    With `average_with`, other runs of the same network on the same split, the mean of all weights is exported.
    `concepts` is the file of coded_classes. Raises StartError: data other than the run's, a class without a concept,
    engines that disagree, int8 that loses too much, over 30 MB.
    """
    console = console or Console(stderr=True)
    if out.exists():
        raise StartError("out-exists", f"{out} exists already")
    best = read_checkpoint(run / BEST)
    names = common_classes([best])
    layout = OutputLayout.of(best.config, len(names))
    classes = coded_classes(names, concepts, neoplasms_only=not layout.sequences)
    inputs = read_run(run, data, best)
    if average_with:
        inputs = average_runs(inputs, run, average_with, console)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "bundle"
        for subfolder in ("configs", "models", "golden", "docs"):
            (folder / subfolder).mkdir(parents=True)
        console.print("networks: torch, OpenVINO fp32 and int8")
        write_weights(inputs.model, folder / "models/model.safetensors")
        write_networks(inputs.model, inputs.training, folder / "models")
        write_configs(folder / "configs", inputs, version)
        write_json(folder / "golden/expected.json", {"tolerance": {}, "cases": []})
        (folder / "docs/README.md").write_text("# to be written\n")
        described = uncalibrated_description(inputs, name, version, classes)
        write_statistics(folder, described, inputs)
        console.print("calibration on the validation part, by the int8 engine")
        calibrate(folder, described, inputs)
        _write_golden_cases(folder, described)
        console.print("figures of the test part and of the external sets")
        measured = measure_split(folder, data)
        datasets = data_section(
            read_manifest(data), inputs.config.external, inputs.provenance.get("healthy_sha256", "")
        )
        card = model_card(described, inputs.config, inputs.provenance, datasets, measured)
        (folder / "docs/README.md").write_text(card)
        (folder / "LICENSE.md").write_text(licence(datasets) + "\n")
        (folder / "docs/figures.json").write_text(json.dumps(drawn_figures(measured, TITLES)) + "\n")
        write_worker_json(folder, described)
        _check(folder, measured)
        folder.rename(out)
    return out


def _write_golden_cases(folder: Path, described: dict[str, Any]) -> None:
    series = write_golden_series(folder / "golden")
    write_worker_json(folder, described)
    bundle = load_bundle(folder)
    engine = OpenVinoEngine(bundle, "fp32")
    cases = [
        golden_case(bundle, engine, name, [path.relative_to(folder).as_posix() for path in paths])
        for name, paths in series.items()
    ]
    tolerance = {"fp32": ENGINE_TOLERANCE, "int8": 1.0}
    write_json(folder / "golden/expected.json", {"tolerance": tolerance, "cases": cases})
    # How far int8 is from fp32 on these heads does not measure its quality, which the test part does; it is stored so
    # that another machine can tell whether it computes the same.
    write_worker_json(folder, described)
    difference = check_golden(load_bundle(folder), OpenVinoEngine(bundle, "int8"))
    tolerance["int8"] = round(difference + _OTHER_PROCESSORS, 3)
    write_json(folder / "golden/expected.json", {"tolerance": tolerance, "cases": cases})
    write_worker_json(folder, described)


def _check(folder: Path, measured: dict[str, Measurement]) -> None:
    """Check what docs/bundle.md promises of a bundle. Raises StartError."""
    bundle = load_bundle(folder)
    int8, fp32 = OpenVinoEngine(bundle, "int8"), OpenVinoEngine(bundle, "fp32")
    for engine in (int8, fp32):
        check_golden(bundle, engine)
    generator = np.random.default_rng(0)
    tensor = generator.random((4, 1, bundle.preprocessing.size, bundle.preprocessing.size), np.float32)
    by_torch, by_openvino = (softmax(engine.run(tensor).logits) for engine in (TorchEngine(bundle), fp32))
    if np.abs(by_torch - by_openvino).max() > ENGINE_TOLERANCE:
        raise StartError("engines-disagree", "torch and OpenVINO fp32 give different probabilities")
    _require_fine_int8(measured["test-fp32"], measured["test"])
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAXIMUM_BYTES:
        raise StartError("bundle-too-large", f"the bundle has {size / 1e6:.1f} MB: choose a slimmer network")


def _require_fine_int8(full: Measurement, quantised: Measurement) -> None:
    """Raise StartError when int8 loses more balanced accuracy than it may, by more pictures than chance explains.

    Compares the pictures that only one of the two networks answers correctly (McNemar's exact test): in a test part of
    16, a single picture is 6 points.
    """
    before, after = (part.to_json()["slice"]["balanced_accuracy"] for part in (full, quantised))
    points = 100 * (before - after)
    right = [right_answers(part.slices) for part in (full, quantised)]
    only_full, only_int8 = (int((one & ~other).sum()) for one, other in (right, right[::-1]))
    by_chance = binomtest(only_full, max(1, only_full + only_int8), alternative="greater").pvalue
    if points > _LOST_BY_INT8 and by_chance < _CHANCE:
        raise StartError("int8-too-coarse", f"int8 loses {points:.1f} points of balanced accuracy")
