"""worker.json of formats 2 and 3: what is accepted, and a line that names each fault. Format 1: test_bundle.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.tiny_bundle import OUTPUTS_OF_TWO, RULE
from worker.inference.bundle_schema import FormatThree, FormatTwo, describe, identity_of


@pytest.fixture
def values(bundle_two_folder: Path) -> Any:
    return json.loads((bundle_two_folder / "worker.json").read_text())


def test_format_two_is_described(values: Any) -> None:
    described = describe(values)
    assert isinstance(described, FormatTwo)
    assert described.outputs_of_a_slice == OUTPUTS_OF_TWO == 13
    assert described.undetermined.name == "tumor"


def _rule(**changes: Any) -> Any:
    return lambda values: values["decision"]["T2"].update(changes)


STUDY = {"weights": {"T1C": 2.5}, "most_certain": 0.98, "lesion_from": 0.9, "no_lesion_to": 0.1, "minimum_kind": 0.6}


def _study(**changes: Any) -> Any:
    return lambda values: values.update(study=STUDY | changes)


def _outputs(**changes: Any) -> Any:
    return lambda values: values["outputs"].update(changes)


FAULTS: dict[str, tuple[str, Any]] = {
    "no rule": ("decision lacks the rule for the sequence 'FLAIR'", lambda values: values["decision"].pop("FLAIR")),
    "unknown sequence": ("no sequence of the outputs", lambda values: values["decision"].update(T3=RULE)),
    "unprintable": (r"'\x1b[2J'", lambda values: values["decision"].update({"\x1b[2J": RULE})),
    "unknown output": ("unknown sequence 'T3'", _outputs(sequences=["T1", "T3", "other"])),
    "no other": ("the output 'other' is missing", _outputs(sequences=["T1", "T2"])),
    "no brain": ("the output 'brain' is missing", _outputs(regions=["head", "other"])),
    "twice": ("two outputs have the same name", _outputs(regions=["brain", "brain"])),
    "unknown kind": ("reliable_kinds of T2 names 'ependymoma'", _rule(reliable_kinds=["ependymoma"])),
    "kind without finding": ("'notumor', which is no class with a finding", _rule(reliable_kinds=["notumor"])),
    "unknown plane": ("decision.T2.planes.0", _rule(planes=["oblique"])),
    "slope": ("decision.T2.slope", _rule(slope=0)),
    "not finite": ("decision.T2.offset", _rule(offset=float("nan"))),
    "not a number": ("decision.T2.lesion_from", _rule(lesion_from=float("nan"))),
    "thresholds": ("no_lesion_to exceeds lesion_from", _rule(lesion_from=0.4, no_lesion_to=0.5)),
    "half a rule": ("decision.T2.slope: Field required", lambda values: values["decision"]["T2"].pop("slope")),
    "limit": ("series.minimum_brain", lambda values: values["series"].update(minimum_brain=1.5)),
    "study weight": ("study.weights.T1C", _study(weights={"T1C": 0.0})),
    "study sequence": ("study has a weight for 'T3'", _study(weights={"T3": 1.0})),
    "study thresholds": ("no_lesion_to is not below lesion_from", _study(lesion_from=0.5, no_lesion_to=0.5)),
    "study certainty": ("study.most_certain", _study(most_certain=1.0)),
    "old key": ("temperature", lambda values: values.update(temperature=1.0)),
    "two without a finding": (
        "exactly one class has no finding",
        lambda values: values["classes"][3].update(finding=None),
    ),
    "all with a finding": (
        "exactly one class has no finding",
        lambda values: values["classes"][4].update(finding=values["classes"][3]["finding"]),
    ),
    "neoplasm without a finding": ("classes.0", lambda values: values["classes"][0].update(finding=None)),
    "undetermined is a class": (
        "'glioma' names a class and the undetermined kind",
        lambda values: values["undetermined"].update(name="glioma"),
    ),
    "undetermined without a finding": (
        "the class for an undetermined kind has a finding",
        lambda values: values["undetermined"].update(finding=None, neoplasm=False),
    ),
    "format 4": ("format: must be 1, 2 or 3", lambda values: values.update(format=4)),
    "format as text": ("format: must be 1, 2 or 3", lambda values: values.update(format="2")),
    "format as truth": ("format: must be 1, 2 or 3", lambda values: values.update(format=True)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(values: Any, fault: str) -> None:
    message, damage = FAULTS[fault]
    damage(values)
    with pytest.raises(ValueError, match=r".") as raised:
        describe(values)
    assert message in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("values", [[], None, 1, "x", {}, {"format": []}])
def test_what_is_no_object_of_a_known_format_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="format: must be 1, 2 or 3"):
        describe(values)


@pytest.fixture
def imported(bundle_folder: Path) -> Any:
    """Format 3 of the keys of format 1, without a class that is a neoplasm."""
    values = json.loads((bundle_folder / "worker.json").read_text())
    for key in ("commit", "training_data_sha256"):
        del values[key]
    for item in values["classes"]:
        item["neoplasm"] = False
    source = {"file": "m.onnx", "sha256": "0" * 64, "kind": "onnx"}
    return {**values, "format": 3, "source": source, "input": {"kind": "slices", "shape": [1, 64, 64]}}


def test_format_three_has_lesions_that_are_no_neoplasms(imported: Any) -> None:
    described = describe(imported)
    assert isinstance(described, FormatThree)
    identity = identity_of(described, "a" * 64)
    assert [item.is_lesion for item in identity.classes] == [True, True, True, False]
    assert not identity.names_neoplasms
    assert "slices likeliest to show a finding" in identity.parameters
    code = {"value": "50960005", "scheme": "SCT", "meaning": "Hemorrhage"}
    presence = identity_of(describe({**imported, "presence": code}), "a" * 64).presence
    assert presence is not None
    assert presence.meaning == "Hemorrhage"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"input": {"kind": "volume", "shape": [1, 64, 64]}}, "of a volume"),
        ({"input": {"kind": "slices", "shape": [1, 64, 100000]}}, "input.shape.2"),
        ({"mirror": True}, "mirror is for the worker's own preprocessing"),
        ({"commit": "0"}, "commit: Extra inputs"),
        ({"source": {"file": "m.onnx", "sha256": "0" * 64, "kind": "pickle"}}, "source.kind"),
    ],
)
def test_a_fault_of_format_three_is_named(imported: Any, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        describe({**imported, **changes})
    for item in imported["classes"]:
        item["finding"] = None
    with pytest.raises(ValueError, match="no class has a finding"):
        describe(imported)
