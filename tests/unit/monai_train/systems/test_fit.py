"""The training loop of the reference systems."""

from __future__ import annotations

import torch

from monai_train.networks.registry import make_classifier
from monai_train.systems.definitions import Recipe
from monai_train.systems.fit import CurvePoint, Fitting, LabelledPictures, class_probabilities, fit
from tests.testbed.reference_systems import TINY_RECIPE


def test_frozen_network_learns_its_last_layer_alone() -> None:
    torch.manual_seed(0)
    model = make_classifier("vgg16", 2)
    before = {key: value.clone() for key, value in model.net.state_dict().items()}
    recipe = Recipe(network="vgg16", size=32, epochs=1, batch=4, learning_rate=1e-2, frozen=True)
    images = (torch.rand(8, 1, 32, 32) * 255).to(torch.uint8)
    examples = LabelledPictures(images, torch.arange(8) % 2)
    fit(Fitting(model, examples, recipe, True, 7, "cpu"), examples)
    changed = {key for key, value in model.net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"head.weight", "head.bias"}


def test_a_point_of_the_curves_for_every_epoch_and_probabilities_of_the_test() -> None:
    torch.manual_seed(0)
    labels = torch.arange(12) % 4
    pixels = (labels * 60).to(torch.uint8)[:, None, None, None].expand(12, 1, 32, 32).contiguous()
    examples = LabelledPictures(pixels, labels)
    recipe = TINY_RECIPE.model_copy(update={"epochs": 3, "batch": 5})
    points: list[CurvePoint] = []
    fitting = Fitting(make_classifier("c-linear", 4), examples, recipe, False, 7, "cpu")
    result = fit(fitting, examples, points.append)
    assert [point.epoch for point in points] == [1, 2, 3]
    assert result.curves == tuple(points)
    assert result.probabilities.shape == (12, 4)
    torch.testing.assert_close(result.probabilities.sum(dim=1), torch.ones(12))
    assert result.curves_json()[0].keys() == {"epoch", "loss", "accuracy", "test_loss", "test_accuracy"}


def test_batches_hold_every_picture_once_and_a_single_last_one_is_dropped() -> None:
    for n, sizes in ((12, [5, 5, 2]), (11, [5, 5])):
        examples = LabelledPictures(torch.zeros(n, 1, 32, 32, dtype=torch.uint8), torch.arange(n) % 4)
        recipe = TINY_RECIPE.model_copy(update={"batch": 5})
        fitting = Fitting(make_classifier("c-linear", 4), examples, recipe, False, 7, "cpu")
        batches = fitting.draw_batches()
        assert [len(batch) for batch in batches] == sizes
        drawn = torch.cat(batches).tolist()
        assert len(set(drawn)) == len(drawn)


def test_flip_averages_with_the_mirror_image() -> None:
    torch.manual_seed(0)
    model = make_classifier("c-linear", 4)
    pixels = (torch.rand(3, 1, 32, 32) * 255).to(torch.uint8)
    plain, mirrored = (class_probabilities(model, view, "cpu", flip=False) for view in (pixels, pixels.flip(3)))
    torch.testing.assert_close(class_probabilities(model, pixels, "cpu", flip=True), (plain + mirrored) / 2)
