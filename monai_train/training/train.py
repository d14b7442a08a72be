"""The training loop; everything it depends on is in its TrainConfig and in the checkpoint.

A run's folder: config.json, checkpoint.pt (last epoch, replaced whole), best.pt (best validation figure), log.csv,
tensorboard/. Under torchrun, only rank 0 writes (`distributed`).
Every epoch draws from a generator seeded by (seed, epoch), so that a killed run resumes exactly.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from monai_train.config import TrackerName, TrainConfig
from monai_train.data.dataset import Pictures, load_pictures, read_preprocessing
from monai_train.data.healthy import healthy_slices
from monai_train.data.labels import UNLABELLED, Classes
from monai_train.data.manifest import data_sha256, deduplicate, read_manifest
from monai_train.data.patients import EARLIER, SplitRole, earlier_pictures, split_classes, split_roles, split_sha256
from monai_train.networks.classifier import Classifier
from monai_train.networks.outputs import OutputLayout
from monai_train.networks.pretrained import lineage, load_weights
from monai_train.networks.registry import make_classifier
from monai_train.training.allocator import keep_freed_memory
from monai_train.training.checkpoint import (
    BEST,
    CHECKPOINT,
    HEALTHY,
    TrainingState,
    current_commit,
    read_checkpoint,
    resume,
    save,
)
from monai_train.training.distillation import Teachers, distillation_loss, files_sha256, load_teachers
from monai_train.training.distributed import Ranks, process_group, require_device
from monai_train.training.epoch_log import EpochLog
from monai_train.training.masks import load_masks
from monai_train.training.mixed_precision import mixed_precision
from monai_train.training.sampling import Batch, BatchSampler, make_sampler
from monai_train.training.trackers import open_tracker, require_tracker
from worker.errors import StartError
from worker.wording import counted

# Draws an epoch: the averaged model, a batch, the validation pictures and the logits for them → PNG by name.
DrawEpoch = Callable[[Classifier, Batch, Pictures, torch.Tensor], Mapping[str, bytes]]
_DRAWN = 10  # epochs of a run that are drawn


class DivergedError(Exception):
    """The loss is not a number; the last good checkpoint is retained."""


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float,
    classes: Classes,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy; for `any_tumour`, of the sum of the tumour classes. logits [n, classes], labels [n] → scalar.

    UNLABELLED pictures do not count.
    `weights` [classes + 1] of each class and of `any_tumour` make it a weighted mean.
    """
    log_probabilities = logits.float().log_softmax(dim=1)
    known, kind_known = labels != UNLABELLED, labels != classes.any_tumour
    any_tumour = -log_probabilities[:, classes.lesions].logsumexp(dim=1)
    exact = -log_probabilities.gather(1, labels.clamp(0, len(classes) - 1)[:, None])[:, 0]
    exact = (1 - smoothing) * exact - smoothing * log_probabilities.mean(dim=1)
    losses = torch.where(kind_known, exact, any_tumour)
    counts = known.float() if weights is None else known * weights.to(labels.device)[labels.clamp(min=0)]
    return (losses * counts).sum() / counts.sum().clamp(min=1e-6)


