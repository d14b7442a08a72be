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
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.errors import StartError
from worker.pixels.arrays import FloatArray
from worker.results import CodedConcept, ModelClass, ModelIdentity

if TYPE_CHECKING:  # reading the identity alone needs neither numpy nor pydicom
    from worker.inference.preprocess import Preprocessing

NETWORK_TARGETS = frozenset(
    {
        "monai.networks.nets.ResNet",
        "monai.networks.nets.DenseNet",
        "monai.networks.nets.SEResNet50",
        "monai.networks.nets.EfficientNet",
        "worker.inference.efficientnet_lite.EfficientNetLite0",
    }
)
ALLOWED_TARGETS = NETWORK_TARGETS | {
    "worker.inference.preprocess.Preprocessing",
    "worker.inference.run_bundle.run_bundle",
}
ALLOWED_SUFFIXES = frozenset({".json", ".safetensors", ".xml", ".bin", ".md", ".dcm"})
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

_MOST_FILES = 10_000
_LARGEST_JSON = 64 << 20  # bytes


def _printable(text: str) -> str:
    """Refuse what a terminal or a log would act on: escape sequences, line breaks, changes of the writing direction."""
    if not text.isprintable():
        raise ValueError("contains a character that is not printable")
    return text


Text = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_printable)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Aggregation(_Strict):
    """The number of deciding slices: max(top_k, ceil(top_fraction x slices))."""

    top_k: int = Field(ge=1)
    top_fraction: Fraction


class Thresholds(_Strict):
    """Minima below which a series is not assessed: probability of its best class, fraction of slices in distribution.

    `minimum_no_neoplasm` may be higher, for a class that is no neoplasm: a missed tumour is worse than no answer.
    """

    minimum_probability: Fraction
    minimum_in_distribution: Fraction
    minimum_no_neoplasm: Fraction = 0.0

    def needed(self, neoplasm: bool) -> float:
        """The minimum probability for a class to be the answer."""
        return self.minimum_probability if neoplasm else max(self.minimum_probability, self.minimum_no_neoplasm)


class OutOfDistribution(_Strict):
    """Limits beyond which a slice does not count; see `aggregate.distance_and_residual`."""

    maximum_distance: Positive
    maximum_residual: Positive


class AcceptedInput(_Strict):
    """What series the model accepts; `minimum_rows` is for the shorter side, `maximum_pixels` for rows x columns."""

    modalities: tuple[Text, ...] = Field(min_length=1, strict=False)
    minimum_slices: int = Field(ge=1)
    minimum_rows: int = Field(ge=1)
    maximum_pixels: int = Field(ge=1)


class _Code(_Strict):
    value: Text
    scheme: Text
    meaning: Text


class _Class(_Strict):
    name: Text
    title: Text
    neoplasm: bool
    finding: _Code | None
    site: _Code

    @model_validator(mode="after")
    def _finding_says_neoplasm(self) -> _Class:
        if self.neoplasm == (self.finding is None):
            raise ValueError("a class has a finding exactly when it is a neoplasm")
        return self


class _WorkerJson(_Strict):
    format: Literal[1]
    name: Text
    version: Text
    family: Text
    manufacturer: Text
    created: AwareDatetime = Field(strict=False)
    commit: Text
    training_data_sha256: Sha256
    limits: Text
    classes: tuple[_Class, ...] = Field(min_length=2, strict=False)
    mirror: bool = False
    temperature: Positive
    aggregation: Aggregation
    thresholds: Thresholds
    out_of_distribution: OutOfDistribution
    accepted_input: AcceptedInput
    files: dict[str, Sha256]

    @model_validator(mode="after")
    def _names_are_distinct(self) -> _WorkerJson:
        if len({model_class.name for model_class in self.classes}) < len(self.classes):
            raise ValueError("two classes have the same name")
        return self


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of training features: `mean` [F], `components` [K, F] orthonormal, `scale` [K] their deviations."""

    mean: FloatArray
    components: FloatArray
    scale: FloatArray


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    `network` is inference.json's network_def, the constructor arguments of a MONAI network. `mirror`: every slice is
    run as it is and mirrored left to right, and the two outputs are averaged.
    """

    folder: Path
    identity: ModelIdentity
    preprocessing: Preprocessing
    network: Mapping[str, Any]
    mirror: bool
    temperature: float
    aggregation: Aggregation
    thresholds: Thresholds
    out_of_distribution: OutOfDistribution
    statistics: FeatureStatistics
    accepted_input: AcceptedInput

    @property
    def weights(self) -> Path:
        return self.folder / "models/model.safetensors"

    def openvino_model(self, precision: Literal["int8", "fp32"]) -> Path:
        return self.folder / ("models/model.xml" if precision == "int8" else "models/model_fp32.xml")


