from __future__ import annotations

from dataclasses import replace

from tests.testbed.instances import MODEL
from worker.db.views.series_detail import SeriesDetail, ShownSlice
from worker.web.pages.viewer import _first_shown, _probability_lines


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
