"""A checkpoint that was trained elsewhere → a bundle of format 3 (docs/bundle.md), checked as the worker checks it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import monai
import numpy as np
import openvino
import torch
from rich.console import Console
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_weights

from monai_train.export.bundle_files import write_json, write_worker_json
from monai_train.export.imported import graph
from monai_train.export.imported.card import card
from monai_train.export.imported.checkpoint import Checkpoint, read_checkpoint
from monai_train.export.imported.description import Description, read_description
from monai_train.export.imported.distribution import LEAST_IMAGES, Distribution, fit_distribution
from monai_train.export.imported.golden_series import write_series
from monai_train.export.imported.networks import MatchedNetwork, match_network
from worker.errors import NotAssessable, StartError
from worker.inference.bundle import load_bundle
from worker.inference.engines import BATCH, OpenVinoEngine
from worker.inference.golden import check_golden, golden_case
from worker.inference.run_bundle import MONAI_ENTRY, series_below
from worker.inference.transforms.allowed import MonaiTransforms
from worker.inference.transforms.series import Pipeline
from worker.pixels.arrays import FloatArray
from worker.wording import counted

_TOLERANCE = 1e-3
_GOLDEN_CASES = 2  # of slices; a single one of volumes, which are large
_MOST_IMAGES = 512  # of which features are computed
_TOP_SLICES = 3
_LEAST_ROWS, _MOST_PIXELS = 16, 16_777_216


@dataclass(frozen=True)
class _Prepared:
    """The series of the folder: their files, their tensors [n, channels, x, y(, z)], and their modalities."""

    files: Sequence[Sequence[Path]]
    tensors: Sequence[FloatArray]
    modalities: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image: channels, x, y and, of volumes, z."""
        return tuple(self.tensors[0].shape[1:])

    @property
    def images(self) -> FloatArray:
        """Images spread evenly over all series, at most 512, those of different series next to each other."""
        every = [(index, series) for series, tensor in enumerate(self.tensors) for index in range(len(tensor))]
        chosen = np.linspace(0, len(every) - 1, min(_MOST_IMAGES, len(every))).astype(int)
        ordered = sorted(every[position] for position in chosen)
        return np.stack([self.tensors[series][index] for index, series in ordered])


