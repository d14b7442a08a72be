"""A configuration is read with its overrides, and a fault names its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_train.config import read_config, settings
from worker.errors import StartError

ROOT = Path(__file__).parents[3]


def test_configuration_faults_name_the_key(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"epochs": 3, "augmentation": {"flipp": 1}}')
    with pytest.raises(StartError, match=r"augmentation\.flipp"):
        read_config(file)
    file.write_text("{")
    with pytest.raises(StartError, match="not JSON"):
        read_config(file)
    file.write_text('{"epochs": 3}')
    assert read_config(file, epochs=5, seed=None).epochs == 5


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot read"):
        read_config(tmp_path / "absent.json")


def test_defaults_hold_without_a_file() -> None:
    config = read_config(None, threads=3)
    assert (config.network, config.threads, config.external) == ("resnet18-slim", 3, ("navoneel",))
    assert sum(share for _, share in config.shares) == pytest.approx(1)


def test_configurations_that_the_default_model_was_trained_by_are_still_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "default-model.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```json\n")[1:]]
    assert len(blocks) == 7
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.json"
        file.write_text(block)
        config = read_config(file)
        assert config.model_dump(exclude_unset=True)["shares"] == json.loads(block)["shares"]


def test_every_setting_is_documented_with_its_default() -> None:
    document = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    found = list(settings())
    assert {"samples_per_epoch", "shares.tumour", "augmentation.flip"} <= {setting.key for setting in found}
    for setting in found:
        assert setting.meaning, setting.key
        assert f"| `{setting.key}` | `{setting.default}` | {setting.meaning} |\n" in document
    assert document.count("\n| `") == len(found)


def test_every_setting_can_be_set_by_its_key(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"batch": 8, "augmentation": {"flip": 1}}')
    assigned = ["batch=16", "augmentation.blur=0.5", "patience=null", "sampling=classes", 'external=["a", "b"]']
    config = read_config(file, assigned, epochs=3)
    assert (config.batch, config.epochs, config.patience, config.sampling) == (16, 3, None, "classes")
    assert (config.augmentation.flip, config.augmentation.blur, config.external) == (1, 0.5, ("a", "b"))
    assert read_config(file, ["batch=16"], batch=32).batch == 32
    for setting in settings():
        read_config(None, [f"{setting.key}={setting.default}"])
    for text, advice in (("epoch=3", "did you mean epochs"), ("zzz=1", "monai-train settings"), ("batch", "KEY=VALUE")):
        with pytest.raises(StartError, match=advice):
            read_config(None, [text])
    with pytest.raises(StartError, match="batch"):
        read_config(None, ["batch=many"])
