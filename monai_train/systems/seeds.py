"""`monai-train seeds`: the five earlier systems on their own protocols, and ours on the same and split by patient.

OUT/rows/<row>.json, .png     a measured row: figures, learning curves, confusion matrix; it is not run again
OUT/reference-systems.md      the table
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from monai_train.config import Augmentation
from monai_train.data.convert import convert
from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.manifest import ManifestRow, data_sha256, manifest_path, read_manifest
from monai_train.networks.classifier import Classifier
from monai_train.networks.pretrained import load_weights
from monai_train.networks.registry import make_classifier
from monai_train.systems.definitions import OURS, Protocol, Recipe, System, Task
from monai_train.systems.fit import CURVE_PICTURES, FitResult, Fitting, LabelledPictures, fit, seconds_per_step
from monai_train.systems.protocols import (
    LABELS,
    Example,
    ProtocolSplit,
    split_by_protocol,
    start_from_default,
    take_fraction,
    task_class,
)
from monai_train.systems.results import RowResult, ensemble_result, read_result, result_fields, write_result
from monai_train.systems.table import reference_document, row_key, rows_of_system
from monai_train.training.augment import augment
from monai_train.training.checkpoint import current_commit
from monai_train.training.train import DivergedError
from worker.errors import StartError
from worker.inference.bundle import default_bundle

SEED = 7
# System B's copies: turned, shifted, mirrored, brighter or darker.
_COPIES = Augmentation(rotate_degrees=10, scale=0.1, shift=0.05, gamma=0.2, bias_field=0, invert=0, remap=0, noise=0,
                       blur=0, low_resolution=0)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of the table: which network is trained on which protocol, and how."""

    key: str
    network: str
    task: Task
    dataset: str
    protocol: Protocol
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class SeedsSettings:
    """The folder of pictures, the folder of results, the fraction to use, the device, initial weights by network."""

    data: Path
    out: Path
    fraction: float
    device: str
    weights: Mapping[str, Path]


def table_rows(systems: Sequence[System], ours: Mapping[Task, Recipe]) -> list[TableRow]:
    """Every row of the table once, the systems' own first."""
    found: dict[str, TableRow] = {}
    for system in systems:
        recipes = {recipe.network: recipe for recipe in system.network} | {OURS: ours[system.task]}
        for network, protocol in rows_of_system(system):
            key = row_key(system, network, protocol)
            found.setdefault(key, TableRow(key, network, system.task, system.dataset, protocol, recipes[network]))
    return list(found.values())


def initial_weights(row: TableRow, settings: SeedsSettings) -> Path | None:
    """The file that the row's network starts from, if any."""
    if row.recipe.from_default:
        return default_bundle() / "models" / "model.safetensors"
    return settings.weights.get(row.network)