def known_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the pictures whose sequence or region is known: [n, k], [n] → scalar, 0 if none is."""
    if not len(logits.T) or bool((targets == UNLABELLED).all()):
        return logits.sum() * 0
    return nn.functional.cross_entropy(logits.float(), targets, ignore_index=UNLABELLED, label_smoothing=0.02)


def class_weights(labels: torch.Tensor, classes: Classes) -> torch.Tensor:
    """Weights of the labels for a weighted loss, [classes + 1]: 1 / pictures of the class, mean 1; `any_tumour` 1."""
    counts = (
        labels[(labels != classes.any_tumour) & (labels != UNLABELLED)]
        .bincount(minlength=len(classes))
        .clamp(min=1)
        .float()
    )
    inverse = counts.mean() / counts
    return torch.cat([inverse / inverse.mean(), torch.ones(1)])


def activation_map_loss(
    maps: torch.Tensor, labels: torch.Tensor, tumours: torch.Tensor, classes: Classes
) -> torch.Tensor:
    """Distance of the evidence for the label from the marked tumour: maps [n, classes, h, w], labels [n] → scalar.

    Cross entropy between the share of the tumour (`tumours` [n, 1, s, s]) in every cell and the class's map as
    a distribution over the cells; pictures without a marked tumour are ignored. A classifier may infer the class from
    the scanner or the contrast; this loss makes it locate the tumour.
    """
    cover = nn.functional.adaptive_avg_pool2d(tumours, (maps.shape[2], maps.shape[3])).flatten(1)
    total = cover.sum(dim=1)
    evidence = torch.cat([maps, maps[:, classes.lesions].logsumexp(dim=1, keepdim=True)], dim=1).flatten(2).float()
    of_label = evidence[torch.arange(len(labels), device=labels.device), labels].log_softmax(dim=1)
    marked = (total > 0).float()
    losses = -(cover / total.clamp(min=1e-6)[:, None] * of_label).sum(dim=1)
    return (losses * marked).sum() / marked.sum().clamp(min=1)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """One-cycle learning rate: a cosine up from 1/25 of the maximum, then down to 1/10,000 (Smith 2018)."""
    rising = max(1, int(config.warm_up * steps))
    if step < rising:
        low, high, share = config.learning_rate / 25, config.learning_rate, step / rising
    else:
        low, high, share = config.learning_rate, config.learning_rate / 1e4, (step - rising) / max(1, steps - rising)
    return low + (high - low) * (1 - math.cos(math.pi * share)) / 2


def train_epoch(
    state: TrainingState,
    sampler: BatchSampler,
    config: TrainConfig,
    progress: Progress | None = None,
    teachers: Teachers | None = None,
    ranks: Ranks | None = None,
) -> float:
    """Train an epoch over freshly drawn batches; returns the mean loss (of this rank). Raises DivergedError."""
    ranks = ranks or Ranks()
    seed = config.seed * 100_003 + state.epoch + 50_021 * ranks.rank
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    batches = max(1, config.samples_per_epoch // (config.batch * ranks.size))
    classes = sampler.pictures.classes
    layout = OutputLayout.of(config, len(classes))
    weights = class_weights(sampler.pictures.labels, classes) if config.weighted_loss else None
    model = ranks.synchronised(state.model)
    task = progress.add_task(f"epoch {state.epoch + 1}", total=batches) if progress else None
    total = 0.0
    state.model.train()
    for index in range(batches):
        batch = sampler.batch(config.batch, generator)
        images = batch.images.to(config.device, memory_format=torch.channels_last)
        labels, tumours = batch.labels.to(config.device), batch.tumours
        rate = learning_rate(config, state.epoch * batches + index, config.epochs * batches)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with mixed_precision(config.device, wanted=config.mixed_precision):
            outputs = model(images)
            taught = teachers.probabilities(images) if teachers is not None else None
        logits, sequences, regions = layout.split(outputs.logits)
        loss = classification_loss(logits, labels, config.label_smoothing, classes, weights)
        loss = loss + config.sequence_loss * known_loss(sequences, batch.sequences.to(config.device))
        loss = loss + config.region_loss * known_loss(regions, batch.regions.to(config.device))
        if taught is not None:
            loss = loss + config.distillation * distillation_loss(logits, taught)
        if config.map_loss:
            loss = loss + config.map_loss * activation_map_loss(
                layout.split(outputs.maps)[0], labels, tumours.to(config.device), classes
            )
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
    """Update the moving average of weights and buffers with the model's."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


@torch.no_grad()
def predict_logits(model: Classifier, pixels: torch.Tensor, config: TrainConfig, batch: int = 128) -> torch.Tensor:
    """Logits [n, outputs] of uint8 pictures [n, 1, s, s], in float32 arithmetic."""
    model.eval()
    batches = (chunk.float().div(255).to(config.device) for chunk in torch.split(pixels, batch))
    return torch.cat([model(images).logits.float().cpu() for images in batches])


