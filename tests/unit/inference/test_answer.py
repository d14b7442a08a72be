"""A bundle of format 2 answers: outputs made by hand, headers from files, and the tiny network through `classify`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from tests.testbed.images import image, save
from tests.testbed.multiframe import enhanced_head
from tests.testbed.phantom import MASS_CENTRE_MM, Grid, head_series
from worker.dicom.series_attributes import TYPE_KEY
from worker.inference.answer import answer, declared_of, read_declared
from worker.inference.bundle import Bundle
from worker.inference.classify import classify
from worker.inference.engines import EngineOutputs, OpenVinoEngine
from worker.inference.illustrated import IllustratedResult
from worker.inference.preprocess import Volume, preprocess
from worker.inference.series_rule import Declared
from worker.ops.classify_folder import describe_file
from worker.results import AnswerBasis, ResultStatus

GLIOMA, MENINGIOMA, PITUITARY, OTHER, NOTUMOR = np.eye(5)
T2 = Declared("T2")


@pytest.fixture
def volume(bundle_two: Bundle, bundle_two_folder: Path) -> Volume:
    """Three slices, 6 mm apart."""
    return preprocess(sorted((bundle_two_folder / "golden/head").glob("*.dcm")), bundle_two.preprocessing)


def _answer(
    volume: Volume, bundle: Bundle, *classes: Any, declared: Declared = T2, brain: float = 9, far: bool = False
) -> IllustratedResult:
    """`classes` are the slices' class logits; the pixels look like T2."""
    logits = np.zeros((3, 13), np.float32)
    logits[:, :5], logits[:, 7], logits[:, 10] = np.stack(classes), 20, brain
    features = np.repeat(bundle.statistics.mean[None], 3, axis=0) + (np.inf if far else 0)
    maps = np.zeros((3, 13, 4, 4), np.float32)
    maps[:, 0, 1, 2] = maps[:, 1, 3, 0] = 1
    return answer(volume, EngineOutputs(logits, features, maps), bundle, declared)


def _rules(bundle: Bundle, **changes: Any) -> Bundle:
    rules = {name: replace(rule, **changes) for name, rule in bundle.decision.rules.items()}
    return replace(bundle, rule=replace(bundle.decision, rules=rules))


def test_a_lesion_of_a_reliable_kind_is_named(volume: Volume, bundle_two: Bundle) -> None:
    result = _answer(volume, bundle_two, 9 * NOTUMOR, 9 * GLIOMA, 9 * GLIOMA)
    assert (result.status, result.label, result.reason) == (ResultStatus.CLASSIFIED, "glioma", None)
    assert result.probability == result.probabilities["glioma"]
    assert list(result.probabilities) == ["glioma", "meningioma", "pituitary", "other", "notumor"]
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert [item.deciding for item in result.slices] == [False, True, True]
    assert [item.activation is not None for item in result.slices] == [False, True, True]
    assert all(sum(item.probabilities) == pytest.approx(1) for item in result.slices)
    assert result.slices[0].probabilities[4] > 0.9 > 0.1 > result.slices[1].probabilities[4]
    assert result.key_image is not None
    assert result.key_image.slice_index == 1
    assert result.key_image.activation is not None
    assert result.basis == AnswerBasis("T2", "header", "axial", False, 3, 3, result.basis.lesion_probability)  # type: ignore[union-attr]


def test_a_lesion_of_another_kind_is_undetermined_and_shows_all_lesions(volume: Volume, bundle_two: Bundle) -> None:
    careful = _rules(bundle_two, reliable_kinds=())
    result = _answer(volume, careful, *[9 * (GLIOMA + MENINGIOMA)] * 3)
    assert result.label == "tumor"
    assert bundle_two.identity.class_named("tumor").neoplasm
    assert "tumor" not in result.probabilities
    assert result.probability == pytest.approx(1 - result.probabilities["notumor"])
    activation = result.slices[1].activation
    assert activation is not None
    assert activation.rows[1][2] == activation.rows[3][0] == 255


def test_no_lesion_shows_no_map(volume: Volume, bundle_two: Bundle) -> None:
    result = _answer(volume, bundle_two, *[9 * NOTUMOR] * 3)
    assert (result.label, result.reason) == ("notumor", None)
    assert result.probability == result.probabilities["notumor"]
    assert any(item.deciding for item in result.slices)
    assert not any(item.activation for item in result.slices)
    assert result.key_image is not None
    assert result.key_image.activation is None


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        ({"brain": -9, "declared": Declared("T2", body_part="BRAIN")}, "not-a-brain", "body part BRAIN"),
        ({"far": True}, "out-of-distribution", "0 of 3"),
        ({"declared": Declared("FLAIR")}, "sequence-contradiction", "says FLAIR"),
        ({"declared": Declared("DWI")}, "sequence-not-supported", "DWI"),
    ],
)
def test_what_is_not_assessed_has_a_reason_and_no_class(
    volume: Volume, bundle_two: Bundle, arguments: Any, reason: str, words: str
) -> None:
    result = _answer(volume, bundle_two, *[9 * GLIOMA] * 3, **arguments)
    assert (result.status, result.reason) == (ResultStatus.NOT_ASSESSED, reason)
    assert (result.label, result.probability, result.probabilities) == (None, None, {})
    assert words in (result.detail or "")
    assert len(result.slices) == 3
    assert not any(item.deciding or item.activation for item in result.slices)
    assert result.key_image is not None
    assert result.key_image.activation is None
    assert result.basis is not None
    assert result.basis.lesion_probability is None


