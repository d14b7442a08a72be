"""The JSON files of a bundle: what they say is what the run and the other files are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from monai_train.data.dataset import PREPROCESSING_FILE
from monai_train.evaluation.evaluate import read_split, run_split
from monai_train.export.bundle_files import write_json, write_worker_json
from tests.testbed.converted import CLASSES


def test_preprocessing_is_copied_byte_for_byte(exported: Path) -> None:
    assert PREPROCESSING_FILE.read_text().strip() in (exported / "configs/inference.json").read_text()


def test_metadata_name_the_classes_and_the_runs_split(exported: Path, tiny_run: Path) -> None:
    metadata = json.loads((exported / "configs/metadata.json").read_text())
    assert list(metadata["network_data_format"]["outputs"]["logits"]["channel_def"].values()) == list(CLASSES.names)
    assert read_split(exported) == run_split(tiny_run)
    assert metadata["intended_use"] == "research use only"


def test_every_other_file_is_listed_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/README.md").write_text("a card")
    write_json(tmp_path / "a.json", {"x": 1})
    for _ in range(2):  # an earlier worker.json is not listed
        write_worker_json(tmp_path, {"name": "n"})
    written = json.loads((tmp_path / "worker.json").read_text())
    assert written["name"] == "n"
    assert written["files"] == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.json", "docs/README.md")
    }