def balanced_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean recall over the classes that occur."""
    right = logits.argmax(dim=1) == labels
    return float(torch.stack([right[labels == c].float().mean() for c in set(labels.tolist()) - {UNLABELLED}]).mean())


def new_state(config: TrainConfig, classes: Classes) -> TrainingState:
    """A fresh network and optimizer; the initial weights depend on the seed only."""
    torch.manual_seed(config.seed)
    model = make_classifier(config.network, OutputLayout.of(config, len(classes)).size)
    model.to(device=config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = adamw(model.parameters(), config.learning_rate, config.weight_decay)
    return TrainingState(model, copy.deepcopy(model), optimizer, classes.names)


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; no weight decay for biases and the scales of norms."""
    learning = [p for p in parameters if p.requires_grad]
    decayed = {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay}
    plain = {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([decayed, plain], lr=learning_rate, fused=True)


def train(
    data: Path,
    run: Path,
    config: TrainConfig,
    weights: Path | None = None,
    healthy: Path | None = None,
    console: Console | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    roles: Sequence[SplitRole] | None = None,
    teachers: Sequence[Path] = (),
    draw: DrawEpoch | None = None,
    tracker: TrackerName | None = None,
) -> Path:
    """Train on a converted folder, resuming RUN if it was interrupted; returns the best checkpoint.

    A fresh run starts from `weights`, if given; `healthy` is the folder of a healthy axial DICOM volume, whose slices
    are stored in the run for export.

    `on_epoch` is called with every epoch and its validation figure, after they are saved. `roles` gives every row of
    the manifest its role instead of the split that the configuration describes. `teachers` are finished runs on the
    same split to distil from.

    Raises StartError for unsuitable data or checkpoints and DivergedError for a loss that is not a number.
    """
    require_device(config.device)
    if tracker is not None:
        require_tracker(tracker)
    with process_group(config.device) as ranks:
        console = (console or Console(stderr=True)) if ranks.is_main else Console(quiet=True)
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        rows = read_manifest(data)
        if roles is None:
            roles = split_roles(rows, config.external, config.test_share, config.validation_share)
        classes = split_classes(rows, roles)
        pictures = ranks.main_first(lambda: load_pictures(data, rows, read_preprocessing(), classes=classes))
        shares = config.shares
        masks = None
        if shares.masked_lesion or shares.masked_tissue:
            masks = ranks.main_first(lambda: load_masks(data, rows, read_preprocessing()))
        run.mkdir(parents=True, exist_ok=True)
        heads, healthy_sha256 = healthy_slices(healthy, read_preprocessing()) if healthy is not None else (None, "")
        if heads is not None and ranks.is_main:
            np.save(run / HEALTHY, heads.numpy())
        if weights is not None and ranks.is_main and not (run / CHECKPOINT).exists():
            (run / EARLIER).write_text(earlier_pictures(weights))
        training = rows_with_role(roles, SplitRole.TRAIN)
        console.print(_what_an_epoch_is(len(training), config), highlight=False, soft_wrap=True)
        sampler = make_sampler(pictures, training, config, heads, masks)
        validation = pictures.select(deduplicate(rows, rows_with_role(roles, SplitRole.VALIDATION)))
        for index, name in enumerate(classes.names):
            if index not in validation.labels:
                raise StartError("empty-class", f"class {name} has no picture in the validation split")
        teacher_files = [teacher / BEST for teacher in teachers]
        checkpoints = [read_checkpoint(file) for file in teacher_files]
        provenance = {
            "data_sha256": data_sha256(rows),
            "split_sha256": split_sha256(rows, roles),
            "commit": current_commit(),
            "healthy_sha256": healthy_sha256,
            "teachers_sha256": files_sha256(teacher_files),
        }
        teacher = (
            load_teachers(checkpoints, provenance["split_sha256"], classes, config.device) if checkpoints else None
        )
        state, provenance = _start(run, config, provenance, weights, classes)
        ranks.broadcast(0.0)  # nothing is written before every rank has read the run
        if ranks.is_main:
            (run / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        extra = open_tracker(tracker, run, config.model_dump()) if tracker is not None and ranks.is_main else None
        with EpochLog(run, state.epoch, extra) if ranks.is_main else nullcontext() as log:
            _loop(run, state, sampler, validation, config, provenance, console, on_epoch, teacher, ranks, log, draw)
    return run / BEST


def _what_an_epoch_is(pictures: int, config: TrainConfig) -> str:
    """An epoch is no passage through the pictures, which their number alone would suggest."""
    each = config.samples_per_epoch / max(1, pictures)
    return (
        f"{counted(pictures, 'picture')} for training; "
        f"an epoch draws {counted(config.samples_per_epoch, 'sample')} of them, "
        f"{each:.1f} of each on average (--samples)"
    )


def _start(
    run: Path, config: TrainConfig, provenance: dict[str, str], weights: Path | None, classes: Classes
) -> tuple[TrainingState, dict[str, str]]:
    """The run's checkpoint, or a fresh state, from `weights` if given; with its provenance."""
    state = new_state(config, classes)
    if config.map_loss and not state.model.network.has_maps:
        raise StartError("no-maps", f"{config.network} has no activation maps: set map_loss to 0")
    if (run / CHECKPOINT).exists():
        provenance = resume(run / CHECKPOINT, state, config, provenance)
    elif weights is not None:
        load_weights(state.model, weights)
        provenance = {**provenance, "initial_weights_sha256": lineage(weights)}
        state.average.load_state_dict(state.model.state_dict())
    return state, provenance


def _loop(
    run: Path,
    state: TrainingState,
    sampler: BatchSampler,
    validation: Pictures,
    config: TrainConfig,
    provenance: dict[str, str],
    console: Console,
    on_epoch: Callable[[int, float], None] | None,
    teachers: Teachers | None,
    ranks: Ranks,
    log: EpochLog | None,
    draw: DrawEpoch | None,
) -> None:
    while state.epoch < config.epochs:
        if config.patience is not None and state.epoch - state.best_epoch > config.patience:
            console.print(f"no better validation figure in {counted(config.patience, 'epoch')}: stopped")
            return
        start = time.monotonic()
        with Progress(console=console, transient=True) as progress:
            loss = train_epoch(state, sampler, config, progress, teachers, ranks)
        seconds = time.monotonic() - start
        state.epoch += 1
        figure, validation_loss, logits = 0.0, 0.0, torch.empty(0)
        if ranks.is_main:
            figure, validation_loss, logits = _validate(state, validation, config)
        figure = ranks.broadcast(figure)  # so that every rank stops early after the same epoch
        # Of equal figures, the later, more annealed weights are preferred.
        better = figure >= state.best
        if better:
            state.best, state.best_epoch = figure, state.epoch
        if log is None:
            continue
        if better:
            save(run / BEST, state, config, provenance)
        last_rate = state.optimizer.param_groups[0]["lr"]
        speed = config.samples_per_epoch / seconds
        pictures: Mapping[str, bytes] = {}
        if draw is not None and (state.epoch % -(-config.epochs // _DRAWN) == 0 or state.epoch == config.epochs):
            shown = sampler.batch(config.batch, torch.Generator().manual_seed(state.epoch))
            pictures = draw(state.average, shown, validation, logits)
        log.add(state.epoch, loss, figure, validation_loss, last_rate, speed, pictures)
        save(run / CHECKPOINT, state, config, provenance)
        console.print(
            f"epoch {state.epoch}/{config.epochs}  loss {loss:.4f}  validation balanced accuracy {figure:.4f} "
            f"(n={len(validation.rows)})  best {state.best:.4f}"
        )
        if on_epoch is not None:
            on_epoch(state.epoch, figure)


def _validate(state: TrainingState, validation: Pictures, config: TrainConfig) -> tuple[float, float, torch.Tensor]:
    """Balanced accuracy, loss and logits [n, classes] of the averaged weights on the validation part."""
    logits = predict_logits(state.average, validation.pixels, config)[:, : len(validation.classes)]
    loss = classification_loss(logits, validation.labels, 0.0, validation.classes)
    return balanced_accuracy(logits, validation.labels), float(loss), logits


def rows_with_role(roles: Sequence[SplitRole], role: SplitRole) -> list[int]:
    """The positions of the rows that have this role."""
    return [i for i, own in enumerate(roles) if own is role]
