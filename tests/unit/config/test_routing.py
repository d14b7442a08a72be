from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom import Dataset

from tests.testbed.instances import MODEL, later, mr_instance, received
from worker.config import routing
from worker.config.routing import (
    ActiveModel,
    Condition,
    RouteSection,
    choose_models,
    holds,
    reasons_to_wait,
    record_values,
)
from worker.config.settings import Settings, load_settings
from worker.db import models
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.tables import JobRow, SeriesRow
from worker.dicom.series_terms import Contrast, Sequence
from worker.dicom.series_type import SeriesType
from worker.errors import StartError
from worker.receive.settle import settle_series
from worker.send.destinations import kinds
from worker.storage.acceptance import StoreRequest, instance_path, read_instance

MODELS = {"models": ["m"]}


def _route(name: str = "r", *match: dict[str, Any], **outcome: Any) -> RouteSection:
    return RouteSection.model_validate({"name": name, "match": list(match), **(outcome or MODELS)})


def decide(
    routes: list[RouteSection], images: list[dict[str, Any]], series_type: SeriesType | None = None
) -> RouteSection | None:
    return routing.decide(routes, images, series_type or SeriesType())


def _images(routes: list[RouteSection], *values: dict[str, list[str]], hide: bool = False) -> list[dict[str, Any]]:
    return [{routing.ATTRIBUTES_KEY: record_values(image, routes, hide)} for image in values]


