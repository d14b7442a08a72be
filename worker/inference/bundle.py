"""Load and verify a model bundle: docs/bundle.md is the contract.

Nothing of a bundle runs before it is verified: every file is listed and hashed, configurations hold neither `$`
expressions nor a `_target_` outside the allow-list, weights are safetensors. A fault is a StartError with
a one-line message.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from worker.errors import StartError
from worker.inference.bundle_schema import (
    AcceptedInput,
    Aggregation,
    Described,
    FormatThree,
    FormatTwo,
    Input,
    OutOfDistribution,
    Thresholds,
    describe,
    identity_of,
)
from worker.inference.study.fusion import EQUAL_WEIGHTS, StudyRule
from worker.inference.transforms.allowed import TARGETS, MonaiTransforms
from worker.pixels.arrays import FloatArray
from worker.results import ModelIdentity

if TYPE_CHECKING:  # reading the identity alone needs neither numpy nor pydicom
    from worker.inference.preprocess import Preprocessing
    from worker.inference.series_rule import SeriesDecision

NETWORK_TARGETS = frozenset(
    {
        "monai.networks.nets.ResNet",
        "monai.networks.nets.DenseNet",
        "monai.networks.nets.SEResNet50",
        "monai.networks.nets.EfficientNet",
        "worker.inference.efficientnet_lite.EfficientNetLite0",
    }
)
ALLOWED_TARGETS = (
    NETWORK_TARGETS
    | TARGETS
    | {
        "worker.inference.preprocess.Preprocessing",
        "worker.inference.run_bundle.run_bundle",
    }
)
ALLOWED_SUFFIXES = frozenset({".json", ".safetensors", ".xml", ".bin", ".md", ".txt", ".dcm"})
REQUIRED_FILES = (
    "configs/metadata.json",
    "configs/inference.json",
    "models/model.safetensors",
    "models/model.xml",
    "models/model.bin",
    "models/model_fp32.xml",
    "models/model_fp32.bin",
    "models/features.safetensors",
    "golden/expected.json",
    "docs/README.md",
)
# Of a model that was trained elsewhere: whoever has an ONNX or TorchScript file has no weights for torch, and the int8
# engine runs the network at full precision.
OPTIONAL_IN_THREE = frozenset({"models/model.safetensors", "models/model.xml", "models/model.bin"})

_MOST_FILES = 10_000
_LARGEST_JSON = 64 << 20  # bytes


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of training features: `mean` [F], `components` [K, F] orthonormal, `scale` [K] their deviations."""

    mean: FloatArray
    components: FloatArray
    scale: FloatArray


@dataclass(frozen=True)
class TopSlices:
    """The series rule of formats 1 and 3: the mean of the slices that are likeliest to show a finding."""

    temperature: float
    aggregation: Aggregation
    thresholds: Thresholds


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    `definition` of the preprocessing. `network` is inference.json's network_def, the constructor arguments of a MONAI
    network; None where the bundle has none. `mirror`: every slice is run as it is and mirrored left to right, and the
    two outputs are averaged. `input`: what the network of a bundle of format 3 reads.
    """

    folder: Path
    identity: ModelIdentity
    definition: Preprocessing | MonaiTransforms
    network: Mapping[str, Any] | None
    mirror: bool
    rule: TopSlices | SeriesDecision
    out_of_distribution: OutOfDistribution
    statistics: FeatureStatistics
    accepted_input: AcceptedInput
    study: StudyRule = EQUAL_WEIGHTS
    input: Input | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """The worker's own preprocessing. Raises StartError for a bundle of format 3."""
        if isinstance(self.definition, MonaiTransforms):
            raise StartError("bundle-format", "this needs a model bundle of format 1 or 2")
        return self.definition

    @property
    def is_of_volumes(self) -> bool:
        """The network reads a series at once and gives it a single answer."""
        return self.input is not None and self.input.kind == "volume"

    @property
    def outputs(self) -> int:
        """The number of logits of a slice."""
        return len(self.identity.classes) if isinstance(self.rule, TopSlices) else self.rule.layout.outputs

    @property
    def top_slices(self) -> TopSlices:
        """The rule of formats 1 and 3. Raises StartError for a bundle of format 2."""
        if not isinstance(self.rule, TopSlices):
            raise StartError("bundle-format", "this needs a model bundle of format 1 or 3")
        return self.rule

    @property
    def decision(self) -> SeriesDecision:
        """The rule of format 2. Raises StartError for a bundle of another format."""
        if isinstance(self.rule, TopSlices):
            raise StartError("bundle-format", "this needs a model bundle of format 2")
        return self.rule

    @property
    def temperature(self) -> float:
        return self.top_slices.temperature

    @property
    def aggregation(self) -> Aggregation:
        return self.top_slices.aggregation

    @property
    def thresholds(self) -> Thresholds:
        return self.top_slices.thresholds

    @property
    def weights(self) -> Path:
        return self.folder / "models/model.safetensors"

    def openvino_model(self, precision: Literal["int8", "fp32"]) -> Path:
        """The network; of a bundle without a network for int8, that at full precision."""
        int8, fp32 = self.folder / "models/model.xml", self.folder / "models/model_fp32.xml"
        return int8 if precision == "int8" and int8.is_file() else fp32


