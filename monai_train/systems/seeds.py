"""`monai-train seeds`: the five earlier systems on their own protocols, and ours on the same and with patients apart.

OUT/rows/<row>.json, .png     one measured row: figures, learning curves, confusion matrix; it is not run again
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
from monai_train.networks.pretrained import load_weights
from monai_train.networks.registry import Classifier, network_definition
from monai_train.systems import results
from monai_train.systems.definitions import OURS, Protocol, Recipe, System, Task
from monai_train.systems.fit import CURVE_PICTURES, Examples, Fitted, Fitting, fit, seconds_per_step
from monai_train.systems.protocols import LABELS, Example, Parts, part, start_from_default, take_fraction, task_class
from monai_train.systems.results import Result
from monai_train.systems.table import document, row_key, rows_of_system
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
class Job:
    """One row to measure."""

    key: str
    network: str
    task: Task
    dataset: str
    protocol: Protocol
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pictures are, where rows go, and on what they run; `weights` by network name."""

    data: Path
    out: Path
    fraction: float
    device: str
    weights: Mapping[str, Path]


def table_rows(systems: Sequence[System], ours: Mapping[Task, Recipe]) -> list[Job]:
    """Every row of the table once, the systems' own first."""
    jobs: dict[str, Job] = {}
    for system in systems:
        recipes = {one.network: one for one in system.network} | {OURS: ours[system.task]}
        for network, protocol in rows_of_system(system):
            key = row_key(system, network, protocol)
            jobs.setdefault(key, Job(key, network, system.task, system.dataset, protocol, recipes[network]))
    return list(jobs.values())


def initial_weights(job: Job, place: Place) -> Path | None:
    """The file that the job's network starts from, where there is one."""
    if job.recipe.from_default:
        return default_bundle() / "models" / "model.safetensors"
    return place.weights.get(job.network)