@pytest.mark.parametrize(
    ("condition", "values", "expected"),
    [
        ({"equals": "siemens"}, ["SIEMENS"], True),
        ({"equals": "siemens"}, ["SIEMENS Healthineers"], False),
        ({"equals": 3}, ["3.0"], True),
        ({"equals": "DERIVED"}, ["ORIGINAL", "DERIVED"], True),
        ({"equals": ""}, [], True),
        ({"equals": ""}, [""], True),
        ({"equals": ""}, ["x"], False),
        ({"equals": "x"}, [], False),
        ({"in": ["a", 1.5]}, ["1.50"], True),
        ({"in": ["a", "b"]}, ["c"], False),
        ({"regex": "(?i)gd|post"}, ["t1 axial POST contrast"], True),
        ({"regex": "^post"}, ["t1 post"], False),
        ({"range": [1.5, float("inf")]}, ["3"], True),
        ({"range": [1.0, 1.5]}, ["1.5"], True),
        ({"range": [1.0, 1.5]}, ["1.6", "text", "nan"], False),
    ],
)
def test_a_condition_holds_for_one_of_an_attributes_values(
    condition: dict[str, Any], values: list[str], expected: bool
) -> None:
    assert holds(Condition.model_validate({"attribute": "SeriesDescription", **condition}), values) is expected


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ({"match": [{"attribute": "Manufacturers", "equals": "x"}]}, "Manufacturers"),
        ({"match": [{"attribute": "PixelData", "equals": "x"}]}, "PixelData"),
        ({"match": [{"attribute": "ReferencedImageSequence", "equals": "x"}]}, "text or numbers"),
        ({"match": [{"attribute": "Modality", "regex": "("}]}, "regular expression"),
        ({"match": [{"attribute": "Modality"}]}, "exactly one"),
        ({"match": [{"attribute": "Modality", "equals": "x", "regex": "y"}]}, "exactly one"),
        ({"match": [{"attribute": "EchoTime", "range": [2, 1]}]}, "lowest"),
        ({"models": []}, "either models or refuse"),
        ({"models": ["m"], "refuse": "no"}, "either models or refuse"),
        ({"urgent": True, "refuse": "no"}, "either models or refuse"),
    ],
)
def test_a_wrong_rule_stops_the_start_in_one_line(route: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        Settings.model_validate({"route": [{"name": "r", "models": ["m"], **route}]})


def test_rules_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    rule = '[[route]]\nname = "a"\nmatch = [{attribute = "Modality", equals = "MR"}, '
    file.write_text(
        rule + '{attribute = "EchoTime", range = [0, inf]}]\nmodels = ["m:1"]\n[[route]]\nname = "b"\nrefuse = "no"\n'
    )
    routes = load_settings(file, kinds()).route
    assert [route.name for route in routes] == ["a", "b"]
    assert [str(condition) for condition in routes[0].match] == ["Modality = 'MR'", "EchoTime in 0 … inf"]
    for wrong, said in (("matsch", "did you mean 'match'"), ("name", "same name|comes after")):
        file.write_text(f'[[route]]\nname = "a"\nrefuse = "no"\n[[route]]\n{wrong} = "a"\nrefuse = "no"\n')
        with pytest.raises(StartError, match=said):
            load_settings(file, kinds())


def test_the_first_rule_that_matches_decides() -> None:
    routes = [
        _route("never", {"attribute": "Modality", "equals": "CT"}),
        _route("first", {"attribute": "Modality", "equals": "MR"}),
        _route("second", refuse="no"),
    ]
    assert decide(routes, _images(routes, {"Modality": ["MR"]})) is routes[1]
    assert decide(routes, _images(routes, {"Modality": ["PT"]})) is routes[2]
    assert decide(routes[:2], _images(routes, {"Modality": ["PT"]})) is None


def test_models_are_chosen_by_all_images_and_refused_by_any() -> None:
    condition = {"attribute": "ImageType", "equals": "DERIVED"}
    for outcome, expected in (({"models": ["m"]}, False), ({"refuse": "no"}, True)):
        routes = [_route("r", condition, **outcome)]
        mixed = _images(routes, {"ImageType": ["DERIVED"]}, {"ImageType": ["ORIGINAL"]})
        assert (decide(routes, mixed) is not None) is expected
        assert decide(routes, _images(routes, {"ImageType": ["DERIVED"]})) is routes[0]


def test_an_image_received_before_a_rule_was_written_does_not_match_it() -> None:
    routes = [_route("r", {"attribute": "Modality", "equals": ""}, refuse="no")]
    assert decide(routes, [{"modality": "MR"}]) is None


def test_a_model_that_is_not_active_is_waited_for() -> None:
    active = [ActiveModel(1, "a", "1"), ActiveModel(2, "b", "7")]
    assert choose_models(None, active) == ([1, 2], None)
    assert choose_models(_route(models=["b", "b:7"]), active) == ([2], None)
    assert choose_models(_route(models=["b", "c"]), active) == ([], "rule 'r' chooses c, which is not active")
    assert choose_models(_route(models=["b:8"]), active)[1] is not None
    assert choose_models(None, []) == ([], "no model is active")
    assert reasons_to_wait([_route(models=["c"]), _route("x", refuse="no")], active) == [
        "rule 'r' chooses c, which is not active"
    ]


_WORDS = st.text("abAB1.5 -", max_size=4)
_VALUES = st.lists(_WORDS, max_size=3)
_CONDITIONS = st.one_of(
    st.builds(lambda text: {"equals": text}, _WORDS),
    st.builds(lambda many: {"in": many}, st.lists(_WORDS, min_size=1, max_size=3)),
    st.builds(lambda text: {"regex": re.escape(text)}, _WORDS),
    st.builds(lambda ends: {"range": sorted(ends)}, st.tuples(st.floats(-9, 9), st.floats(-9, 9))),
)
_ATTRIBUTES = st.sampled_from(["Modality", "PatientName", "SeriesDescription", "EchoTime", "StudyDate"])


_IMAGES = st.lists(st.dictionaries(_ATTRIBUTES, _VALUES), min_size=1, max_size=3)


@given(st.lists(st.tuples(_ATTRIBUTES, _CONDITIONS), max_size=3), _IMAGES, st.booleans())
def test_hiding_what_names_a_patient_changes_no_decision(
    conditions: list[tuple[str, dict[str, Any]]], images: list[dict[str, list[str]]], refuses: bool
) -> None:
    match = [{"attribute": name, **what} for name, what in conditions]
    routes = [_route("r", *match, **({"refuse": "no"} if refuses else MODELS))]
    clear, hidden = _images(routes, *images), _images(routes, *images, hide=True)
    assert decide(routes, clear) == decide(routes, hidden)
    for image in hidden:
        assert not {"PatientName", "SeriesDescription", "StudyDate"} & image[routing.ATTRIBUTES_KEY]["values"].keys()


@given(_IMAGES, _ATTRIBUTES, _CONDITIONS)
def test_the_order_of_the_images_does_not_matter(
    images: list[dict[str, list[str]]], attribute: str, condition: dict[str, Any]
) -> None:
    for outcome in ({"models": ["m"]}, {"refuse": "no"}):
        routes = [_route("r", {"attribute": attribute, **condition}, **outcome)]
        there = _images(routes, *images)
        assert decide(routes, there) == decide(routes, there[::-1])


def test_only_what_rules_name_is_kept_of_an_instance() -> None:
    routes = [_route("r", {"attribute": "PatientName", "regex": "Family"}, {"attribute": "ImageType", "equals": "M"})]
    sent = received(mr_instance())
    assert routing.ATTRIBUTES_KEY not in read_instance(sent, instance_path).attributes
    kept = read_instance(sent, instance_path, routes).attributes[routing.ATTRIBUTES_KEY]
    assert kept == {"values": {"PatientName": ["Family^a"], "ImageType": ["ORIGINAL", "PRIMARY", "M"]}, "held": {}}
    hidden = read_instance(sent, instance_path, routes, str.swapcase).attributes
    assert "Family" not in str(hidden)
    assert decide(routes, [hidden]) is routes[0]


def _group(**values: Any) -> Dataset:
    """A functional group with a macro of each kind that rules may ask about."""
    group, timing, echo, content = Dataset(), Dataset(), Dataset(), Dataset()
    for macro, keywords in (
        (timing, ("RepetitionTime", "FlipAngle")), (echo, ("EffectiveEchoTime",)), (content, ("FrameComments",)),
    ):  # fmt: skip
        for keyword in keywords:
            if keyword in values:
                setattr(macro, keyword, values[keyword])
    if timing:
        group.MRTimingAndRelatedParametersSequence = [timing]
    if echo:
        group.MREchoSequence = [echo]
    if content:
        group.FrameContentSequence = [content]
    return group


def _enhanced(shared: Dataset | None, frames: list[Dataset], **changes: Any) -> StoreRequest:
    changes |= {"SharedFunctionalGroupsSequence": [shared]} if shared is not None else {}
    changes |= {"PerFrameFunctionalGroupsSequence": frames} if frames else {}
    return received(mr_instance(1, NumberOfFrames=max(1, len(frames)), **changes))


TWO_ECHOES = [_group(EffectiveEchoTime=echo, FrameComments=f"slice of {echo}") for echo in (10.0, 10.0, 80.0)]


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize(
    ("sent", "condition", "some", "every"),
    [
        (_enhanced(_group(RepetitionTime=550), []), {"attribute": "RepetitionTime", "range": [500, 600]}, True, True),
        (_enhanced(_group(RepetitionTime=550), []), {"attribute": "RepetitionTime", "equals": ""}, False, False),
        (_enhanced(_group(RepetitionTime=550), []), {"attribute": "FlipAngle", "equals": ""}, True, True),
        (_enhanced(None, TWO_ECHOES), {"attribute": "EffectiveEchoTime", "range": [5, 99]}, True, True),
        (_enhanced(None, TWO_ECHOES), {"attribute": "EffectiveEchoTime", "range": [5, 20]}, True, False),
        (_enhanced(None, TWO_ECHOES[:2]), {"attribute": "EffectiveEchoTime", "range": [5, 20]}, True, True),
        (_enhanced(None, TWO_ECHOES), {"attribute": "FrameComments", "regex": "of 80"}, True, False),
        (_enhanced(_group(RepetitionTime=1), TWO_ECHOES), {"attribute": "FrameComments", "regex": "of"}, True, True),
        # The top level counts where it says something.
        (
            _enhanced(_group(RepetitionTime=1), [], RepetitionTime=9),
            {"attribute": "RepetitionTime", "equals": 1},
            False,
            False,
        ),
        # Too many kinds of frames to know: neither value nor absence.
        *(
            (_enhanced(None, [_group(EffectiveEchoTime=float(n)) for n in range(1, 67)]), condition, False, False)
            for condition in (
                {"attribute": "EffectiveEchoTime", "range": [0, 99]}, {"attribute": "EffectiveEchoTime", "equals": ""},
            )
        ),
    ],
)  # fmt: skip
def test_a_condition_sees_what_a_multi_frame_image_has_in_its_groups(
    sent: StoreRequest, condition: dict[str, Any], some: bool, every: bool, hide: bool
) -> None:
    for outcome, expected in (({"refuse": "no"}, some), (MODELS, every)):
        routes = [_route("r", condition, **outcome)]
        attributes = read_instance(sent, instance_path, routes, str.swapcase if hide else None).attributes
        assert (decide(routes, [attributes]) is not None) is expected
        assert not hide or "slice of" not in str(attributes)


def test_groups_that_are_no_groups_say_nothing_and_are_kept() -> None:
    sent = _enhanced(None, TWO_ECHOES)
    damaged = sent.encoded.replace(b"\x18\x00\x14\x91SQ", b"\x18\x00\x14\x91UL")  # MREchoSequence
    assert damaged != sent.encoded
    routes = [_route("r", {"attribute": "EffectiveEchoTime", "range": [0, 99]})]
    assert decide(routes, [read_instance(replace(sent, encoded=damaged), instance_path, routes).attributes]) is None


def test_series_are_routed_when_they_settle(database: Database) -> None:
    routes = [
        _route("gd", {"attribute": "SeriesDescription", "regex": "gd"}, models=["test-model"]),
        _route("field", {"attribute": "MagneticFieldStrength", "range": [0, 1]}, refuse="weak fields are not for it"),
        _route("late", {"attribute": "SeriesDescription", "equals": "later"}, models=["coming:2.0"]),
    ]
    settings = Settings(route=tuple(routes))
    for name, changes in {
        "a": {"SeriesDescription": "t1 gd"},
        "b": {"MagneticFieldStrength": 0.5},
        "c": {"SeriesDescription": "later"},
        "d": {},
    }.items():
        with database.write() as session:
            for number in (1, 2, 3):
                sent = received(mr_instance(number, name, **changes))
                add_instance(session, read_instance(sent, instance_path, settings.route), later(0))
    with database.write() as session:
        models.set_configured_model(session, MODEL, later(0))
    settle_series(database, settings, later(100))
    assert settle_series(database, settings, later(101)) == 0  # what waits is not looked at again
    with database.read() as session:
        rows = session.query(SeriesRow).order_by(SeriesRow.id).all()
        found = [(row.state, row.reason, row.detail) for row in rows]
        assert found == [
            ("queued", None, None),
            ("refused", "route", "rule 'field': weak fields are not for it"),
            ("open", "model-not-active", "rule 'late' chooses coming:2.0, which is not active"),
            ("queued", None, None),
        ]
        assert [job.series_id for job in session.query(JobRow)] == [1, 4]

    with database.write() as session:
        coming = replace(MODEL, name="coming", version="2.0", sha256="cd" * 32)
        row, _ = models.add_model(session, coming, "ada", later(102))
        models.activate_model(session, row.id, "ada", later(103), beside=True)
    assert settle_series(database, settings, later(104)) == 1
    with database.read() as session:
        [last] = session.query(JobRow).filter(JobRow.series_id == 3)
        assert last.model_id == row.id


def test_a_regular_expression_takes_linear_time_and_no_look_around() -> None:
    condition = routing.Condition.model_validate({"attribute": "SeriesDescription", "regex": "(a+)+$"})
    before = time.process_time()
    assert not routing.holds(condition, ["a" * 256 + "b"] * 1000)
    assert time.process_time() - before < 5  # Python's own would never end
    with pytest.raises(ValidationError, match="RE2's syntax"):
        routing.Condition.model_validate({"attribute": "SeriesDescription", "regex": "(?=a)"})


def test_a_rule_tests_what_the_series_is() -> None:
    routes = [
        _route("post", {"attribute": "SeriesType.sequence", "equals": "t1"},
               {"attribute": "SeriesType.contrast_agent", "equals": "with"}),
        _route("other", {"attribute": "SeriesType.plane", "in": ["axial", "coronal"]}),
    ]  # fmt: skip
    images = _images(routes, {})
    assert routing.keywords(routes) == ()  # nothing of the header is stored for them
    post = SeriesType(sequence=Sequence.T1, contrast_agent=Contrast.WITH, plane="axial")
    assert decide(routes, images, post) is routes[0]
    assert decide(routes, images, SeriesType(sequence=Sequence.T2, plane="axial")) is routes[1]
    assert decide(routes, images) is None
    assert routing.failing_conditions(routes[0], images, SeriesType(sequence=Sequence.T1)) == [(routes[0].match[1], 1)]


def test_a_field_that_the_series_type_does_not_have_is_a_startup_error() -> None:
    with pytest.raises(ValueError, match=r"SeriesType\.sequence"):
        Condition.model_validate({"attribute": "SeriesType.weighting", "equals": "T1"})


STAT: dict[str, Any] = {"attribute": "StudyDescription", "equals": "STAT"}


def test_a_rule_that_is_only_urgent_leaves_the_models_to_others() -> None:
    routes = [_route("stat", STAT, urgent=True), _route("all")]
    images = _images(routes, {"StudyDescription": ["stat"]}, {"StudyDescription": []})
    chosen = decide(routes, images)
    assert chosen is not None
    assert chosen.name == "all"
    assert routing.is_urgent(routes, images, SeriesType()), "one image suffices"
    assert not routing.is_urgent(routes, images[1:], SeriesType())
    routing.check_routes([_route("everything", urgent=True), _route("all")])


def test_a_rule_that_chooses_models_may_be_urgent() -> None:
    routes = [_route("stat", STAT, urgent=True, models=["m"])]
    stat, other = _images(routes, {"StudyDescription": ["STAT"]}, {"StudyDescription": ["x"]})
    assert routing.is_urgent(routes, [stat], SeriesType())
    assert not routing.is_urgent(routes, [stat, other], SeriesType())


@pytest.mark.parametrize(
    ("senders", "expected"), [(["ER_MR1"], True), (["WARD"], False), ([], False), (["WARD", "ER_MR1"], True)]
)
@pytest.mark.parametrize("hide", [False, True])
def test_the_calling_ae_titles_of_a_series(senders: list[str], expected: bool, hide: bool) -> None:
    routes = [_route("er", {"attribute": "Sender.ae_title", "regex": "^ER_"}, urgent=True)]
    images = _images(routes, {}, hide=hide)
    assert routing.keywords(routes) == ()
    assert routing.is_urgent(routes, images, SeriesType(), senders) is expected
    assert bool(routing.failing_conditions(routes[0], images, SeriesType(), senders)) is not expected
