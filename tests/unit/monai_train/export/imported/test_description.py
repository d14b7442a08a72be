"""The owner's description of a model: TOML, and preprocessing as MONAI configurations have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.export.imported.description import read_description
from tests.testbed import tutorial
from worker.errors import StartError

HEAD = tutorial.MODEL[: tutorial.MODEL.index("[[class]]")]
CLASSES = tutorial.MODEL[tutorial.MODEL.index("[[class]]") : tutorial.MODEL.index("[[transform]]")]


def test_slices_that_decide_depend_on_whether_a_class_finds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text(tutorial.MODEL)
    description, transforms = read_description(path)
    assert description.share_of_slices == 0.125
    assert [step.name for step in transforms.steps] == ["LoadImage", "EnsureChannelFirst", "ScaleIntensity"]
    found = 'finding = {value = "1", scheme = "99X", meaning = "Nothing"}\nsite'
    path.write_text(tutorial.MODEL.replace('title = "No spot"\nsite', f'title = "No spot"\n{found}'))
    assert read_description(path)[0].share_of_slices == 1.0


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_the_preprocessing_of_a_monai_bundle_is_read_with_its_dictionary_transforms(
    tmp_path: Path, suffix: str
) -> None:
    (tmp_path / f"inference.{suffix}").write_text(
        """{"preprocessing": {"_target_": "Compose", "transforms": [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": ["image"]},
        {"_target_": "monai.transforms.ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255}]}}"""
    )
    path = tmp_path / "model.toml"
    path.write_text(f'preprocessing = "inference.{suffix}"\n{HEAD}{CLASSES}')
    _, transforms = read_description(path)
    assert transforms.steps[2].name == "ScaleIntensityRange"
    assert transforms.steps[2].arguments == {"a_min": 0, "a_max": 255}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (HEAD, "class: Field required"),
        (HEAD + CLASSES, r"give either \[\[transform\]\] tables or preprocessing"),
        (tutorial.MODEL.replace('version = "1.2.0"', "version = 3"), "version: Input should be a valid string"),
        (tutorial.MODEL.replace('title = "No spot"', 'title = "No spot"\nneoplasm = true'), "needs a finding"),
        ("name = ", "is not TOML"),
    ],
)
def test_a_fault_has_its_place(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(StartError, match=fault):
        read_description(path)
    with pytest.raises(StartError, match="cannot read"):
        read_description(tmp_path / "nowhere.toml")
