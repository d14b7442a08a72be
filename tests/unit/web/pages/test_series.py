from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.testbed import studies
from tests.testbed.answered import answer
from tests.testbed.databases import make_tables
from tests.testbed.instances import MODEL, NOON, later
from tests.testbed.results import MODEL_OF_LESIONS
from tests.testbed.rows import LEASE
from tests.testbed.shown_bundle import make_shown_bundle
from tests.testbed.web_site import serving, settings_of, signed_in
from worker.db.engine import Database
from worker.db.settling import InstanceRefusal, add_refused_instances
from worker.db.studies.answering import StudySettling
from worker.db.tables import TokenRole
from worker.dicom.standard import derive_uid
from worker.inference.bundle import verified_identity
from worker.jobs.bundle_store import ServedModel
from worker.jobs.studies import StudyRunner
from worker.results import Activation


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a", "Glioma"),
        ("a", "Incomplete: 2 of the 3 images came"),
        ("a", "Probability per slice"),
        ("b", "modality CT"),
        ("c", "process-died"),
        ("d", "No result yet"),
        ("d", "Unread"),
    ],
)
def test_a_series_shows_its_result_or_its_reason(client: httpx.Client, name: str, text: str) -> None:
    assert text in client.get(f"/series/{derive_uid('series', name)}").text


def test_the_answer_for_the_study_stands_above_that_for_the_series(bundle_folder: Path, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    studies.classify(database, "a", 0.9)
    studies.classify(database, "b", 0.3)
    studies.refuse(database, "knee", "body-part")
    address = f"/series/{derive_uid('series', 'a')}"
    with serving(settings_of(tmp_path, bundle_folder)) as (client, _):
        assert "No answer yet" in client.get(address).text
        runner = StudyRunner(database, tmp_path, "host:1", lambda: later(99), LEASE, StudySettling(timedelta()), 3)
        assert runner.run_next({1: ServedModel(MODEL, lambda _: None)})  # type: ignore[arg-type, return-value]
        page = client.get(address).text
    database.close()
    study = page[page.index("Study of 3 series") : page.index('class="answer"')]
    assert "Not assessed" in study
    assert f'href="/studies/{studies.STUDY}?show={derive_uid("series", "a")}"' in study


def test_a_study_of_one_series_is_not_told_twice(client: httpx.Client) -> None:
    assert "Study of" not in client.get(f"/series/{derive_uid('series', 'a')}").text


def test_an_operator_settles_a_refused_series_again(guarded: tuple[httpx.Client, Database]) -> None:
    client, database = guarded
    page = f"/series/{derive_uid('series', 'b')}"
    with database.write() as session:
        refusal = InstanceRefusal(derive_uid("series", "b"), "1.2.3", "", None, "peer", "0xA700", "no-space", NOON)
        add_refused_instances(session, [refusal], NOON)
    with signed_in(client, database, TokenRole.READ, "reader") as reader:
        shown = reader.get(page).text
        assert "Settle again" not in shown
        assert "Refused on arrival and not sent again: 1 image (0xA700 no-space)" in shown
        assert reader.post(f"{page}/reconsider").status_code == 403
    with signed_in(client, database, TokenRole.OPERATE, "operator") as operator:
        shown = operator.get(page).text
        assert "Settle again" in shown
        [csrf, *_] = re.findall(r'name="csrf_token" value="(\w+)"', shown)
        answer = operator.post(f"{page}/reconsider", data={"csrf_token": csrf})
        assert (answer.status_code, answer.headers["location"]) == (303, page)
        assert "Settle again" not in operator.get(page).text


def test_a_tumour_of_unknown_kind_is_shown_found_confirmed_and_counted(tmp_path: Path) -> None:
    bundle = make_shown_bundle(tmp_path / "lesions", MODEL_OF_LESIONS)
    settings = settings_of(tmp_path, bundle)
    database = Database(settings.database.url)
    make_tables(database)
    whole = Activation(rows=((255, 255), (255, 255)), top=0.0, left=0.0, height=1.0, width=1.0)
    model = verified_identity(bundle)
    by_class = (0.3, 0.3, 0.2, 0.1, 0.1)
    answer(database, tmp_path, "a", 2, model=model, label="tumor", probabilities=by_class, activation=whole)
    answer(database, tmp_path, "b", 1, model=model, label="other", probabilities=by_class)
    database.close()
    path = f"/series/{derive_uid('series', 'a')}"
    with serving(settings) as (client, _):
        page = client.get(path).text
        assert re.search(r'class="big">Tumour, kind not determined <span class="number">90.0 %', page)
        assert 'data-maps="0 1"' in page
        for name, title in (("tumor", "Tumour, kind not determined"), ("other", "Other lesion")):
            assert re.search(rf'<button [^>]*value="{name}"[^>]*>(<kbd>\d</kbd> )?{title}</button>', page)
        assert '<option value="tumor">Tumour, kind not determined</option>' in client.get("/").text
        found = client.get("/api/v1/results?label=tumor&minimum_probability=0.8").json()["series"]
        assert [(series["label"], series["probabilities"]["other"]) for series in found] == [("tumor", 0.1)]
        readings = f"/api/v1{path}/readings"
        seen = client.get(readings).json()
        entry = {"label": "tumor", "after": 0, "result": seen["result"]}
        assert client.post(readings, json=entry).json()["state"] == "confirmed"
        exact = client.post(readings, json={**entry, "label": "glioma", "after": 1}).json()
        assert (exact["state"], exact["answer"]) == ("corrected", "tumor")
        assert 'class="tumor"' in client.get("/metrics").text
        fhir = client.get(f"/api/v1{path}/fhir").json()
        assert "126952004" in str(fhir["entry"][0]["resource"]["conclusionCode"])
        kinds = client.get(f"/dicom-web/studies/{derive_uid('study', 'a')}/series?Modality=SR").json()
        assert len(kinds) == 1
