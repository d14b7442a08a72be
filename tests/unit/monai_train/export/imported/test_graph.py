"""Graphs whose inputs or outputs are not those of a classifier are refused with what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_train.export.imported import graph
from monai_train.export.imported.checkpoint import read_checkpoint
from tests.testbed import tutorial
from worker.errors import StartError


class _Net(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.linear = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> Any:
        pooled = self.conv(image).mean(dim=(2, 3))
        if self.kind == "two outputs":
            return self.linear(pooled), pooled
        return self.conv(image) if self.kind == "segmentation" else self.linear(pooled)


@pytest.mark.parametrize(
    ("kind", "fault"), [("two outputs", r"gives \[\?,3\], \[\?,4\]"), ("segmentation", "expected is")]
)
def test_an_output_that_is_no_class_is_refused(tmp_path: Path, kind: str, fault: str) -> None:
    tutorial.write_onnx(_Net(kind).eval(), tmp_path / "m.onnx")
    with pytest.raises(StartError, match=fault):
        graph.of_graph(read_checkpoint(tmp_path / "m.onnx"), (1, 64, 64))


def test_an_input_of_another_size_is_refused(tmp_path: Path) -> None:
    tutorial.write_onnx(_Net("plain").eval(), tmp_path / "m.onnx")
    read = read_checkpoint(tmp_path / "m.onnx")
    assert graph.dimensions_of(read) == 2
    for shape in ((1, 32, 32), (3, 64, 64), (1, 64, 64, 64)):
        with pytest.raises(StartError, match="the preprocessing gives"):
            graph.of_graph(read, shape)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(StartError, match="is no ONNX that OpenVINO reads"):
        graph.dimensions_of(read_checkpoint(tmp_path / "broken.onnx"))


def test_rows_that_sum_to_one_are_probabilities() -> None:
    assert graph.gives_probabilities(np.array([[0.2, 0.8], [1.0, 0.0]], np.float32))
    assert not graph.gives_probabilities(np.array([[0.2, 0.8], [2.0, -1.0]], np.float32))
