"""Average the weights of several runs of a network (Wortsman et al. 2022, model soups).

The runs must have started from the same weights (`train --weights`). Runs with different initial weights end in
different minima, between which the mean is useless: it is measured on the validation part and rejected. For such runs,
use `train --teachers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from monai_train.data.dataset import Pictures
from monai_train.networks.classifier import Classifier
from monai_train.training.train import balanced_accuracy
from worker.errors import StartError

_STATISTICS_PICTURES = 1024
_BATCH = 64
_TOLERATED_LOSS = 0.01  # of validation balanced accuracy against the best run


def average_weights(
    model: Classifier, weights: Sequence[Mapping[str, torch.Tensor]], training: Pictures, validation: Pictures
) -> list[float]:
    """Load the mean of the runs' weights into `model` and recompute the statistics of its norms on training pictures.

    Returns the validation balanced accuracy of every run and, last, of the mean. Raises StartError if the mean is
    more than a percentage point below the best run.
    """
    figures = []
    for run_weights in weights:
        model.load_state_dict(run_weights)
        figures.append(_figure(model, validation))
    model.load_state_dict({key: _mean([run_weights[key] for run_weights in weights]) for key in weights[0]})
    _measure_statistics(model, training.pixels)
    figures.append(_figure(model, validation))
    if figures[-1] < max(figures[:-1]) - _TOLERATED_LOSS:
        of_runs = ", ".join(f"{figure:.3f}" for figure in figures[:-1])
        raise StartError(
            "average-worse",
            f"the mean of the weights reaches {figures[-1]:.3f} of balanced accuracy in validation, its runs "
            f"{of_runs}: average runs that started from the same --weights, or use `train --teachers`",
        )
    return figures


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([value.float() for value in values]).mean(dim=0).to(values[0].dtype)


@torch.no_grad()
def _measure_statistics(model: Classifier, pixels: torch.Tensor) -> None:
    """Recompute running mean and variance of every batch norm over up to 1,024 pictures without augmentation."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then computes the plain mean over all batches
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(pixels), generator=generator)[:_STATISTICS_PICTURES]
    model.train()
    for part in torch.split(chosen, _BATCH):
        if len(part) > 1:
            model(pixels[part].float() / 255)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def _figure(model: Classifier, pictures: Pictures) -> float:
    model.eval()
    count = len(pictures.classes)
    logits = torch.cat([model(part.float() / 255).logits[:, :count] for part in torch.split(pictures.pixels, _BATCH)])
    return balanced_accuracy(logits, pictures.labels)
