"""The training loop, on one page; everything it depends on is in its TrainConfig and in the checkpoint.

A run's folder: config.json, checkpoint.pt (last epoch, replaced whole), best.pt (best validation figure), log.csv.
Every epoch draws from a generator seeded by (seed, epoch), so a run that was killed goes on exactly as it would have.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import pickle
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from monai_train.baselines import Flat
from monai_train.config import ANY_TUMOUR, CLASS_NAMES, NO_TUMOUR, TrainConfig
from monai_train.dataset import (
    Pictures,
    Role,
    data_sha256,
    load_pictures,
    one_a_picture,
    read_manifest,
    read_preprocessing,
    split_roles,
    split_sha256,
)
from monai_train.healthy import healthy_slices
from monai_train.networks import Classifier, network_definition
from monai_train.pretrained import load_weights
from monai_train.sampling import Sampler, make_sampler
from worker.errors import StartError

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
LOG = "log.csv"
HEALTHY = "healthy.npy"
_TUMOURS = [i for i in range(len(CLASS_NAMES)) if i != NO_TUMOUR]
_LOG_COLUMNS = ["epoch", "loss", "validation_balanced_accuracy", "validation_loss"]


class DivergedError(Exception):
    """The loss is not a number; the last good checkpoint is kept."""


@dataclass(slots=True)
class State:
    """What changes while training."""

    model: Classifier
    average: Classifier  # the exponential moving average of the weights: this one is judged and exported
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    best: float = -1.0
    best_epoch: int = -1


def loss_of(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross entropy; for ANY_TUMOUR, of the sum of the tumour classes. logits [n, 4], labels [n] → scalar."""
    log_probabilities = logits.float().log_softmax(dim=1)
    kind_known = labels != ANY_TUMOUR
    any_tumour = -log_probabilities[:, _TUMOURS].logsumexp(dim=1)
    exact = -log_probabilities.gather(1, labels.clamp(max=len(CLASS_NAMES) - 1)[:, None])[:, 0]
    exact = (1 - smoothing) * exact - smoothing * log_probabilities.mean(dim=1)
    return torch.where(kind_known, exact, any_tumour).mean()


def map_loss_of(maps: torch.Tensor, labels: torch.Tensor, tumours: torch.Tensor) -> torch.Tensor:
    """How far the evidence for the label lies from the marked tumour: maps [n, 4, h, w], labels [n] → scalar.

    Cross entropy between the share of the tumour (`tumours` [n, 1, s, s]) in every cell and the class's map as
    a distribution over the cells. Pictures without a marked tumour do not count. A classifier may find the class by
    the scanner or the contrast; this asks it to find the tumour.
    """
    cover = nn.functional.adaptive_avg_pool2d(tumours, (maps.shape[2], maps.shape[3])).flatten(1)
    total = cover.sum(dim=1)
    evidence = torch.cat([maps, maps[:, _TUMOURS].logsumexp(dim=1, keepdim=True)], dim=1).flatten(2).float()
    of_label = evidence[torch.arange(len(labels), device=labels.device), labels].log_softmax(dim=1)
    marked = (total > 0).float()
    losses = -(cover / total.clamp(min=1e-6)[:, None] * of_label).sum(dim=1)
    return (losses * marked).sum() / marked.sum().clamp(min=1)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """One cycle: up from a 25th in a cosine, then down to nearly nothing (Smith 2018)."""
    rising = max(1, int(config.warm_up * steps))
    if step < rising:
        low, high, share = config.learning_rate / 25, config.learning_rate, step / rising
    else:
        low, high, share = config.learning_rate, config.learning_rate / 1e4, (step - rising) / max(1, steps - rising)
    return low + (high - low) * (1 - math.cos(math.pi * share)) / 2


