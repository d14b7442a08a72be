"""docs/train-your-own.md, followed line by line on synthetic heads."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import monai_train.cli.app
from tests.testbed.converted import SIZE, head
from tests.testbed.instances import encoded, mr_instance
from tests.testbed.worker_process import run_worker

DOCUMENT = Path(__file__).parents[2] / "docs/train-your-own.md"
PATIENTS = 14
QUICK = {
    "network": "resnet18-slim",
    "epochs": 2,
    "samples_per_epoch": 96,
    "batch": 16,
    "ema_decay": 0.8,
    "threads": 1,
    "test_share": 0.3,
    "validation_share": 0.3,
}


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def _make_images(folder: Path) -> None:
    """Pictures with their patients, and a DICOM series of each class with its label."""
    generator = np.random.default_rng(3)
    groups, labels = ["path,patient_group"], ["series_instance_uid,label"]
    for label, drawn in (("abscess", "glioma"), ("notumor", "notumor")):
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(2 * PATIENTS):
            path = f"{label}/{number:04d}.png"
            Image.fromarray(head(drawn, generator)).save(folder / "pictures" / path)
            groups.append(f"{path},{label}-{number // 2}")
        (folder / "dicom" / label).mkdir(parents=True)
        for number in range(1, 4):
            ds = mr_instance(number, label, Rows=SIZE, Columns=SIZE)
            ds.PixelData = (head(drawn, generator).astype(np.uint16) * 4).tobytes()
            (folder / "dicom" / label / f"{number}.dcm").write_bytes(encoded(ds))
        labels.append(f"{ds.SeriesInstanceUID},{label}")
    (folder / "groups.csv").write_text("\n".join(groups) + "\n")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")


def test_the_page_leads_from_images_to_a_model_in_shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make_images(tmp_path)
    [settings], [concepts] = _blocks("json"), _blocks("toml")
    (tmp_path / "settings.json").write_text(json.dumps({**json.loads(settings), **QUICK}))
    (tmp_path / "concepts.toml").write_text(concepts)
    monkeypatch.chdir(tmp_path)
    printed = ""
    for line in "".join(_blocks("sh")).splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "monai-train":  # within this process, which has the libraries of training loaded
            trained = CliRunner().invoke(monai_train.cli.app.app, arguments)
            assert trained.exit_code == 0, f"{line}\n{trained.output}\n{trained.exception!r}"
            continue
        assert program == "worker"
        done = run_worker(*arguments)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        printed = done.stdout
    assert "abscess-finder" in printed
    assert "shadow" in printed
    described = json.loads((tmp_path / "bundle/worker.json").read_text())
    assert [item["name"] for item in described["classes"]] == ["notumor", "abscess"]
    for dataset, images in (("dataset", 4 * PATIENTS), ("dicom-dataset", 6)):
        assert len(list((tmp_path / dataset / "images").rglob("*.dcm"))) == images
        assert "Family" not in (tmp_path / dataset / "manifest.csv").read_text()
