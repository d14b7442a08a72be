"""The model card holds what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from monai_train.config import TrainConfig
from monai_train.evaluation.evaluate import measure_split
from monai_train.export.model_card import KNOWN_WEIGHTS, data_section, figures_markdown, model_card
from tests.testbed.reference_systems import manifest_row


def test_card_holds_what_is_measured_again(exported: Path, tiny_data: Path) -> None:
    card = (exported / "docs/README.md").read_text()
    assert figures_markdown(measure_split(exported, tiny_data)) in card
    assert "\n| figure " in card
    assert not set(card) & set("┃│┏└")  # tables are Markdown
    assert "Research use only" in card


def card(provenance: dict[str, str]) -> str:
    described = {
        "name": "m", "version": "1", "family": "resnet18", "commit": "c0ffee", "training_data_sha256": "d" * 64,
        "temperature": 1.25, "limits": "Some limits.", "classes": [{"title": "Glioma"}, {"title": "No tumour"}],
        "thresholds": {"minimum_probability": 0.6, "minimum_no_neoplasm": 0.7},
        "out_of_distribution": {"maximum_distance": 9, "maximum_residual": 8},
    }  # fmt: skip
    return model_card(described, TrainConfig(epochs=7), provenance, "- some data", {})


def test_the_card_traces_the_weights_to_the_first_file() -> None:
    assert "From random weights: 7 epochs" in card({})
    assert "never pretrained on other pictures" in card({})
    once = card({"initial_weights_sha256": "a" * 64})
    assert f"From the weights of a file (SHA-256 {'a' * 64})" in once
    assert "never pretrained" not in once
    assert "began with" not in once
    known = next(iter(KNOWN_WEIGHTS))
    twice = card({"initial_weights_sha256": f"{known} {'b' * 64}"})
    assert f"From the weights of a file (SHA-256 {'b' * 64})" in twice
    assert f"began with the file of SHA-256 {known}" in twice
    assert KNOWN_WEIGHTS[known] in twice


def test_the_card_names_averaging_distillation_and_thresholds() -> None:
    text = " ".join(card({"averaged_runs": "3", "teachers_sha256": "e" * 64}).split())
    assert "the mean of the weights of 3 runs" in text
    assert "distillation" in text
    assert 'Temperature 1.25, minimum probability 0.6, for "no tumour" 0.7' in text
    assert "maximum feature distance 9, maximum residual 8" in text


def test_a_diagnosis_that_was_held_out_has_its_line() -> None:
    rows = [replace(manifest_row(n, 0, "g", "feltrin"), diagnosis=("granuloma", "abscess")[n % 2]) for n in range(5)]
    lines = data_section(rows, ["feltrin:granuloma", "feltrin:absent"], "").splitlines()
    assert lines[0].endswith("5 pictures used.")
    assert lines[1:] == ["- 3 of the pictures of feltrin, those of granuloma: external, never trained on."]


def test_data_of_unknown_origin_are_marked_as_such() -> None:
    rows = [*[manifest_row(n, 0, "g", "cheng") for n in range(3)], manifest_row(3, 0, "g", "ours")]
    lines = data_section(rows, ["ours"], "f" * 64).splitlines()
    assert lines[0].startswith("- Cheng et al.")
    assert lines[0].endswith("3 pictures used.")
    assert lines[1] == (
        "- ours: licence and origin are to be stated here by whoever trained the model. 1 picture used; external, "
        "never trained on."
    )
    assert "are to be stated here" in lines[2]  # the healthy volume
