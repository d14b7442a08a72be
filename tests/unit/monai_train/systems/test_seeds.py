"""The five systems are measured row by row; what is stored is not measured again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from monai_train.networks.registry import make_classifier
from monai_train.systems.definitions import Protocol, Task
from monai_train.systems.fit import Fitting, LabelledPictures, fit
from monai_train.systems.results import ensemble_result, read_result
from monai_train.systems.seeds import SeedsSettings, labelled_pictures, measure_systems
from monai_train.training.train import DivergedError
from tests.testbed.converted import CLASSES
from tests.testbed.reference_systems import TINY_RECIPE, manifest_row, tiny_system
from worker.errors import StartError

QUIET = Console(quiet=True)
OURS_TINY = dict.fromkeys(Task, TINY_RECIPE)


def test_copies_are_altered_and_the_same_every_time() -> None:
    rows = [manifest_row(0, CLASSES.no_tumour, "a"), manifest_row(1, CLASSES.any_tumour, "b")]
    pixels = {
        i: (torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(i)) * 255).to(torch.uint8) for i in (0, 1)
    }
    made = labelled_pictures([(0, 0), (0, 1), (1, 1)], rows, pixels, Task.YES_NO)
    again = labelled_pictures([(0, 0), (0, 1), (1, 1)], rows, pixels, Task.YES_NO)
    assert torch.equal(made.pixels, again.pixels)
    assert torch.equal(made.pixels[0], pixels[0])
    assert not torch.equal(made.pixels[1], pixels[0])
    assert made.labels.tolist() == [1, 1, 0]


def test_rows_are_kept_and_the_table_tells(tiny_data: Path, tmp_path: Path) -> None:
    settings = SeedsSettings(tiny_data, tmp_path, 1.0, "cpu", {})
    tiny = tiny_system(Protocol.RANDOM_VALIDATION, ensemble=True)
    text = measure_systems([tiny], settings, OURS_TINY, None, QUIET)
    assert "c-linear" in text
    assert "**leaky**" in text
    assert "Ours must reach 50.0 %" in text
    files = sorted(path.name for path in (tmp_path / "rows").glob("*.json"))
    assert files == [
        "c-linear-random-validation-four.json", "ours-grouped-four.json", "ours-random-validation-four.json",
        "t-ensemble.json",
    ]  # fmt: skip
    assert len(list((tmp_path / "rows").glob("*.png"))) == 3
    stored = json.loads((tmp_path / "rows" / files[0]).read_text())
    assert len(stored["curves"]) == TINY_RECIPE.epochs
    assert sum(map(sum, stored["confusion_matrix"])) == stored["n_test"]
    alone, together = read_result(tmp_path / "rows", files[0][:-5]), read_result(tmp_path / "rows", "t-ensemble")
    assert alone is not None
    assert together is not None
    assert together.confusion_matrix == alone.confusion_matrix  # of one network
    assert ensemble_result("x", [alone, alone.model_copy(update={"truths": alone.truths[::-1]})]) is None
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").glob("*-four.json")}
    (tmp_path / "rows" / "ours-grouped-four.json").write_text("{")  # cut off
    measure_systems([tiny], SeedsSettings(tiny_data, tmp_path, 0.5, "cpu", {}), OURS_TINY, None, QUIET)
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed == {"ours-grouped-four.json"}  # a smaller fraction does not replace a fuller row
    again = read_result(tmp_path / "rows", "ours-grouped-four")
    assert again is not None
    assert again.fraction == 0.5


def test_loss_that_is_not_a_number_is_a_row_that_says_so(tiny_data: Path, tmp_path: Path) -> None:
    wild = TINY_RECIPE.model_copy(update={"learning_rate": 1e30, "network": "e-cnn"})
    tiny = tiny_system(Protocol.RANDOM_VALIDATION, recipe=wild)
    text = measure_systems([tiny], SeedsSettings(tiny_data, tmp_path, 1.0, "cpu", {}), OURS_TINY, "e-cnn", QUIET)
    assert "the loss is not a number" in text
    examples = LabelledPictures(torch.zeros(8, 1, 32, 32, dtype=torch.uint8), torch.arange(8) % 4)
    torch.manual_seed(0)
    fitting = Fitting(make_classifier("e-cnn", 4), examples, wild, False, 7, "cpu")
    with pytest.raises(DivergedError, match="not a number"):
        fit(fitting, examples)


def test_weights_of_no_network_of_the_systems_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    settings = SeedsSettings(tiny_data, tmp_path, 1.0, "cpu", {"vgg19": tmp_path})
    with pytest.raises(StartError, match="no network of these systems"):
        measure_systems([tiny_system(Protocol.RANDOM_VALIDATION)], settings, OURS_TINY, None, QUIET)
