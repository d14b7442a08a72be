"""Attributes in functional groups, and frames that differ in them."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.testbed.instances import encoded, mr_instance
from worker.dicom import functional_groups
from worker.dicom.functional_groups import MAXIMUM_VARIANTS, PER_FRAME, SHARED, frame_variants, has_groups
from worker.dicom.header import Header, parse_header


def group(**macros: dict[str, Any]) -> Dataset:
    """A functional group: macro sequence → attributes."""
    ds = Dataset()
    for sequence, attributes in macros.items():
        macro = Dataset()
        for keyword, value in attributes.items():
            setattr(macro, keyword, value)
        setattr(ds, sequence, [macro])
    return ds


def image(shared: Dataset | None = None, frames: list[Dataset] | None = None) -> Header:
    ds = mr_instance()
    if shared is not None:
        ds.SharedFunctionalGroupsSequence = [shared]
    if frames is not None:
        ds.PerFrameFunctionalGroupsSequence = frames
    return parse_header(encoded(ds), ExplicitVRLittleEndian, ["Rows"], [SHARED, PER_FRAME])


def texts(ds: Dataset, keyword: str) -> list[str]:
    return [str(ds[keyword].value)] if keyword in ds else []


def echo(time: float) -> Dataset:
    return group(MREchoSequence={"EffectiveEchoTime": time})


def test_an_image_without_groups_has_none() -> None:
    assert not has_groups(image())
    assert has_groups(image(shared=Dataset()))
    assert not has_groups(image(frames=[]))
    assert frame_variants(image(), ["EffectiveEchoTime"], texts) == [{}]


def test_frames_that_agree_are_a_single_variant() -> None:
    shared = group(MRTimingAndRelatedParametersSequence={"RepetitionTime": 550.0})
    ds = image(shared, [echo(10.0), echo(10.0)])
    assert frame_variants(ds, ["RepetitionTime", "EffectiveEchoTime"], texts) == [
        {"RepetitionTime": ["550.0"], "EffectiveEchoTime": ["10.0"]}
    ]


def test_frames_that_differ_are_variants_each_with_the_shared_values() -> None:
    shared = group(MRTimingAndRelatedParametersSequence={"RepetitionTime": 550.0})
    ds = image(shared, [echo(10.0), echo(80.0), echo(10.0)])
    assert frame_variants(ds, ["RepetitionTime", "EffectiveEchoTime"], texts) == [
        {"RepetitionTime": ["550.0"], "EffectiveEchoTime": ["10.0"]},
        {"RepetitionTime": ["550.0"], "EffectiveEchoTime": ["80.0"]},
    ]


def test_a_shared_value_is_not_looked_up_in_the_frames() -> None:
    ds = image(echo(10.0), [echo(80.0)])
    assert frame_variants(ds, ["EffectiveEchoTime"], texts) == [{"EffectiveEchoTime": ["10.0"]}]


def test_a_frame_without_the_macro_of_the_first_has_no_text() -> None:
    ds = image(frames=[echo(10.0), Dataset()])
    assert frame_variants(ds, ["EffectiveEchoTime"], texts) == [
        {"EffectiveEchoTime": ["10.0"]},
        {"EffectiveEchoTime": []},
    ]


def test_too_many_variants_are_unknown() -> None:
    frames = [echo(float(number)) for number in range(MAXIMUM_VARIANTS)]
    assert len(frame_variants(image(frames=frames), ["EffectiveEchoTime"], texts)) == MAXIMUM_VARIANTS
    frames.append(echo(1000.0))
    assert frame_variants(image(frames=frames), ["EffectiveEchoTime"], texts) == [{"EffectiveEchoTime": None}]


def test_an_attribute_that_no_group_has_is_in_no_variant() -> None:
    assert frame_variants(image(frames=[echo(10.0)]), ["FlipAngle"], texts) == [{}]


def test_a_frame_is_walked_as_often_for_many_attributes_as_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = 0
    walk = functional_groups.elements

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal walks
        walks += 1
        return walk(*arguments, **options)

    monkeypatch.setattr(functional_groups, "elements", counted)
    timing = {"RepetitionTime": 550.0, "FlipAngle": 90.0, "EchoTrainLength": 1, "RFEchoTrainLength": 1}

    def walks_of(frames: int, keywords: list[str]) -> int:
        nonlocal walks
        groups = [group(MRTimingAndRelatedParametersSequence=timing) for _ in range(frames)]
        header, walks = image(frames=groups), 0
        assert len(frame_variants(header, keywords, texts)) == 1
        return walks

    of_one, of_all = (walks_of(60, keywords) - walks_of(20, keywords) for keywords in (["FlipAngle"], list(timing)))
    assert of_all == of_one == 40 * 2, "the group and its macro's item, once each"
