"""Distil finished runs into a single network that the worker can serve (Hinton et al. 2015).

The student learns from the mean of its teachers' probabilities on its own augmented batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from monai_train.data.labels import Classes
from monai_train.networks.classifier import Classifier
from monai_train.training.checkpoint import Checkpoint
from worker.errors import StartError


class Teachers:
    """The averaged weights of finished runs, frozen."""

    def __init__(self, models: Sequence[Classifier], classes: int) -> None:
        self._models, self._classes = models, classes

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """The mean of the teachers' class probabilities: images float32 [n, 1, s, s] → [n, classes]."""
        logits = (model(images).logits[:, : self._classes] for model in self._models)
        return torch.stack([own.float().softmax(dim=1) for own in logits]).mean(dim=0)


def load_teachers(checkpoints: Sequence[Checkpoint], split_sha256: str, classes: Classes, device: str) -> Teachers:
    """Load the teachers from the best checkpoints of their runs.

    Raises StartError for a teacher of another split, which may have seen the student's test patients.
    """
    models = []
    for checkpoint in checkpoints:
        if checkpoint.provenance["split_sha256"] != split_sha256:
            raise StartError("other-split", "a teacher was trained on other data or another split than the student")
        if checkpoint.classes != classes.names:
            raise StartError("other-classes", "a teacher has other classes than the student")
        models.append(checkpoint.classifier().to(device).requires_grad_(False))
    return Teachers(models, len(classes))


def distillation_loss(logits: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the student [n, classes] from the teachers' probabilities, mean → scalar."""
    return torch.nn.functional.kl_div(logits.float().log_softmax(dim=1), probabilities, reduction="batchmean")


def files_sha256(files: Sequence[Path]) -> str:
    """SHA-256 that identifies the contents of the files, in order; "" without files."""
    digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    return hashlib.sha256(b"".join(digests)).hexdigest() if digests else ""
