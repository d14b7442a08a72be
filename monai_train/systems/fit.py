"""Train a network on a protocol's pictures by its recipe and record its learning curves; the test decides nothing."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from monai_train.config import TrainConfig
from monai_train.networks.classifier import Classifier
from monai_train.systems.definitions import Recipe
from monai_train.training.augment import augment
from monai_train.training.mixed_precision import mixed_precision
from monai_train.training.train import DivergedError, adamw, learning_rate, update_average

CURVE_PICTURES = 256  # of the test part, drawn once: all of it is measured at the end


@dataclass(frozen=True, eq=False, slots=True)
class LabelledPictures:
    """`pixels` uint8 [n, 1, s, s]; `labels` int64 [n]."""

    pixels: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """An epoch of the learning curves; the test figures are of at most 256 pictures."""

    epoch: int
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True, eq=False, slots=True)
class FitResult:
    """`probabilities` float32 [n, classes] of the test part after the last epoch."""

    curves: tuple[CurvePoint, ...]
    probabilities: torch.Tensor
    seconds: float

    def curves_json(self) -> list[dict[str, float]]:
        """The curves as plain values."""
        return [{key: round(value, 5) for key, value in asdict(point).items()} for point in self.curves]


def make_optimizer(model: Classifier, recipe: Recipe, frozen: bool) -> torch.optim.Optimizer:
    """AdamW over the parameters that learn: all, or only the last layer's."""
    if frozen:
        for name, parameter in model.net.named_parameters():
            parameter.requires_grad_(name.startswith(f"{model.network.head}."))
    return adamw(model.parameters(), recipe.learning_rate, recipe.weight_decay)


@torch.no_grad()
def class_probabilities(model: Classifier, pixels: torch.Tensor, device: str, flip: bool) -> torch.Tensor:
    """Class probabilities [n, classes] of uint8 pictures; with `flip`, averaged with the mirror image's."""
    model.eval()
    answers = []
    for images in torch.split(pixels, 64):
        batch = images.to(device).float().div(255)
        views = (batch, batch.flip(3)) if flip else (batch,)
        answers.append(torch.stack([model(view).logits.float().softmax(dim=1) for view in views]).mean(dim=0).cpu())
    return torch.cat(answers)


class Fitting:
    """A network in training: its optimizer, its averaged weights and its draws, advanced step by step."""

    def __init__(
        self, model: Classifier, train: LabelledPictures, recipe: Recipe, frozen: bool, seed: int, device: str
    ) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model) if recipe.ema_decay else self.model
        self.optimizer = make_optimizer(self.model, recipe, frozen)
        self.train, self.recipe, self.frozen, self.device = train, recipe, frozen, device
        self.generator = torch.Generator().manual_seed(seed)
        counts = train.labels.bincount().float()
        self.weights = 1 / counts[train.labels]
        # A last batch of a single picture is dropped: batch norm needs two.
        self.steps = max(1, (len(train.labels) + recipe.batch - 2) // recipe.batch)
        self._rates = TrainConfig(learning_rate=recipe.learning_rate)

    def draw_batches(self) -> list[torch.Tensor]:
        """The batches of an epoch, as positions."""
        n = len(self.train.labels)
        if self.recipe.balanced:
            drawn = torch.multinomial(self.weights, n, replacement=True, generator=self.generator)
        else:
            drawn = torch.randperm(n, generator=self.generator)
        return list(torch.split(drawn, self.recipe.batch))[: self.steps]

    def step(self, chosen: torch.Tensor, done: int) -> tuple[float, int]:
        """Take an optimizer step; returns the loss and how many of the batch were right. Raises DivergedError."""
        recipe = self.recipe
        images = self.train.pixels[chosen].float().div(255)
        if recipe.augmentation is not None:
            images, _ = augment(images, recipe.augmentation, self.generator)
        labels = self.train.labels[chosen].to(self.device)
        if recipe.one_cycle:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self._rates, done, recipe.epochs * self.steps)
        with mixed_precision(self.device):
            logits = self.model(images.to(self.device, memory_format=torch.channels_last)).logits
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss is not a number in step {done + 1}: try a lower learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        if self.average is not self.model:
            # In a short run the average must not reach back to its beginning.
            update_average(self.average, self.model, min(recipe.ema_decay, (1 + done) / (10 + done)))
        return loss.item(), int((logits.argmax(dim=1) == labels).sum())

    def start_epoch(self) -> None:
        """Switch to training mode; frozen layers keep their statistics."""
        self.model.train(not self.frozen)


def seconds_per_step(fitting: Fitting) -> float:
    """The time of an optimizer step, measured on the second."""
    fitting.start_epoch()
    chosen = fitting.draw_batches()[0]
    fitting.step(chosen, 0)
    start = time.monotonic()
    fitting.step(chosen, 0)
    return time.monotonic() - start


def fit(fitting: Fitting, test: LabelledPictures, on_epoch: Callable[[CurvePoint], Any] = lambda _: None) -> FitResult:
    """Train every epoch of the recipe, then classify the test part. Raises DivergedError."""
    start = time.monotonic()
    drawn = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))[:CURVE_PICTURES]
    sample = LabelledPictures(test.pixels[drawn], test.labels[drawn])
    curves: list[CurvePoint] = []
    recipe, done = fitting.recipe, 0
    for epoch in range(1, recipe.epochs + 1):
        fitting.start_epoch()
        total, right, seen = 0.0, 0, 0
        for chosen in fitting.draw_batches():
            loss, correct = fitting.step(chosen, done)
            total, right, seen, done = total + loss * len(chosen), right + correct, seen + len(chosen), done + 1
        answers = class_probabilities(fitting.average, sample.pixels, fitting.device, recipe.flip_test)
        test_loss = float(functional.nll_loss(answers.clamp(min=1e-9).log(), sample.labels))
        accuracy = float((answers.argmax(dim=1) == sample.labels).float().mean())
        curves.append(CurvePoint(epoch, total / seen, right / seen, test_loss, accuracy))
        on_epoch(curves[-1])
    answers = class_probabilities(fitting.average, test.pixels, fitting.device, recipe.flip_test)
    return FitResult(tuple(curves), answers, time.monotonic() - start)
