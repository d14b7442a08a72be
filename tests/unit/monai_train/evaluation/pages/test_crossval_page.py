"""The page of a cross-validation, on folds made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_train.evaluation.evaluate import Measurement
from monai_train.evaluation.metrics import Predictions, level_figures
from monai_train.evaluation.pages.crossval_page import write_crossval_page
from monai_train.training.epoch_log import LOG
from tests.testbed.converted import CLASSES
from tests.testbed.reference_systems import manifest_row

CURVES = "epoch,loss,validation_loss,validation_balanced_accuracy\n1,1.2,1.1,0.5\n2,0.8,0.9,0.75\n"


def predictions(n: int, seed: int) -> Predictions:
    generator = np.random.default_rng(seed)
    truth = np.arange(n) % len(CLASSES)
    scores = generator.normal(size=(n, 4)) + 2 * np.eye(4)[truth]
    probabilities = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)
    return Predictions(
        CLASSES, truth, probabilities, np.array([f"{seed}-{i // 2}" for i in range(n)]), np.ones(n, bool)
    )


def test_folds_spread_facts_and_curves_stand_on_the_page(tmp_path: Path) -> None:
    folds = [predictions(24, seed) for seed in (0, 1)]
    for number in range(2):
        (tmp_path / f"fold-{number}").mkdir()
        (tmp_path / f"fold-{number}" / LOG).write_text(CURVES)
    content = [
        {"temperature": 1.1 + number, "slice": level_figures(fold), "patient": level_figures(fold)}
        for number, fold in enumerate(folds)
    ]
    pooled = Predictions(
        CLASSES,
        *(
            np.concatenate([getattr(fold, name) for fold in folds])
            for name in ("truth", "probabilities", "groups", "assessed")
        ),
    )
    rows = [manifest_row(n, int(label), f"g{n}") for n, label in enumerate(pooled.truth)]
    facts = [("network", "<resnet18>")]
    page = write_crossval_page(tmp_path, "our-heads", facts, rows, Measurement(pooled, pooled), content).read_text()
    values = [100 * fold["slice"]["balanced_accuracy"] for fold in content]
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %" in page
    for number, value in enumerate(values, 1):
        assert f"<td>{number}</td><td>slices</td><td>24</td><td>{value:.1f} %<small>" in page
        assert f'alt="Fold {number}"' in page
    assert "<td>2.10</td>" in page
    assert "&lt;resnet18&gt;" in page
    assert "Research use only" in page
