"""The report: honest parts and the leaky one told apart, figures equal to evaluate's, one page without other files."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.evaluate import examine_runs, run_split, select_pictures
from monai_train.evaluation.report import cohorts, evaluated_runs, write_report
from monai_train.training.train import train
from tests.testbed.tiny_bundle import make_tiny_bundle
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


@pytest.fixture(scope="module")
def official_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data with an official split that tears patients apart: the second picture of each is its test."""
    folder = tmp_path_factory.mktemp("official") / "data"
    shutil.copytree(tiny_data, folder)
    with (folder / "manifest.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    for line in lines:
        if line["dataset"] == "main":
            line["split"] = "test" if line["path"].endswith("-1.dcm") else "train"
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return folder


@pytest.fixture(scope="module")
def written(official_data: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    answer = CliRunner().invoke(
        app,
        ["evaluate", "--run", str(tiny_run), "--data", str(official_data), "--report", str(out)],
        catch_exceptions=False,
    )
    assert answer.exit_code == 0
    assert "report.html" in answer.output
    return out


def test_parts_are_apart_and_only_the_official_one_is_leaky(official_data: Path, tiny_run: Path) -> None:
    rows, split = read_manifest(official_data), run_split(tiny_run)
    found = {cohort.key: cohort for cohort in cohorts(rows, split)}
    assert {key: cohort.leaky for key, cohort in found.items()} == {"test": False, "external": False, "official": True}
    roles = split.roles(rows)
    trained = {row.patient_group for row, role in zip(rows, roles, strict=True) if role is SplitRole.TRAIN}
    assert not trained & {rows[i].patient_group for i in (*found["test"].chosen, *found["external"].chosen)}
    known = sum(roles[i] in (SplitRole.TRAIN, SplitRole.VALIDATION) for i in found["official"].chosen)
    assert known > 0
    assert f"{known} of these {len(found['official'].chosen)} images" in found["official"].note


def test_other_data_are_one_part_that_claims_nothing(official_data: Path, tiny_run: Path) -> None:
    rows = read_manifest(official_data)[1:]
    for split in (run_split(tiny_run), None):
        (cohort,) = cohorts(rows, split)
        assert len(cohort.chosen) == len(rows)
        assert "for you to know" in cohort.note


def test_json_holds_evaluates_figures_with_intervals(written: Path, official_data: Path, tiny_run: Path) -> None:
    report = json.loads((written / "report.json").read_text())
    rows = read_manifest(official_data)
    chosen = select_pictures(rows, run_split(tiny_run).roles(rows), SplitRole.TEST, deduplicated=True)
    expected = examine_runs([tiny_run], official_data, rows, chosen)[0].to_json()
    part = report["parts"]["test"]
    assert part["slice"] == expected["slice"]
    assert part["estimates"]["slice"]["recall.glioma"]["n"] == part["slice"]["per_class"]["glioma"]["support"]
    assert report["parts"]["official"]["leaky"] is True
    assert report["activation_maps"]["test"]["hits"]["n"] == sum(rows[i].box is not None for i in chosen)
    with (written / "predictions-test.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["path"] for line in lines] == [rows[i].path for i in chosen]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_page_needs_no_other_file_and_marks_what_leaks(written: Path) -> None:
    text = (written / "report.html").read_text()
    parsed = _Page()
    parsed.feed(text)
    assert parsed.sources
    assert all(source.startswith("data:image/png;base64,") for source in parsed.sources)
    assert not parsed.tags & {"script", "link", "iframe"}
    assert "url(" not in text
    assert "Research use only" in text
    assert '<span class="leaky">Official split: LEAKY</span>' in text
    assert "prefers-color-scheme:dark" in text
    for cell in re.findall(r"<td>[-\d][^<]*<small>([^<]*)</small>", text):
        assert "n=" in cell or "unknown" in cell  # no figure without its n


def test_plots_lie_beside_the_page(written: Path) -> None:
    names = {path.stem for path in (written / "plots").iterdir()}
    assert {"test-roc", "test-reliability", "official-confusion-slices", "learning-curves"} <= names


def test_bundle_report_checks_pictures_that_are_no_brain(official_data: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    out = tmp_path / "report"
    arguments = ["evaluate", "--bundle", str(bundle), "--data", str(official_data), "--report", str(out), "--flip"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    report = json.loads((out / "report.json").read_text())
    assert list(report["parts"]) == ["all"]
    assert report["model"]["test-time flip"] == "yes"
    assert report["out_of_distribution"]["outside"]["abdomen"]["n"] == 20
    assert (out / "plots" / "out-of-distribution.png").is_file()


def test_several_runs_are_an_ensemble(official_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    rows = read_manifest(official_data)
    chosen = select_pictures(rows, run_split(tiny_run).roles(rows), SplitRole.TEST, deduplicated=True)
    alone = examine_runs([tiny_run], official_data, rows, chosen)[0]
    twice = examine_runs([tiny_run, tiny_run], official_data, rows, chosen)[0]
    assert twice.slices.probabilities == pytest.approx(alone.slices.probabilities, abs=1e-5)
    weak = tmp_path / "weak"
    train(official_data, weak, TINY.model_copy(update={"epochs": 1, "samples_per_epoch": 16, "seed": 3}))
    mixed = examine_runs([tiny_run, weak], official_data, rows, chosen)[0]
    # In logarithms: both may be sure of the same class.
    logarithms = [np.log(one.slices.probabilities + 1e-12) for one in (mixed, alone)]
    assert abs(logarithms[0] - logarithms[1]).max() > 0.01


def test_an_ensemble_needs_one_split(official_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(official_data, other, TINY.model_copy(update={"epochs": 1, "samples_per_epoch": 16, "test_share": 0.4}))
    with pytest.raises(StartError, match="same patients"):
        examine_runs([tiny_run, other], official_data, read_manifest(official_data), [0])


def test_flip_gives_a_mirrored_picture_the_same_answer(official_data: Path, tiny_run: Path) -> None:
    import torch

    from monai_train.data.dataset import load_pictures, read_preprocessing
    from monai_train.data.labels import CLASS_NAMES
    from monai_train.evaluation.evaluate import model_outputs
    from monai_train.networks.registry import make_classifier
    from monai_train.training.checkpoint import BEST, read_checkpoint

    model = make_classifier(TINY.network, len(CLASS_NAMES))
    model.load_state_dict(read_checkpoint(tiny_run / BEST).average)
    pixels = load_pictures(official_data, read_manifest(official_data), read_preprocessing()).pixels[:6]
    upright = model_outputs(model, pixels, flip=True)
    mirrored = model_outputs(model, torch.flip(pixels, [-1]), flip=True)
    assert mirrored.logits == pytest.approx(upright.logits, abs=1e-4)
    assert mirrored.maps[..., ::-1] == pytest.approx(upright.maps, abs=1e-4)
    assert abs(model_outputs(model, pixels).logits - upright.logits).max() > 1e-3


def test_output_that_cannot_be_written_is_one_line(official_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot write"):
        write_report(evaluated_runs([tiny_run], flip=False), official_data, tmp_path / "file" / "report", None, None)


def test_a_log_that_is_none_is_one_line(official_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    for log in (tmp_path / "missing.csv", tiny_run / "config.json"):
        with pytest.raises(StartError, match="not the log"):
            write_report(evaluated_runs([tiny_run], flip=False), official_data, tmp_path / "report", log, None)