def default_bundle() -> Path:
    """The bundle that is installed with the worker. Raises StartError unless there is exactly one bundle."""
    bundles = Path(str(resources.files("worker"))) / "bundles"
    folders = sorted(path.parent for path in bundles.glob("*/worker.json"))
    if len(folders) != 1:
        raise StartError("bundle-missing", f"{len(folders)} model bundles are installed with the worker instead of one")
    return folders[0]


def verified_identity(folder: Path) -> ModelIdentity:
    """Verify every file of a bundle and return its identity; nothing is loaded. Raises as `load_bundle`."""
    described, sha256 = _described(folder)
    _verify_files(folder, described)
    _check_outputs(_read_configurations(folder, described.files)["configs/inference.json"], described)
    return identity_of(described, sha256)


def load_bundle(folder: Path) -> Bundle:
    """Verify every file of a bundle and load it.

    Raises StartError: bundle-missing, bundle-corrupt, bundle-unsafe.
    """
    from worker.inference.preprocess import Preprocessing

    described, sha256 = _described(folder)
    _verify_files(folder, described)
    inference = _read_configurations(folder, described.files)["configs/inference.json"]
    network, preprocessing = inference.get("network_def"), inference.get("preprocessing")
    is_imported = isinstance(described, FormatThree)
    if (not isinstance(network, dict) and not (is_imported and network is None)) or not isinstance(preprocessing, dict):
        raise StartError("bundle-corrupt", "configs/inference.json lacks preprocessing or network_def")
    if network is not None and network.get("_target_") not in NETWORK_TARGETS:
        raise StartError("bundle-corrupt", "the network_def of configs/inference.json names no known network")
    _check_outputs(inference, described)
    return Bundle(
        folder=folder,
        identity=identity_of(described, sha256),
        definition=(MonaiTransforms if is_imported else Preprocessing).from_json(preprocessing),
        network=network,
        mirror=described.mirror,
        rule=_rule(described),
        out_of_distribution=described.out_of_distribution,
        statistics=_statistics(folder / "models/features.safetensors"),
        accepted_input=described.accepted_input,
        study=_study_rule(described),
        input=described.input if isinstance(described, FormatThree) else None,
    )


def _check_outputs(inference: Mapping[str, Any], described: Described) -> None:
    network = inference.get("network_def")
    for key in ("num_classes", "out_channels"):
        count = network.get(key) if isinstance(network, dict) else None
        if count is not None and count != described.outputs_of_a_slice:
            fault = f"{key} is {shown(str(count))}, but worker.json describes {described.outputs_of_a_slice} outputs"
            raise StartError("bundle-corrupt", f"the network_def of configs/inference.json: {fault}")


def _rule(described: Described) -> TopSlices | SeriesDecision:
    if not isinstance(described, FormatTwo):
        return TopSlices(described.temperature, described.aggregation, described.thresholds)
    from worker.inference.series_rule import Layout, SequenceRule, SeriesDecision, SeriesLimits

    classes = described.classes
    layout = Layout(
        classes=tuple(item.name for item in classes),
        no_lesion=next(item.name for item in classes if item.finding is None),
        sequences=described.outputs.sequences,
        regions=described.outputs.regions,
    )
    rules = {name: SequenceRule(**rule.model_dump()) for name, rule in described.decision.items()}
    limits = SeriesLimits(**described.series.model_dump())
    return SeriesDecision(layout, limits, rules, described.undetermined.name)


def _study_rule(described: Described) -> StudyRule:
    section = described.study if isinstance(described, FormatTwo) else None
    return StudyRule(**section.model_dump()) if section else EQUAL_WEIGHTS