def inputs_sha256(row: TableRow, pictures: Sequence[ManifestRow], settings: SeedsSettings) -> str:
    """Identifies everything that a row depends on, except the fraction: 64 hex digits."""
    weights = initial_weights(row, settings)
    content = [
        row.recipe.model_dump_json(exclude={"from_default"}),  # the hash of the weights covers it
        row.protocol,
        data_sha256([picture for picture in pictures if picture.dataset == row.dataset]),
        hashlib.sha256(weights.read_bytes()).hexdigest() if weights else "",
        SEED,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def stored_result(row: TableRow, pictures: Sequence[ManifestRow], settings: SeedsSettings) -> RowResult | None:
    """The stored result, if nothing it depends on has changed and it used at least the fraction of the settings."""
    result = read_result(settings.out / "rows", row.key)
    if result is None or result.inputs != inputs_sha256(row, pictures, settings) or result.fraction < settings.fraction:
        return None
    return result


def split_of_row(row: TableRow, pictures: Sequence[ManifestRow], fraction: float) -> ProtocolSplit:
    """The row's examples. Raises StartError for a class without any."""
    split = split_by_protocol(pictures, row.dataset, row.task, row.protocol, SEED)
    if row.recipe.from_default:
        split = start_from_default(split, pictures, row.protocol)
    return take_fraction(split, pictures, row.task, fraction, SEED)


def make_network(row: TableRow, settings: SeedsSettings) -> tuple[Classifier, str]:
    """The network and what it starts from. Raises StartError for the weights of another network."""
    torch.manual_seed(SEED)
    model = make_classifier(row.recipe.network, len(LABELS[row.task]))
    weights = initial_weights(row, settings)
    if weights is None:
        return model, "scratch (no weights given: all layers learn)" if row.recipe.frozen else "scratch"
    name = "the shipped model" if row.recipe.from_default else weights.name
    return model, f"{name} {load_weights(model, weights)[:8]}" + (", frozen" if row.recipe.frozen else "")


def _is_frozen(row: TableRow, settings: SeedsSettings) -> bool:
    return row.recipe.frozen and row.network in settings.weights


def estimated_seconds(row: TableRow, split: ProtocolSplit, settings: SeedsSettings) -> float:
    """How long the row will take, extrapolated from a measured step."""
    batch, classes = row.recipe.batch, len(LABELS[row.task])
    pixels = torch.zeros(batch, 1, row.recipe.size, row.recipe.size, dtype=torch.uint8)
    model, _ = make_network(row, settings)
    recipe = row.recipe.model_copy(update={"learning_rate": 1e-6})  # so that blank pictures cannot diverge
    examples = LabelledPictures(pixels, torch.arange(batch) % classes)
    per_step = seconds_per_step(Fitting(model, examples, recipe, _is_frozen(row, settings), SEED, settings.device))
    steps = recipe.epochs * math.ceil(len(split.train) / batch)
    classified = len(split.test) + recipe.epochs * min(CURVE_PICTURES, len(split.test))
    # Forward alone is about a third of a step.
    return per_step * (steps + classified * (1 + recipe.flip_test) / batch / 3)


def labelled_pictures(
    examples: Sequence[Example], rows: Sequence[ManifestRow], pixels: Mapping[int, torch.Tensor], task: Task
) -> LabelledPictures:
    """Pixels and labels; copies with a number above 0 are altered, the same on every run."""
    images = torch.stack([pixels[i] for i, _ in examples])
    altered = torch.tensor([n for n, (_, copy) in enumerate(examples) if copy], dtype=torch.long)
    generator = torch.Generator().manual_seed(SEED)
    for chosen in torch.split(altered, 64):
        if len(chosen):
            images[chosen] = (
                (augment(images[chosen].float() / 255, _COPIES, generator)[0] * 255).round().to(torch.uint8)
            )
    return LabelledPictures(images, torch.tensor([task_class(rows[i], task) or 0 for i, _ in examples]))


def measure_row(
    row: TableRow,
    split: ProtocolSplit,
    pictures: Sequence[ManifestRow],
    settings: SeedsSettings,
    progress: Progress,
) -> RowResult:
    """Train and measure a row. If the loss becomes not a number, the result records that as its fault."""
    used = sorted({i for i, _ in (*split.train, *split.test)})
    definition = replace(read_preprocessing(), size=row.recipe.size)
    loaded = load_pictures(settings.data, [pictures[i] for i in used], definition, settings.out / "pixels")
    pixels = dict(zip(used, loaded.pixels, strict=True))
    train, test = (labelled_pictures(side, pictures, pixels, row.task) for side in (split.train, split.test))
    model, origin = make_network(row, settings)
    task = progress.add_task(row.key, total=row.recipe.epochs)
    fitted: FitResult | None = None
    fault: str | None = None
    try:
        fitting = Fitting(model, train, row.recipe, _is_frozen(row, settings), SEED, settings.device)
        fitted = fit(fitting, test, lambda _: progress.advance(task))
    except DivergedError as error:
        fault = str(error)
    progress.remove_task(task)
    return RowResult(
        key=row.key,
        network=row.network,
        task=row.task,
        protocol=row.protocol,
        fraction=settings.fraction,
        inputs=inputs_sha256(row, pictures, settings),
        weights=origin,
        commit=current_commit(),
        device=settings.device,
        epochs=row.recipe.epochs,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        fault=fault,
        **result_fields(split, pictures, row.task, fitted),
    )


def measure_systems(
    systems: Sequence[System], settings: SeedsSettings, ours: Mapping[Task, Recipe], only: str | None, console: Console
) -> str:
    """Measure the rows without a stored result, shortest first, and return the table of all stored ones.

    Raises StartError for data that a protocol cannot split and weights that do not fit.
    """
    pictures = read_manifest(settings.data)
    every = table_rows(systems, ours)
    unknown = {*settings.weights, *([only] if only else [])} - {row.network for row in every}
    if unknown:
        raise StartError("usage", f"{min(unknown)!r} is no network of these systems")
    rows = [row for row in every if only in (None, row.network)]
    for folder in ("rows", "pixels"):
        (settings.out / folder).mkdir(parents=True, exist_ok=True)
    splits = {row.key: split_of_row(row, pictures, settings.fraction) for row in rows}
    missing = [row for row in rows if stored_result(row, pictures, settings) is None]
    console.print(f"{len(rows) - len(missing)} of {len(rows)} rows are measured already; timing the others ...")
    expected = {row.key: estimated_seconds(row, splits[row.key], settings) for row in missing}
    missing.sort(key=lambda row: expected[row.key])  # so that an interrupted run has measured as many as it could
    for row in missing:
        console.print(f"  {row.key}: about {_duration(expected[row.key])}, {len(splits[row.key].train)} examples")
    console.print(f"about {_duration(sum(expected.values()))} to go; an interrupted run resumes with the next row")
    with Progress(console=console, transient=True) as progress:
        overall = progress.add_task("rows", total=sum(expected.values()) or 1)
        for row in missing:
            result = measure_row(row, splits[row.key], pictures, settings, progress)
            write_result(result, settings.out / "rows")
            progress.advance(overall, expected[row.key])
            accuracy = "-" if result.accuracy is None else f"{100 * result.accuracy:.2f} %"
            console.print(f"{row.key}: accuracy {accuracy} (n={result.n_test}), {_duration(result.seconds)}")
    return write_table(systems, ours, pictures, settings)


def write_table(
    systems: Sequence[System],
    ours: Mapping[Task, Recipe],
    pictures: Sequence[ManifestRow],
    settings: SeedsSettings,
) -> str:
    """Write OUT/reference-systems.md from the stored rows, whatever fraction they used; returns its text."""
    any_fraction = replace(settings, fraction=0.0)
    results = {
        row.key: result
        for row in table_rows(systems, ours)
        if (result := stored_result(row, pictures, any_fraction)) is not None
    }
    for system in systems:
        if system.ensemble:
            keys = [row_key(system, recipe.network, system.protocol) for recipe in system.network]
            members = [results[key] for key in keys if key in results]
            ensemble = ensemble_result(f"{system.name.lower()}-ensemble", members)
            if len(members) == len(keys) and ensemble is not None:
                results[ensemble.key] = ensemble
                write_result(ensemble, settings.out / "rows")
    seconds = sum(result.seconds for result in results.values() if not result.key.endswith("-ensemble"))
    devices = ", ".join(sorted({result.device for result in results.values()})) or "none"
    how = f"{len(results)} rows in {_duration(seconds)} of training on: {devices}."
    text = reference_document(systems, results, how)
    (settings.out / "reference-systems.md").write_text(text)
    return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def parse_weights(options: Sequence[str]) -> dict[str, Path]:
    """Files of initial weights by network, from options of the form NETWORK=FILE. Raises StartError."""
    files = {}
    for option in options:
        name, separator, path = option.partition("=")
        if not separator or not Path(path).is_file():
            raise StartError("usage", f"--weights {option}: give NETWORK=FILE with a file that exists")
        files[name] = Path(path)
    return files


def converted_folder(data: Path, out: Path) -> Path:
    """The folder itself if `convert` wrote it, else a conversion of it under `out`."""
    if manifest_path(data).is_file():
        return data
    if not (out / "data" / "manifest.csv").is_file():
        groups = data / "audit.tsv"
        convert(data, out / "data", groups=groups if groups.is_file() else None)
    return out / "data"
