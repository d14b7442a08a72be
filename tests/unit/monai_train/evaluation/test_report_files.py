"""The files beside the page, and faults of the output."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.evaluation.cohorts import evaluated_runs
from monai_train.evaluation.report_files import write_report
from worker.errors import StartError


def test_plots_lie_beside_the_page(written: Path) -> None:
    names = {path.stem for path in (written / "plots").iterdir()}
    assert {"test-roc", "test-reliability", "official-confusion-slices", "learning-curves"} <= names


def test_output_that_cannot_be_written_is_one_line(official_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot write"):
        write_report(evaluated_runs([tiny_run], flip=False), official_data, tmp_path / "file" / "report", None, None)