def default_bundle() -> Path:
    """The bundle that is installed with the worker. Raises StartError unless there is exactly one."""
    bundles = Path(str(resources.files("worker"))) / "bundles"
    folders = sorted(path.parent for path in bundles.glob("*/worker.json"))
    if len(folders) != 1:
        raise StartError("bundle-missing", f"{len(folders)} model bundles are installed with the worker instead of one")
    return folders[0]


def verified_identity(folder: Path) -> ModelIdentity:
    """Verify every file of a bundle and return its identity; nothing is loaded. Raises as `load_bundle`."""
    described, sha256 = _described(folder)
    _verify_files(folder, described.files)
    _read_configurations(folder, described.files)
    return _identity(described, sha256)


def load_bundle(folder: Path) -> Bundle:
    """Verify every file of a bundle and load it.

    Raises StartError: bundle-missing, bundle-corrupt, bundle-unsafe.
    """
    from worker.inference.preprocess import Preprocessing

    described, sha256 = _described(folder)
    _verify_files(folder, described.files)
    inference = _read_configurations(folder, described.files)["configs/inference.json"]
    network, preprocessing = inference.get("network_def"), inference.get("preprocessing")
    if not isinstance(network, dict) or not isinstance(preprocessing, dict):
        raise StartError("bundle-corrupt", "configs/inference.json lacks preprocessing or network_def")
    if network.get("_target_") not in NETWORK_TARGETS:
        raise StartError("bundle-corrupt", "the network_def of configs/inference.json names no known network")
    return Bundle(
        folder=folder,
        identity=_identity(described, sha256),
        preprocessing=Preprocessing.from_json(preprocessing),
        network=network,
        mirror=described.mirror,
        temperature=described.temperature,
        aggregation=described.aggregation,
        thresholds=described.thresholds,
        out_of_distribution=described.out_of_distribution,
        statistics=_statistics(folder / "models/features.safetensors"),
        accepted_input=described.accepted_input,
    )


def _described(folder: Path) -> tuple[_WorkerJson, str]:
    """worker.json and its SHA-256, which names the bundle."""
    if not (folder / "worker.json").is_file():
        raise StartError("bundle-missing", f"there is no model bundle at {folder} (no worker.json)")
    raw = _json_bytes(folder, "worker.json")
    try:
        return _WorkerJson.model_validate(json.loads(raw)), hashlib.sha256(raw).hexdigest()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(key) for key in first["loc"])
        raise StartError("bundle-corrupt", f"worker.json of the model bundle: {shown(where)}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise StartError("bundle-corrupt", "worker.json of the model bundle is not JSON") from None


def _json_bytes(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise StartError("bundle-unsafe", f"model bundle: {name} is a link or no file")
    if path.stat().st_size > _LARGEST_JSON:
        raise StartError("bundle-corrupt", f"model bundle: {name} exceeds {_LARGEST_JSON >> 20} MiB")
    return path.read_bytes()


def _verify_files(folder: Path, listed: Mapping[str, str]) -> None:
    """Check that the folder holds exactly the listed files, unchanged, and none of a kind that could be executed."""
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
    for name in REQUIRED_FILES:
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


def _identity(described: _WorkerJson, sha256: str) -> ModelIdentity:
    parameters = (
        f"weights SHA-256 {described.files['models/model.safetensors']}; temperature {described.temperature:g}; "
        f"mean of the max({described.aggregation.top_k}, {described.aggregation.top_fraction:g} x slices) "
        f"most tumour-like slices; minimum probability {described.thresholds.needed(True):g}, "
        f"of no neoplasm {described.thresholds.needed(False):g}; "
        f"minimum slices in distribution {described.thresholds.minimum_in_distribution:g}"
    )
    return ModelIdentity(
        name=described.name,
        version=described.version,
        manufacturer=described.manufacturer,
        family=described.family,
        sha256=sha256,
        classes=tuple(
            ModelClass(
                item.name, item.title, item.neoplasm, _code(item.finding) if item.finding else None, _code(item.site)
            )
            for item in described.classes
        ),
        parameters=parameters,
        limits=described.limits,
    )


def _code(code: _Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


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