def import_model(
    checkpoint: Path, model: Path, dicom: Path, out: Path, console: Console | None = None
) -> tuple[Path, list[str]]:
    """Write the bundle to OUT, which must not exist yet; returns it and what its owner ought to know.

    `model` is the file of `description`, `dicom` a folder of series that the model is for. Raises StartError: OUT
    exists; a file that cannot be used; a network, classes and preprocessing that do not fit each other; no series that
    can be prepared.
    """
    console = console or Console(stderr=True)
    if out.exists():
        raise StartError("out-exists", f"{out} exists already")
    description, transforms = read_description(model)
    console.print(f"checkpoint: {checkpoint.name}", markup=False)
    read = read_checkpoint(checkpoint)
    matched = None
    if read.state is not None:
        matched = match_network(read.state, description.network, description.network_arguments)
    elif description.network is not None or description.network_arguments:
        raise StartError("description-invalid", f"{model}: network is for a state_dict; {checkpoint} is {read.kind}")
    of_volumes = (matched.dimensions if matched else graph.dimensions_of(read)) == 3
    console.print(f"series of {dicom}, prepared by the transforms", markup=False)
    prepared, notes = _prepare(dicom, transforms, of_volumes)
    console.print(f"{matched.name if matched else read.kind}: {len(prepared.tensors)} series, tensors {prepared.shape}")
    console.print("network: OpenVINO fp32")
    network = _converted(read, matched, prepared.shape)
    _check_classes(network, description, checkpoint)
    images = prepared.images
    console.print(f"outputs and features of {counted(len(images), 'volume' if of_volumes else 'slice')}")
    outputs = _run(network, images)
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise StartError("outputs-not-finite", "the network gives infinite values, or none, for images of the folder")
    if matched is None and graph.gives_probabilities(outputs["logits"]):
        network = graph.as_logits(network)
        notes.append("the graph gives probabilities; their logarithms are used as logits")
    distribution = fit_distribution(outputs["features"])
    if not distribution.is_limited:
        number = counted(len(outputs["features"]), "volume" if of_volumes else "slice")
        notes.append(
            f"no image will be called out of distribution: the folder has {number}, and limits need {LEAST_IMAGES}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "bundle"
        for subfolder in ("configs", "models", "golden", "docs"):
            (folder / subfolder).mkdir(parents=True)
        openvino.save_model(network, folder / "models/model_fp32.xml", compress_to_fp16=False)
        if matched is not None:
            save_weights(
                {key: value.contiguous() for key, value in matched.net.state_dict().items()},
                folder / "models/model.safetensors",
            )
        _write_statistics(folder, distribution)
        _write_configs(folder / "configs", description, transforms, matched, prepared.shape)
        described = _described(description, read, matched, prepared, distribution, of_volumes)
        text = card(description, read, matched, transforms, prepared.shape, len(prepared.tensors), distribution)
        (folder / "docs/README.md").write_text(text)
        console.print("golden cases, by the engine that will serve")
        _write_golden(folder, described, prepared, of_volumes)
        folder.rename(out)
    return out, notes


def _prepare(dicom: Path, transforms: MonaiTransforms, of_volumes: bool) -> tuple[_Prepared, list[str]]:
    """Prepare every series of the folder that can be. Raises StartError where none can, or their sizes differ."""
    if not dicom.exists():
        raise StartError("no-such-folder", f"{dicom} does not exist")
    pipeline = Pipeline(transforms, of_volumes)
    files: list[list[Path]] = []
    tensors: list[FloatArray] = []
    modalities: set[str] = set()
    refused: list[NotAssessable] = []
    for paths in series_below(dicom).values():
        try:
            volume = pipeline(paths)
        except NotAssessable as fault:
            refused.append(fault)
            continue
        files.append(paths)
        tensors.append(volume.tensor)
        modalities |= volume.modalities
    if not tensors:
        raise StartError("no-series", f"no series of {dicom} can be prepared: {refused[0].detail}")
    shapes = sorted({tensor.shape[1:] for tensor in tensors})
    if len(shapes) > 1:
        shown = " and ".join(" x ".join(map(str, shape)) for shape in shapes[:2])
        raise StartError("image-size", f"the transforms give tensors of {shown}: end them with Resize")
    notes = []
    if refused:
        count = f"{len(refused)} of {len(tensors) + len(refused)}"
        notes.append(f"{count} series could not be prepared: {refused[0].detail}")
    return _Prepared(files, tensors, tuple(sorted(modalities))), notes


def _converted(read: Checkpoint, matched: MatchedNetwork | None, shape: Sequence[int]) -> Any:
    if matched is None:
        return graph.of_graph(read, shape)
    if matched.channels != shape[0]:
        fault = f"the network reads {counted(matched.channels, 'channel')}, the preprocessing gives {shape[0]}"
        hint = f": add RepeatChannel with repeats = {matched.channels}" if shape[0] == 1 else ""
        raise StartError("channels", fault + hint)
    return graph.of_network(matched, shape)


def _check_classes(network: Any, description: Description, checkpoint: Path) -> None:
    outputs = network.output("logits").partial_shape[1].get_length()
    if outputs != len(description.classes):
        named = ", ".join(item.name for item in description.classes)
        given = counted(len(description.classes), "class")
        fault = f"{checkpoint} has {counted(outputs, 'output')}, but {given} given: {named}"
        raise StartError("wrong-number-of-classes", fault)


def _run(network: Any, images: FloatArray) -> Mapping[str, FloatArray]:
    """logits [n, classes] and features [n, F] of images."""
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    batch = compiled.input("image").partial_shape[0]
    step = BATCH if batch.is_dynamic else batch.get_length()
    names = ("logits", "features")
    parts: list[list[FloatArray]] = []
    for start in range(0, len(images), step):
        results = compiled(images[start : start + step])
        parts.append([np.array(results[compiled.output(name)], np.float32) for name in names])
    return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}


