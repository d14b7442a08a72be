"""What kind of checkpoint a file is, and that nothing in it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_train.export.imported.checkpoint import read_checkpoint
from worker.errors import StartError


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (__import__("os").mkdir, (str(self.mark),))


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": _Hostile(tmp_path / "ran")}, tmp_path / "hostile.pt")
    with pytest.raises(StartError, match="holds Python objects"):
        read_checkpoint(tmp_path / "hostile.pt")
    assert not (tmp_path / "ran").exists()


def test_wrappers_and_nesting_are_taken_off_and_halves_become_floats(tmp_path: Path) -> None:
    state = {"module.fc.weight": torch.ones(2, 3).half(), "module.fc.bias": torch.zeros(2)}
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "last.pt")
    read = read_checkpoint(tmp_path / "last.pt")
    assert read.kind == "state_dict"
    assert read.state is not None
    assert list(read.state) == ["fc.weight", "fc.bias"]
    assert read.state["fc.weight"].dtype == torch.float32


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(StartError, match=r"file\.pt"):
        read_checkpoint(tmp_path / "file.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(StartError, match="no tensors"):
        read_checkpoint(tmp_path / "empty.pt")
