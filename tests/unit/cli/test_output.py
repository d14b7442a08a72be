"""What the commands print is what is there: nothing that a peer or a person wrote is taken for markup."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.testbed.instances import NOON
from worker.cli import output
from worker.cli.output import print_answer, print_answers, print_findings, print_rows, print_unfinished
from worker.db.tables import SeriesStatus
from worker.db.views.queue import Unfinished, UnfinishedJob
from worker.db.views.search import SeriesAnswer
from worker.ops.host_checks import Finding

MARKUP = "[/] [red]x :x:"
ANSWER = SeriesAnswer(
    series_instance_uid="1.2.3", study_instance_uid="1.2", patient_id=MARKUP, patient_name="", accession_number="",
    study_date="", modality="MR", series_description=MARKUP, instances=1, status=SeriesStatus.FAILED, label=None,
    probability=None, probabilities={}, reason="process-died", detail=MARKUP, model=None, model_sha256=None,
    created_at=NOON, received_at=NOON, deliveries=(),
)  # fmt: skip


def test_a_patient_whose_id_looks_like_markup_is_listed_as_sent(capsys: pytest.CaptureFixture[str]) -> None:
    print_answers([ANSWER], "table")
    print_answer(replace(ANSWER, status=SeriesStatus.CLASSIFIED), [], "table")
    printed = "".join(capsys.readouterr().out.split())
    assert printed.count("".join(MARKUP.split())) == 4


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_what_a_series_lacks_is_printed_with_its_answer(capsys: pytest.CaptureFixture[str], format: str) -> None:
    print_answer(replace(ANSWER, status=SeriesStatus.CLASSIFIED, missing="2 of the 3 images"), [], format)
    assert "2 of the 3 images" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_a_job_in_shadow_is_marked(capsys: pytest.CaptureFixture[str], format: str) -> None:
    job = UnfinishedJob(
        number=7, series_instance_uid="1.2.3", state="parked", attempts=3, reason="time-limit", detail=None,
        created_at=NOON, not_before=NOON, shadow=True, urgent=False,
    )  # fmt: skip
    print_unfinished(Unfinished((job,), ()), format)
    shown = capsys.readouterr().out
    print_unfinished(Unfinished((replace(job, shadow=False),), ()), format)
    assert shown != capsys.readouterr().out
    assert "shadow" in shown


def test_at_80_columns_no_value_is_cut_up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_answers([replace(ANSWER, patient_id="ID-00012345", label="meningioma", probability=0.9)], "table")
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    for value in ("ID-00012345", "meningioma 90.0%", "process-died", "failed"):
        assert value in shown
    wide = [Finding("s" * 40, True, "d" * 60), Finding("short", True, "")]
    print_rows("2 findings", wide, "table")  # too wide for a table: a block for each row
    shown = capsys.readouterr().out
    assert f"detail: {'d' * 60}\n" in shown
    print_rows("1 finding", [Finding("subject", True, "detail")], "table")
    assert "advice" not in capsys.readouterr().out, "a column without a value"


def test_advice_names_the_section_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("configuration", False, "config.toml", "add a [[destination]]")])
    assert capsys.readouterr().out == "fault configuration: config.toml\n      → add a [[destination]]\n"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\r=1", "\n=1", "\uff1d1"])
def test_no_csv_has_a_formula_of_a_peer(capsys: pytest.CaptureFixture[str], text: str) -> None:
    job = UnfinishedJob(1, "1.2.3", "parked", 3, "fault", text, NOON, NOON, shadow=False, urgent=False)
    print_answers([replace(ANSWER, patient_id=text, detail=text)], "csv")
    print_unfinished(Unfinished((job,), ()), "csv")
    print_rows("", [Finding(text, True, "")], "csv")
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    read = text.replace("\r", "\n")
    assert [value for row in rows for value in row if value.endswith(read)] == [f"'{read}"] * 4


def test_without_a_terminal_a_line_a_minute_says_how_long_the_rest_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 0.0, 30.0, 90.0, 100.0, 200.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(moments))

    def work(tick: Callable[[int, int], None]) -> str:
        for done in (0, 100, 1500, 1600, 2000):
            tick(done, 2000)
        return "answers"

    assert output.with_estimate("classifying", work) == "answers"
    assert capsys.readouterr().err == ("classifying: 1,500 of 2,000, about 0:00:30 left\nclassifying: 2,000 of 2,000\n")
