from __future__ import annotations

import re
from dataclasses import replace

import httpx
import pytest

from tests.testbed.instances import MODEL, NOON
from tests.testbed.web_site import signed_in
from worker.db.engine import Database
from worker.db.settling import InstanceRefusal, add_refused_instances
from worker.db.tables import TokenRole
from worker.db.views.series_detail import SeriesDetail, ShownSlice
from worker.dicom.standard import derive_uid
from worker.web.pages.series import _first_shown, _probability_lines


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


def _detail(*slices: tuple[float, float, bool]) -> SeriesDetail:
    shown = tuple(ShownSlice("x.dcm", None, None, (first, second), True, key) for first, second, key in slices)
    return SeriesDetail(shown, None, None)


def test_the_viewer_opens_at_the_most_probable_key_slice_else_at_the_middle() -> None:
    detail = _detail((0.9, 0.1, False), (0.6, 0.4, True), (0.8, 0.2, True), (0.1, 0.9, False))
    glioma, nothing = MODEL.class_named("glioma"), MODEL.class_named("notumor")
    model = replace(MODEL, classes=(glioma, nothing))
    of_lesions = replace(model, undetermined=replace(glioma, name="tumor"))
    assert _first_shown(detail, [1, 2], model, "glioma") == 2
    assert _first_shown(detail, [1, 2], model, "notumor") == 1
    assert [_first_shown(detail, [1, 2], of_lesions, label) for label in ("glioma", "notumor", "tumor")] == [2, 2, 2]
    assert _first_shown(detail, [], model, "glioma") == 2
    assert _first_shown(detail, [1, 2], model, None) == 2
    assert _first_shown(detail, [1], None, "glioma") == 2


def test_there_is_a_line_per_class_unless_the_classes_are_not_known() -> None:
    detail = _detail((0.0, 1.0, True), (0.5, 0.5, True))
    assert [line.points for line in _probability_lines(detail, {"a": "c0", "b": "c1"})] == [
        "0.5,100.0 1.5,50.0",
        "0.5,0.0 1.5,50.0",
    ]
    assert _probability_lines(detail, {"a": "c0"}) == []
    assert _probability_lines(_detail(), {"a": "c0", "b": "c1"}) == []


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
