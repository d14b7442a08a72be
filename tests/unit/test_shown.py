"""What the commands print is what is there: nothing that a peer or a person wrote is taken for markup."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.testbed.instances import NOON
from worker.doctor import Finding
from worker.query.search import SeriesAnswer, Status
from worker.shown import print_answer, print_answers, print_findings

MARKUP = "[/] [red]x :x:"
ANSWER = SeriesAnswer(
    series_instance_uid="1.2.3", study_instance_uid="1.2", patient_id=MARKUP, patient_name="", accession_number="",
    study_date="", modality="MR", series_description=MARKUP, instances=1, status=Status.FAILED, label=None,
    probability=None, probabilities={}, reason="process-died", detail=MARKUP, model=None, model_sha256=None,
    created_at=NOON, received_at=NOON, deliveries=(),
)  # fmt: skip


def test_a_patient_whose_id_looks_like_markup_is_listed_as_sent(capsys: pytest.CaptureFixture[str]) -> None:
    print_answers([ANSWER], "table")
    print_answer(replace(ANSWER, status=Status.CLASSIFIED), [], "table")
    printed = "".join(capsys.readouterr().out.split())
    assert printed.count("".join(MARKUP.split())) == 4


def test_advice_names_the_section_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("configuration", False, "config.toml", "add a [[destination]]")])
    assert capsys.readouterr().out == "fault configuration: config.toml\n      → add a [[destination]]\n"
