"""Pictures of a training run: samples of a batch, activation maps, confusion matrix and ROC of the validation part."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from monai_train.data.dataset import Pictures
from monai_train.data.explore_pictures import tiled
from monai_train.data.labels import UNLABELLED
from monai_train.evaluation import plots
from monai_train.evaluation.activation import overlay
from monai_train.evaluation.intervals import Estimate, figure_counts, weighted_figures
from monai_train.evaluation.metrics import Predictions
from monai_train.networks.classifier import Classifier
from monai_train.training.sampling import Batch

_SAMPLES = 16
_MAPS = 8
_TILE = 160  # pixels a side at most


def epoch_pictures(model: Classifier, batch: Batch, validation: Pictures, logits: torch.Tensor) -> dict[str, bytes]:
    """PNG by name: samples of a batch, activation maps, confusion matrix and ROC.

    `logits` [n, classes] are the model's answers to the validation pictures. Maps are missing where the network has
    none, the ROC where only one truth occurs.
    """
    drawn = {"training/samples": _samples(batch, validation)}
    maps = _maps(model, validation)
    if maps is not None:
        drawn["validation/maps"] = maps
    known = validation.labels != UNLABELLED
    groups = np.array([row.patient_group or row.path for row in validation.rows])[known.numpy()]
    truth = validation.labels[known].numpy()
    probabilities = logits[known].softmax(dim=1).numpy()
    answers = Predictions(validation.classes, truth, probabilities, groups, np.ones(len(truth), bool))
    drawn["validation/confusion"] = plots.confusion_chart(answers)
    if plots.binary_curves(answers):
        counts = figure_counts(answers)
        figures = weighted_figures(answers, np.ones((1, len(truth))))
        of_run = {name: Estimate(float(value[0]), None, None, counts[name]) for name, value in figures.items()}
        drawn["validation/roc"] = plots.roc_chart(answers, of_run)
    return drawn


def _samples(batch: Batch, validation: Pictures) -> bytes:
    """The first samples of a batch as the network sees them, each with its label."""
    names = (*validation.classes.label_names, "no label")
    pixels = batch.images[:_SAMPLES, 0].mul(255).clamp(0, 255).byte().cpu().numpy()
    captions = [plots.class_title(names[label])[:22] for label in batch.labels[:_SAMPLES].tolist()]
    return tiled([_small(Image.fromarray(image)) for image in pixels], 8, "L", captions)


def _maps(model: Classifier, validation: Pictures) -> bytes | None:
    """The same lesions at every epoch, each beside its map of the class that it is, and its box."""
    lesions = torch.isin(validation.labels, torch.tensor(validation.classes.lesions)).nonzero()[:, 0]
    if not model.network.has_maps or not len(lesions):
        return None
    chosen = lesions[torch.linspace(0, len(lesions) - 1, min(_MAPS, len(lesions))).round().long()]
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        maps = model(validation.pixels[chosen].float().div(255).to(device)).maps.float().cpu().numpy()
    tiles, captions = [], []
    for number, index in enumerate(chosen.tolist()):
        label = int(validation.labels[index])
        drawn = overlay(validation.pixels[index, 0].numpy(), maps[number, label], validation.boxes[index].numpy())
        tiles.append(_small(Image.open(io.BytesIO(drawn))))
        captions.append(plots.class_title(validation.classes.names[label]))
    return tiled(tiles, 2, "RGB", captions)


def _small(image: Image.Image) -> Image.Image:
    """At most _TILE pixels high."""
    scale = min(1.0, _TILE / image.height)
    return image.resize((round(image.width * scale), round(image.height * scale)))
