"""`monai-train import`, as a person calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from monai_train.cli import app
from tests.testbed import tutorial


def test_import_writes_a_bundle_and_says_how_to_serve_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from monai.networks.nets import DenseNet

    network = DenseNet(spatial_dims=2, in_channels=1, out_channels=3, **tutorial.NETWORK)
    torch.save(network.state_dict(), tmp_path / "model.pth")
    (tmp_path / "model.toml").write_text(tutorial.MODEL)
    tutorial.write_series(tmp_path / "dicom", "left")
    arguments = [str(tmp_path / "model.pth"), "--model", str(tmp_path / "model.toml")]
    arguments += ["--dicom", str(tmp_path / "dicom"), "--out", str(tmp_path / "bundle")]
    monkeypatch.setattr(sys, "argv", ["monai-train", "import", *arguments])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    printed, told = capsys.readouterr()
    steps = ["checkpoint: model.pth", "series of ", "DenseNet: 1 series", "network: OpenVINO", "golden cases"]
    places = [told.index(step) for step in steps]
    assert places == sorted(places), "what it is doing is said in the order in which it does it"
    assert "worker models shadow spot-finder 1.2.0" in printed
    assert "note: no image will be called out of distribution" in printed
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    assert "exists already" in capsys.readouterr().err