def train_epoch(state: State, sampler: Sampler, config: TrainConfig, progress: Progress | None = None) -> float:
    """One epoch over freshly drawn batches; returns the mean loss. Raises DivergedError."""
    generator = torch.Generator().manual_seed(config.seed * 100_003 + state.epoch)
    torch.manual_seed(config.seed * 100_003 + state.epoch)
    batches = max(1, config.samples_per_epoch // config.batch)
    task = progress.add_task(f"epoch {state.epoch + 1}", total=batches) if progress else None
    total = 0.0
    state.model.train()
    for index in range(batches):
        images, labels, tumours = sampler.batch(config.batch, generator)
        images = images.to(config.device, memory_format=torch.channels_last)
        labels = labels.to(config.device)
        rate = learning_rate(config, state.epoch * batches + index, config.epochs * batches)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(config.device, dtype=torch.bfloat16, enabled=config.mixed_precision):
            found = state.model(images)
        loss = loss_of(found.logits, labels, config.label_smoothing)
        if config.map_loss:
            loss = loss + config.map_loss * map_loss_of(found.maps, labels, tumours.to(config.device))
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss is not a number in epoch {state.epoch + 1}: try a lower learning rate")
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
        state.optimizer.step()
        update_average(state.average, state.model, min(config.ema_decay, (1 + index + state.epoch * batches) / 100))
        total += loss.item()
        if progress and task is not None:
            progress.advance(task)
    if progress and task is not None:
        progress.remove_task(task)
    return total / batches


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and buffers a step towards the model's."""
    for held, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if held.is_floating_point():
            held.lerp_(new, 1 - decay)
        else:
            held.copy_(new)


@torch.no_grad()
def logits_of(model: Classifier, pixels: torch.Tensor, config: TrainConfig, batch: int = 128) -> torch.Tensor:
    """Logits [n, classes] of uint8 pictures [n, 1, s, s], float32 arithmetic."""
    model.eval()
    images = (part.float().div(255).to(config.device) for part in torch.split(pixels, batch))
    return torch.cat([model(part).logits.float().cpu() for part in images])


def balanced_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean recall over the classes that occur."""
    right = logits.argmax(dim=1) == labels
    return float(torch.stack([right[labels == c].float().mean() for c in set(labels.tolist())]).mean())


def new_state(config: TrainConfig) -> State:
    """A fresh network and optimizer; weights depend on the seed alone."""
    torch.manual_seed(config.seed)
    model = Classifier(network_definition(config.network, len(CLASS_NAMES)))
    model.to(device=config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )
    return State(model, copy.deepcopy(model), optimizer)


def save(path: Path, state: State, config: TrainConfig, provenance: dict[str, str]) -> None:
    """Write a checkpoint whole or not at all: a full disk or a kill leaves the one before it."""
    content = {
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "epoch": state.epoch,
        "best": state.best,
        "best_epoch": state.best_epoch,
        "config": config.model_dump_json(),
        "provenance": provenance,
    }
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, tensors and plain values only. StartError when it is missing or damaged."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StartError("no-checkpoint", f"cannot read {path}: {error.strerror or 'not a file'}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise StartError("damaged-checkpoint", f"{path} is not a whole checkpoint of this program") from error
    return content


def _resume(path: Path, state: State, provenance: dict[str, str]) -> dict[str, str]:
    """Put the checkpoint into `state` and return its provenance. StartError when it saw other data."""
    content = read_checkpoint(path)
    for key in ("split_sha256", "data_sha256", "healthy_sha256"):
        if content["provenance"][key] != provenance[key]:
            raise StartError("other-data", f"{path} was trained on other data ({key} differs): use a new --run folder")
    state.model.load_state_dict(content["model"])
    state.average.load_state_dict(content["average"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.epoch, state.best, state.best_epoch = content["epoch"], content["best"], content["best_epoch"]
    stored: dict[str, str] = content["provenance"]
    return stored


def current_commit() -> str:
    """The commit of the checkout this code runs from, or `unknown` outside one."""
    answer = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"


def train(
    data: Path,
    run: Path,
    config: TrainConfig,
    weights: Path | None = None,
    healthy: Path | None = None,
    console: Console | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    roles: Sequence[Role] | None = None,
) -> Path:
    """Train on a converted folder until done, going on where RUN stopped; returns the best checkpoint.

    A fresh run starts from `weights` where they are given; `healthy` is the folder of a healthy axial DICOM volume,
    whose slices are kept in the run for export.

    `on_epoch` is told every epoch and its validation figure, after they are saved. `roles` gives every row of the
    manifest its role instead of the split that the configuration describes.

    Raises StartError for data or checkpoints that do not fit and DivergedError for a loss that is not a number.
    """
    console = console or Console(stderr=True)
    torch.set_num_threads(config.threads)
    rows = read_manifest(data)
    if roles is None:
        roles = split_roles(rows, config.external, config.test_share, config.validation_share)
    pictures = load_pictures(data, rows, read_preprocessing())
    run.mkdir(parents=True, exist_ok=True)
    heads, healthy_sha256 = healthy_slices(healthy, read_preprocessing()) if healthy is not None else (None, "")
    if heads is not None:
        np.save(run / HEALTHY, heads.numpy())
    sampler = make_sampler(pictures, _with(roles, Role.TRAIN), config, CLASS_NAMES, heads)
    validation = pictures.select(one_a_picture(rows, _with(roles, Role.VALIDATION)))
    if set(validation.labels.tolist()) != set(range(len(CLASS_NAMES))):
        raise StartError("empty-class", "a class has no picture in the validation split")
    provenance = {
        "data_sha256": data_sha256(rows),
        "split_sha256": split_sha256(rows, roles),
        "commit": current_commit(),
        "healthy_sha256": healthy_sha256,
    }
    state = new_state(config)
    if config.map_loss and isinstance(state.model.net, Flat):
        raise StartError("no-maps", f"{config.network} has no activation maps: its map_loss must be 0")
    if (run / CHECKPOINT).exists():
        _check_same(run, config)
        provenance = _resume(run / CHECKPOINT, state, provenance)
    elif weights is not None:
        provenance["initial_weights_sha256"] = load_weights(state.model, weights)
        state.average.load_state_dict(state.model.state_dict())
    (run / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
    _loop(run, state, sampler, validation, config, provenance, console, on_epoch)
    return run / BEST


def _loop(
    run: Path,
    state: State,
    sampler: Sampler,
    validation: Pictures,
    config: TrainConfig,
    provenance: dict[str, str],
    console: Console,
    on_epoch: Callable[[int, float], None] | None,
) -> None:
    while state.epoch < config.epochs:
        if config.patience is not None and state.epoch - state.best_epoch > config.patience:
            console.print(f"no better validation figure in {config.patience} epochs: stopped")
            return
        with Progress(console=console, transient=True) as progress:
            loss = train_epoch(state, sampler, config, progress)
        state.epoch += 1
        logits = logits_of(state.average, validation.pixels, config)
        figure = balanced_accuracy(logits, validation.labels)
        # On equal figures the later, more annealed weights are taken.
        if figure >= state.best:
            state.best, state.best_epoch = figure, state.epoch
            save(run / BEST, state, config, provenance)
        _log(run / LOG, state.epoch, loss, figure, float(loss_of(logits, validation.labels, 0.0)))
        save(run / CHECKPOINT, state, config, provenance)
        console.print(
            f"epoch {state.epoch}/{config.epochs}  loss {loss:.4f}  validation balanced accuracy {figure:.4f} "
            f"(n={len(validation.rows)})  best {state.best:.4f}"
        )
        if on_epoch is not None:
            on_epoch(state.epoch, figure)


def _check_same(run: Path, config: TrainConfig) -> None:
    stored = TrainConfig.model_validate_json(read_checkpoint(run / CHECKPOINT)["config"])
    if stored != config:
        changed = [key for key, value in stored.model_dump().items() if getattr(config, key) != value]
        raise StartError("other-config", f"{run} holds a run with another {changed[0]}: use a new --run folder")


def _with(roles: Sequence[Role], role: Role) -> list[int]:
    return [i for i, one in enumerate(roles) if one is role]


def _log(path: Path, epoch: int, loss: float, figure: float, validation_loss: float) -> None:
    """Add the epoch's line; lines of epochs that a killed run did not save are replaced."""
    lines = _read_log(path, epoch)
    lines.append([str(epoch), f"{loss:.5f}", f"{figure:.5f}", f"{validation_loss:.5f}"])
    part = path.with_suffix(".part")
    with part.open("w", newline="") as stream:
        csv.writer(stream).writerows([_LOG_COLUMNS, *lines])
    os.replace(part, path)


def _read_log(path: Path, before: int) -> list[list[str]]:
    try:
        with path.open(newline="") as stream:
            return [line for line in list(csv.reader(stream))[1:] if int(line[0]) < before]
    except FileNotFoundError:
        return []
