"""The card of an imported model says what is known, and that nothing was measured."""

from __future__ import annotations

from pathlib import Path


def test_the_card_names_source_classes_and_preprocessing(imported: Path) -> None:
    text = (imported / "docs/README.md").read_text()
    classes = "| 1 | top | Spot at the top | Hemorrhage |", "| 2 | none | No spot | nothing found |"
    for expected in ("best_metric_model.pth", "nothing was", *classes, "1. ScaleIntensity", "tensors of 1 x 64 x 64"):
        assert expected in text