def inputs_sha256(job: Job, rows: Sequence[ManifestRow], place: Place) -> str:
    """Identifies what a row depends on but the fraction: 64 hex digits."""
    weights = initial_weights(job, place)
    content = [
        job.recipe.model_dump_json(exclude={"from_default"}),  # the weights below say it
        job.protocol,
        data_sha256([row for row in rows if row.dataset == job.dataset]),
        hashlib.sha256(weights.read_bytes()).hexdigest() if weights else "",
        SEED,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def kept(job: Job, rows: Sequence[ManifestRow], place: Place) -> Result | None:
    """The stored row, when nothing it depends on has changed and it used at least as many pictures."""
    stored = results.read(place.out / "rows", job.key)
    if stored is None or stored.inputs != inputs_sha256(job, rows, place) or stored.fraction < place.fraction:
        return None
    return stored


def split_of_row(job: Job, rows: Sequence[ManifestRow], fraction: float) -> Parts:
    """The job's examples. StartError where a class has none."""
    parts = part(rows, job.dataset, job.task, job.protocol, SEED)
    if job.recipe.from_default:
        parts = start_from_default(parts, rows, job.protocol)
    return take_fraction(parts, rows, job.task, fraction, SEED)


def make_model(job: Job, place: Place) -> tuple[Classifier, str]:
    """The network and what it starts from. StartError for weights that are another network's."""
    torch.manual_seed(SEED)
    model = Classifier(network_definition(job.recipe.network, len(LABELS[job.task])))
    weights = initial_weights(job, place)
    if weights is None:
        return model, "scratch (no weights given: all of it learns)" if job.recipe.frozen else "scratch"
    name = "the shipped model" if job.recipe.from_default else weights.name
    return model, f"{name} {load_weights(model, weights)[:8]}" + (", frozen" if job.recipe.frozen else "")


def estimated_seconds(job: Job, parts: Parts, place: Place) -> float:
    """How long the row will take, from a few measured steps."""
    batch, classes = job.recipe.batch, len(LABELS[job.task])
    pixels = torch.zeros(batch, 1, job.recipe.size, job.recipe.size, dtype=torch.uint8)
    model, _ = make_model(job, place)
    frozen = job.recipe.frozen and job.network in place.weights
    harmless = job.recipe.model_copy(update={"learning_rate": 1e-6})
    fitting = Fitting(model, Examples(pixels, torch.arange(batch) % classes), harmless, frozen, SEED, place.device)
    a_step = seconds_per_step(fitting)
    steps = job.recipe.epochs * math.ceil(len(parts.train) / batch)
    shown = len(parts.test) + job.recipe.epochs * min(CURVE_PICTURES, len(parts.test))
    # Forward alone is about a third of a step.
    return a_step * (steps + shown * (1 + job.recipe.flip_test) / batch / 3)


def example_tensors(
    examples: Sequence[Example], rows: Sequence[ManifestRow], pixels: Mapping[int, torch.Tensor], task: Task
) -> Examples:
    """Pixels and labels; copies above 0 are altered, always the same way."""
    images = torch.stack([pixels[i] for i, _ in examples])
    altered = torch.tensor([n for n, (_, copy) in enumerate(examples) if copy], dtype=torch.long)
    generator = torch.Generator().manual_seed(SEED)
    for chosen in torch.split(altered, 64):
        if len(chosen):
            images[chosen] = (augment(images[chosen].float() / 255, _COPIES, generator) * 255).round().to(torch.uint8)
    return Examples(images, torch.tensor([task_class(rows[i], task) or 0 for i, _ in examples]))


def measure_row(job: Job, parts: Parts, rows: Sequence[ManifestRow], place: Place, progress: Progress) -> Result:
    """Train and measure one row. A loss that is not a number is a row that says so."""
    used = sorted({i for i, _ in (*parts.train, *parts.test)})
    definition = replace(read_preprocessing(), size=job.recipe.size)
    pictures = load_pictures(place.data, [rows[i] for i in used], definition, place.out / "pixels")
    pixels = dict(zip(used, pictures.pixels, strict=True))
    train, test = (example_tensors(side, rows, pixels, job.task) for side in (parts.train, parts.test))
    model, started = make_model(job, place)
    frozen = job.recipe.frozen and job.network in place.weights
    task = progress.add_task(job.key, total=job.recipe.epochs)
    fitted: Fitted | None = None
    fault: str | None = None
    try:
        fitting = Fitting(model, train, job.recipe, frozen, SEED, place.device)
        fitted = fit(fitting, test, lambda _: progress.advance(task))
    except DivergedError as error:
        fault = str(error)
    progress.remove_task(task)
    return Result(
        key=job.key,
        network=job.network,
        task=job.task,
        protocol=job.protocol,
        fraction=place.fraction,
        inputs=inputs_sha256(job, rows, place),
        weights=started,
        commit=current_commit(),
        device=place.device,
        epochs=job.recipe.epochs,
        parameters=sum(one.numel() for one in model.parameters()),
        fault=fault,
        **results.measured(parts, rows, job.task, fitted),
    )


def seeds(
    systems: Sequence[System], place: Place, ours: Mapping[Task, Recipe], only: str | None, console: Console
) -> str:
    """Measure what is not kept yet, one row at a time, and return the table of all that is.

    Raises StartError for data that a protocol cannot part and weights that do not fit.
    """
    rows = read_manifest(place.data)
    every = table_rows(systems, ours)
    unknown = {*place.weights, *([only] if only else [])} - {job.network for job in every}
    if unknown:
        raise StartError("usage", f"{min(unknown)!r} is no network of these systems")
    jobs = [job for job in every if only in (None, job.network)]
    for folder in ("rows", "pixels"):
        (place.out / folder).mkdir(parents=True, exist_ok=True)
    parts = {job.key: split_of_row(job, rows, place.fraction) for job in jobs}
    waiting = [job for job in jobs if kept(job, rows, place) is None]
    console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} rows are measured already; timing the others ...")
    expected = {job.key: estimated_seconds(job, parts[job.key], place) for job in waiting}
    waiting.sort(key=lambda job: expected[job.key])  # so that a stopped run has measured most rows
    for job in waiting:
        console.print(f"  {job.key}: about {_duration(expected[job.key])}, {len(parts[job.key].train)} examples")
    console.print(f"about {_duration(sum(expected.values()))} to go; a stopped run goes on with the next row")
    with Progress(console=console, transient=True) as progress:
        overall = progress.add_task("rows", total=sum(expected.values()) or 1)
        for job in waiting:
            found = measure_row(job, parts[job.key], rows, place, progress)
            results.write(found, place.out / "rows")
            progress.advance(overall, expected[job.key])
            figure = "-" if found.accuracy is None else f"{100 * found.accuracy:.2f} %"
            console.print(f"{job.key}: accuracy {figure} (n={found.n_test}), {_duration(found.seconds)}")
    return write_table(systems, ours, rows, place)


def write_table(
    systems: Sequence[System], ours: Mapping[Task, Recipe], rows: Sequence[ManifestRow], place: Place
) -> str:
    """Write OUT/reference-systems.md from the rows that are kept, whatever fraction they used; returns its text."""
    any_fraction = replace(place, fraction=0.0)
    found = {job.key: one for job in table_rows(systems, ours) if (one := kept(job, rows, any_fraction)) is not None}
    for system in systems:
        if system.ensemble:
            own = [found.get(row_key(system, one.network, system.protocol)) for one in system.network]
            key = f"{system.name.lower()}-ensemble"
            if None not in own and (together := results.ensemble(key, [one for one in own if one])) is not None:
                found[key] = together
                results.write(together, place.out / "rows")
    seconds = sum(one.seconds for one in found.values() if not one.key.endswith("-ensemble"))
    devices = ", ".join(sorted({one.device for one in found.values()})) or "none"
    how = f"{len(found)} rows in {_duration(seconds)} of training on: {devices}."
    text = document(systems, found, how)
    (place.out / "reference-systems.md").write_text(text)
    return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def parse_weights(given: Sequence[str]) -> dict[str, Path]:
    found = {}
    for one in given:
        name, separator, path = one.partition("=")
        if not separator or not Path(path).is_file():
            raise StartError("usage", f"--weights {one}: give NETWORK=FILE, and a file that exists")
        found[name] = Path(path)
    return found


def converted(data: Path, out: Path) -> Path:
    """The folder itself where `convert` wrote it, else a conversion of it under `out`."""
    if manifest_path(data).is_file():
        return data
    if not (out / "data" / "manifest.csv").is_file():
        groups = data / "audit.tsv"
        convert(data, out / "data", groups=groups if groups.is_file() else None)
    return out / "data"