def _write_statistics(folder: Path, distribution: Distribution) -> None:
    statistics = distribution.statistics
    arrays = {"mean": statistics.mean, "components": statistics.components, "scale": statistics.scale}
    save_arrays(arrays, folder / "models/features.safetensors")


def _write_configs(
    folder: Path,
    description: Description,
    transforms: MonaiTransforms,
    matched: MatchedNetwork | None,
    shape: Sequence[int],
) -> None:
    definition = dict(matched.definition) if matched is not None else None
    write_json(
        folder / "inference.json",
        {"preprocessing": transforms.to_json(), "network_def": definition, **MONAI_ENTRY},
    )
    image = {"type": "image", "num_channels": shape[0], "spatial_shape": list(shape[1:]), "dtype": "float32"}
    names = {str(number): item.name for number, item in enumerate(description.classes)}
    logits = {"type": "logits", "format": "classes", "num_channels": len(names), "channel_def": names}
    write_json(
        folder / "metadata.json",
        {
            "version": description.version,
            "monai_version": monai.__version__,
            "pytorch_version": torch.__version__.split("+")[0],
            "numpy_version": np.__version__,
            "task": f"classification: {', '.join(names.values())}",
            "description": description.limits,
            "intended_use": "research use only",
            "network_data_format": {"inputs": {"image": image}, "outputs": {"logits": logits}},
        },
    )


def _described(
    description: Description,
    read: Checkpoint,
    matched: MatchedNetwork | None,
    prepared: _Prepared,
    distribution: Distribution,
    of_volumes: bool,
) -> dict[str, Any]:
    """worker.json without the files."""
    return {
        "format": 3,
        "name": description.name,
        "version": description.version,
        "family": matched.name if matched else read.kind,
        "manufacturer": description.manufacturer,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "limits": description.limits,
        "source": {"file": read.path.name, "sha256": read.sha256, "kind": read.kind},
        "input": {"kind": "volume" if of_volumes else "slices", "shape": list(prepared.shape)},
        "presence": description.presence.model_dump() if description.presence else None,
        "classes": [
            {key: value for key, value in item.model_dump().items() if key in _CLASS_KEYS}
            for item in description.classes
        ],
        "temperature": 1.0,
        "aggregation": {"top_k": _TOP_SLICES, "top_fraction": description.share_of_slices},
        "thresholds": {
            "minimum_probability": description.minimum_probability,
            "minimum_in_distribution": 0.3 if distribution.is_limited else 0.0,
            "minimum_no_neoplasm": description.minimum_no_finding,
        },
        "out_of_distribution": {
            "maximum_distance": distribution.maximum_distance,
            "maximum_residual": distribution.maximum_residual,
        },
        "accepted_input": {
            "modalities": list(prepared.modalities),
            "minimum_slices": 1,
            "minimum_rows": _LEAST_ROWS,
            "maximum_pixels": _MOST_PIXELS,
        },
    }


_CLASS_KEYS = ("name", "title", "neoplasm", "finding", "site")


def _write_golden(folder: Path, described: dict[str, Any], prepared: _Prepared, of_volumes: bool) -> None:
    """Measure the golden cases and run them by the loaded bundle."""
    chosen = sorted(range(len(prepared.files)), key=lambda index: len(prepared.files[index]))
    chosen = chosen[: 1 if of_volumes else _GOLDEN_CASES]
    cases = [
        (f"case-{number}", write_series(folder / f"golden/case-{number}", prepared.files[index], of_volumes))
        for number, index in enumerate(chosen, 1)
    ]
    expected: dict[str, Any] = {"tolerance": {"fp32": _TOLERANCE, "int8": _TOLERANCE}, "cases": []}
    write_json(folder / "golden/expected.json", expected)
    write_worker_json(folder, described)
    bundle = load_bundle(folder)
    engine = OpenVinoEngine(bundle, "fp32")
    for name, paths in cases:
        files = [path.relative_to(folder).as_posix() for path in paths]
        expected["cases"].append(golden_case(bundle, engine, name, files))
    write_json(folder / "golden/expected.json", expected)
    write_worker_json(folder, described)
    bundle = load_bundle(folder)
    check_golden(bundle, OpenVinoEngine(bundle, "int8"))