def test_between_the_thresholds_is_too_uncertain(volume: Volume, bundle_two: Bundle) -> None:
    careful = _rules(bundle_two, lesion_from=0.99, no_lesion_to=0.01)
    result = _answer(volume, careful, *[GLIOMA + NOTUMOR] * 3)
    assert (result.status, result.label, result.probability) == (ResultStatus.NOT_ASSESSED, None, None)
    assert result.reason == "too-uncertain"
    assert result.probabilities["notumor"] == pytest.approx(1 - result.basis.lesion_probability)  # type: ignore[union-attr,operator]


def test_logits_that_are_no_numbers_are_not_assessed(volume: Volume, bundle_two: Bundle) -> None:
    assert _answer(volume, bundle_two, *[np.nan * GLIOMA] * 3).reason == "out-of-distribution"


def _files(folder: Path, *headers: dict[str, Any]) -> list[Path]:
    folder.mkdir()
    pixels = np.ones((16, 16), np.uint16)
    return [save(image(pixels, **header), folder / f"{index}.dcm") for index, header in enumerate(headers)]


def test_the_headers_declare_sequence_agent_and_body_part(tmp_path: Path) -> None:
    t1 = {"SeriesDescription": "T1 SE axial", "BodyPartExamined": "BRAIN"}
    given = t1 | {"ContrastBolusAgent": "Gadovist"}
    assert read_declared(_files(tmp_path / "a", t1, t1)) == Declared("T1", None, False, "BRAIN")
    assert read_declared(_files(tmp_path / "b", given, given)) == Declared("T1", True, False, "BRAIN")
    assert read_declared(_files(tmp_path / "c", given, t1)).agent_is_mixed
    assert read_declared(_files(tmp_path / "d", {})) == Declared()
    assert read_declared([enhanced_head(tmp_path)]).sequence == "T1"
    received = [describe_file(file).attributes[TYPE_KEY] for file in _files(tmp_path / "e", given, t1)]
    assert declared_of(received) == read_declared(sorted((tmp_path / "e").iterdir())), "the rows say what the files do"


def test_a_header_that_cannot_be_read_declares_nothing(tmp_path: Path) -> None:
    damaged = tmp_path / "a.dcm"
    damaged.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 500)
    assert read_declared([damaged]) == Declared()
    with pytest.raises(FileNotFoundError):
        read_declared([tmp_path / "gone.dcm"])


def _series(source: Path, folder: Path, **attributes: Any) -> list[Path]:
    """A copy of the golden head with other headers."""
    folder.mkdir()
    for path in sorted(source.glob("golden/head/*.dcm")):
        ds = dcmread(path)
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        ds.save_as(folder / path.name)
    return sorted(folder.iterdir())


def test_the_tiny_network_answers_by_the_header(bundle_two: Bundle, bundle_two_folder: Path, tmp_path: Path) -> None:
    engine = OpenVinoEngine(bundle_two)
    known = classify(_series(bundle_two_folder, tmp_path / "a", SeriesDescription="T2 TSE"), bundle_two, engine)
    assert known.status is ResultStatus.CLASSIFIED
    assert known.basis is not None
    assert (known.basis.sequence, known.basis.sequence_source) == ("T2", "header")
    unknown = classify(_series(bundle_two_folder, tmp_path / "b"), bundle_two, engine)
    assert unknown.reason == "sequence-not-supported"  # its pixels look like every sequence alike


def _three_d(folder: Path, plane: str) -> list[Path]:
    grid = Grid(slices=90, rows=90, columns=90, pixel_mm=2.2, slice_mm=2.0, plane=plane)
    folder.mkdir()
    return head_series(folder, grid=grid, mass=True, attributes={"SeriesDescription": "T1 MPRAGE"})


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_a_three_d_series_is_judged_in_axial_slices(bundle_two: Bundle, tmp_path: Path, plane: str) -> None:
    files = _three_d(tmp_path / plane, plane)
    certain = _rules(bundle_two, lesion_from=0.0, no_lesion_to=0.0)
    result = classify(files, certain, OpenVinoEngine(certain))
    assert result.status is ResultStatus.CLASSIFIED
    assert result.basis is not None
    assert (result.basis.plane, result.basis.reformatted) == ("axial", True)
    assert result.basis.slices == len(result.slices) == pytest.approx(180 / 5, abs=6)
    received = {str(dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files}
    assert {item.sop_instance_uid for item in result.slices} <= received
    positions = np.array([item.position_mm for item in result.slices])
    np.testing.assert_allclose(np.diff(positions), 5)
    # An axial frame shows the square of the map; a sagittal one cannot.
    deciding = [item for item in result.slices if item.deciding]
    assert deciding
    assert all((item.activation is not None) == (plane == "axial") for item in deciding)
    assert result.key_image is not None
    assert result.key_image.activation is not None
    assert result.key_image.edges is not None
    assert (result.key_image.edges.left, result.key_image.edges.top) == ("R", "A")


def test_a_reformatted_slice_is_represented_by_the_frame_through_its_peak(bundle_two: Bundle, tmp_path: Path) -> None:
    files = _three_d(tmp_path / "sagittal", "sagittal")
    volume = preprocess(files, bundle_two.preprocessing)
    assert volume.is_reformatted
    assert (volume.rows, volume.columns) == (90, 90)
    index = int(np.abs([(frame.position_mm or 0) - MASS_CENTRE_MM[2] for frame in volume.frames]).argmin())
    left, right = (volume.frame_at(index, 0.5, share)[0] for share in (0.05, 0.95))
    x = [float(dcmread(frame.path, stop_before_pixels=True).ImagePositionPatient[0]) for frame in (left, right)]
    assert x[0] < -40 < 40 < x[1]  # the patient's right is shown on the left
    middle = float(dcmread(volume.frames[index].path, stop_before_pixels=True).ImagePositionPatient[0])
    assert abs(middle) < 6
