"""The outputs of the last layer are told apart by their places."""

from __future__ import annotations

import torch

from monai_train.networks.outputs import OutputLayout


def test_outputs_are_split_in_order() -> None:
    layout = OutputLayout(3, 2, 1)
    classes, sequences, regions = layout.split(torch.arange(6)[None])
    assert classes.tolist() == [[0, 1, 2]]
    assert sequences.tolist() == [[3, 4]]
    assert regions.tolist() == [[5]]
    assert layout.size == 6


def test_classes_alone_leave_the_others_empty() -> None:
    classes, sequences, regions = OutputLayout(4).split(torch.zeros(2, 4, 5, 5))
    assert classes.shape == (2, 4, 5, 5)
    assert sequences.shape[1] == regions.shape[1] == 0