def _described(folder: Path) -> tuple[Described, str]:
    """worker.json and its SHA-256, which names the bundle."""
    if not (folder / "worker.json").is_file():
        raise StartError("bundle-missing", f"there is no model bundle at {folder} (no worker.json)")
    raw = _json_bytes(folder, "worker.json")
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        raise StartError("bundle-corrupt", "worker.json of the model bundle is not JSON") from None
    try:
        return describe(values), hashlib.sha256(raw).hexdigest()
    except ValueError as error:
        raise StartError("bundle-corrupt", f"worker.json of the model bundle: {shown(str(error))}") from None


def _json_bytes(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise StartError("bundle-unsafe", f"model bundle: {name} is a link or no file")
    if path.stat().st_size > _LARGEST_JSON:
        raise StartError("bundle-corrupt", f"model bundle: {name} exceeds {_LARGEST_JSON >> 20} MiB")
    return path.read_bytes()


def _verify_files(folder: Path, described: Described) -> None:
    """Check that the folder holds exactly the listed files, unchanged, and none of a kind that could be executed."""
    listed = described.files
    required = set(REQUIRED_FILES) - (OPTIONAL_IN_THREE if isinstance(described, FormatThree) else set())
    present: set[str] = set()
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if len(present) > _MOST_FILES or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            fault = f"has more than {_MOST_FILES:,} files" if len(present) > _MOST_FILES else "holds a link or no file"
            raise StartError("bundle-unsafe", f"the model bundle {fault}: {shown(path.relative_to(folder).as_posix())}")
        if stat.S_ISREG(mode) and path != folder / "worker.json":
            present.add(path.relative_to(folder).as_posix())
    for name in sorted(present ^ listed.keys()):
        fault = "is not listed in worker.json" if name in present else "is missing"
        raise StartError("bundle-corrupt", f"model bundle: {shown(name)} {fault}")
    for name in sorted(required):
        if name not in present:
            raise StartError("bundle-corrupt", f"model bundle: {name} is missing")
    for name in sorted(present):
        path = folder / name
        if path.suffix not in ALLOWED_SUFFIXES:
            raise StartError("bundle-unsafe", f"model bundle: {shown(name)} has a file type that is not allowed")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listed[name]:
                raise StartError(
                    "bundle-corrupt",
                    f"model bundle: {shown(name)} is not the exported file: its SHA-256 differs from worker.json",
                )


def shown(name: str) -> str:
    """A file's name for a message: what a terminal would act on is escaped, and it is cut at 200 characters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name[:200])


def _read_configurations(folder: Path, listed: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every JSON file of the bundle but worker.json; refused where MONAI would run more from it than our networks."""
    configurations: dict[str, dict[str, Any]] = {}
    for name in sorted(name for name in listed if name.endswith(".json")):
        try:
            configuration = json.loads(_json_bytes(folder, name))
            entries = list(_entries(configuration))
        except (ValueError, RecursionError):
            raise StartError("bundle-corrupt", f"model bundle: {shown(name)} is not JSON") from None
        if not isinstance(configuration, dict):
            raise StartError("bundle-corrupt", f"model bundle: {shown(name)} is not a JSON object")
        for key, value in entries:
            if any(isinstance(text, str) and text.lstrip().startswith(("$", "%")) for text in (key, value)):
                raise StartError("bundle-unsafe", f"model bundle: {shown(name)} contains an expression")
            if key == "_target_" and not (isinstance(value, str) and value in ALLOWED_TARGETS):
                raise StartError("bundle-unsafe", f"model bundle: {shown(name)} has a _target_ that is not allowed")
            if key == "pretrained" and value is not False:
                raise StartError("bundle-unsafe", f"model bundle: {shown(name)} would download pretrained weights")
        configurations[name] = configuration
    return configurations


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested objects and arrays; an array's items have its key."""
    yield key, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _entries(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, key)


def _statistics(path: Path) -> FeatureStatistics:
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        mean, components, scale = (arrays[name].astype(np.float32) for name in ("mean", "components", "scale"))
    except (SafetensorError, KeyError):
        raise StartError("bundle-corrupt", "models/features.safetensors lacks mean, components or scale") from None
    fits = components.ndim == 2 and mean.shape == components.shape[1:] and scale.shape == components.shape[:1]
    if not fits or not math.isfinite(float(mean.sum() + components.sum() + scale.sum())) or not (scale > 0).all():
        raise StartError(
            "bundle-corrupt", "models/features.safetensors holds arrays whose shapes or values do not match"
        )
    return FeatureStatistics(mean, components, scale)
