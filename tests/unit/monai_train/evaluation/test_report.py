"""The content of a report: figures equal to those of `evaluate`, checks of a bundle."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.cohorts import evaluated_runs
from monai_train.evaluation.evaluate import examine_runs, run_split, select_pictures
from monai_train.evaluation.report_files import write_report
from tests.testbed.tiny_bundle import make_tiny_bundle
from worker.errors import StartError


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


def test_a_log_that_is_none_is_one_line(official_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    for log in (tmp_path / "missing.csv", tiny_run / "config.json"):
        with pytest.raises(StartError, match="not the log"):
            write_report(evaluated_runs([tiny_run], flip=False), official_data, tmp_path / "report", log, None)
