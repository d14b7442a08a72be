"""Which slices of a confirmed series get its label, and when a retrained model is offered.

tests/acceptance/test_loop.py trains one.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from monai_train.data.from_worker import SERIES, SLICES_WITHOUT, convert_export
from monai_train.evaluation.compare import ComparedModel, compare_measurements
from monai_train.evaluation.evaluate import Measurement, read_split
from monai_train.evaluation.metrics import Predictions
from monai_train.export.retrain import FINE_TUNING, faults_of, read_confirmed_series, retrain, retrain_settings
from tests.testbed.converted import CLASSES, make_converted
from tests.testbed.instances import encoded, mr_instance
from worker.errors import StartError
from worker.inference.bundle import default_bundle, load_bundle
from worker.ops.export_readings import COLUMNS, LABELS

SLICES = 20


def _export(folder: Path, series: dict[str, tuple[str, str, tuple[int, ...]]]) -> Path:
    """What the worker would write of {name: (label, answer, marked)}: slices 8-10 decide, 0 is unlike training."""
    lines = []
    for name, (label, answer, marked) in series.items():
        for number in range(SLICES):
            path = folder / "images" / name / f"{number:04d}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(len(lines)).integers(0, 4000, (16, 16), np.uint16)
            path.write_bytes(encoded(mr_instance(number, name, PixelData=pixels.tobytes())))
            values = (
                path.relative_to(folder).as_posix(), label, name, str(number), "yes" if number in marked else "",
                "yes" if 8 <= number <= 10 else "", "yes" if number else "", answer, "site",
            )  # fmt: skip
            lines.append(dict(zip(COLUMNS, values, strict=True)))
    with (folder / LABELS).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    return folder


def test_a_slice_gets_a_label_only_where_it_follows(tmp_path: Path) -> None:
    export = _export(
        tmp_path / "export",
        {
            "marked": ("glioma", "notumor", (3, 4)),
            "agreed": ("meningioma", "glioma", ()),
            "missed": ("glioma", "notumor", ()),
            "unanswered": ("glioma", "", ()),
            "healthy": ("notumor", "glioma", ()),
            "any": ("tumor", "pituitary", ()),
        },
    )
    out = tmp_path / "out"
    done = convert_export(export, out)
    truths: dict[str, list[tuple[int, str]]] = {}
    for line in (line for line in done.manifest if line["truth"]):
        truths.setdefault(line["series"], []).append((int(line["ordinal"]), line["truth"]))
    decided = [(number, "deciding") for number in (8, 9, 10)]
    healthy = truths.pop("healthy")
    assert truths == {"marked": [(3, "marked"), (4, "marked")], "agreed": decided, "any": decided}
    assert len(healthy) == SLICES_WITHOUT
    assert (healthy[0], healthy[-1]) == ((1, "series"), (SLICES - 1, "series"))  # slice 0 is unlike training
    series = {confirmed.name: confirmed for confirmed in read_confirmed_series(out)}
    assert set(series) == {"marked", "agreed", "missed", "unanswered", "healthy", "any"}
    assert all(len(confirmed.files) == SLICES for confirmed in series.values())
    assert (out / SERIES).is_file()


def test_where_no_slice_is_known_nothing_is_written_that_could_be_trained_on(tmp_path: Path) -> None:
    export = _export(tmp_path / "export", {"missed": ("glioma", "notumor", ())})
    with pytest.raises(StartError, match="mark slices of a tumour"):
        convert_export(export, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="worker readings export"):
        convert_export(tmp_path, tmp_path / "out")
    with pytest.raises(StartError, match="convert --from-worker"):
        read_confirmed_series(tmp_path)


def test_network_and_split_are_the_present_models_and_the_rest_is_gentle(tmp_path: Path) -> None:
    present = default_bundle()
    file = tmp_path / "config.json"
    file.write_text('{"epochs": 3, "test_share": 0.9, "batch": 8}')
    settings, split = retrain_settings(present, file, seed=5), read_split(present)
    assert settings.network == load_bundle(present).identity.family
    assert (settings.test_share, settings.external) == (split.test_share, split.external)
    assert (settings.epochs, settings.batch, settings.seed) == (3, 8, 5)
    assert settings.learning_rate == FINE_TUNING["learning_rate"]


def test_other_data_than_the_present_models_own_are_refused(tmp_path: Path) -> None:
    base = make_converted(tmp_path / "base", patients=2, external=0)
    present = default_bundle()
    with pytest.raises(StartError, match="trained on other data"):
        retrain(present, base, tmp_path, tmp_path / "run", tmp_path / "out", retrain_settings(present, None), "9")
    assert not (tmp_path / "run").exists()


def _compared(present: list[int], new: list[int], truth: list[int]) -> list[ComparedModel]:
    """Two models that are sure of these classes, each answer of a patient of its own."""

    def measured(answers: list[int]) -> Measurement:
        probabilities = np.eye(len(CLASSES), dtype=np.float32)[answers]
        groups = np.array([str(number) for number in range(len(truth))])
        found = Predictions(CLASSES, np.array(truth, np.int64), probabilities, groups, np.ones(len(truth), bool))
        return Measurement(found, found)

    return compare_measurements(("present", "retrained"), [measured(present), measured(new)], "slices")


TRUTH = [0, 1, 2, 3] * 25


def test_an_equal_model_is_offered_and_a_worse_one_is_not() -> None:
    same = _compared(TRUTH, TRUTH, TRUTH)
    worse = _compared(TRUTH, [3, *TRUTH[1:48], 0, 0, 0, 0, *TRUTH[52:]], TRUTH)
    assert faults_of({"frozen test, slice": same, "site, series": same}) == []
    faults = faults_of({"frozen test, slice": worse, "site, series": same})
    assert any("balanced accuracy -0.0" in fault for fault in faults)


def test_one_slip_on_the_frozen_test_is_forgiven_and_on_the_sites_own_series_not() -> None:
    truth = [0, 1, 2, 3] * 50
    slip = _compared(truth, [1, *truth[1:]], truth)  # balanced accuracy -0.005
    fine = _compared(TRUTH, TRUTH, TRUTH)
    assert faults_of({"frozen test, slice": slip, "site, series": fine}) == []
    assert faults_of({"frozen test, slice": fine, "site, series": slip}) == [
        "site, series: balanced accuracy -0.005 (n=200)"
    ]


@pytest.mark.parametrize("truth", [[], [3, 3], [0, 1]])
def test_without_both_kinds_of_the_sites_series_nothing_is_offered(truth: list[int]) -> None:
    compared = {"frozen test, slice": _compared(TRUTH, TRUTH, TRUTH)}
    if truth:
        compared["site, series"] = _compared(truth, truth, truth)
    [fault] = faults_of(compared)
    assert "is undefined" in fault or "no confirmed series was kept out" in fault
