"""The judges that are not ours, on what really arrived in the PACS (results-in-dicom: validators)."""

from __future__ import annotations

from pathlib import Path

import highdicom
import pytest
from pydicom import dcmread

from tests.testbed import phantom, validators
from tests.testbed.site import Answer, Site

SOURCES = {"clean": phantom.CLEAN_PATIENT, "malformed": phantom.MALFORMED_PATIENT}


@pytest.fixture(scope="module")
def answers(hospital: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    sources = {
        name: hospital.push(phantom.head_series(tmp_path_factory.mktemp(name), mass=True, attributes=attributes))
        for name, attributes in SOURCES.items()
    }
    return {name: hospital.answer(source) for name, source in sources.items()}


def written(content: bytes, path: Path) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("judge", validators.REPORT_JUDGES, ids=lambda judge: judge.__name__)
def test_report_satisfies(judge: validators.Judge, source: str, answers: dict[str, Answer], tmp_path: Path) -> None:
    if why := validators.missing(judge):
        pytest.skip(why)
    (report,) = answers[source].reports.values()
    assert judge(written(report, tmp_path / "report.dcm")) == []


@pytest.mark.parametrize("source", SOURCES)
def test_picture_satisfies_dciodvfy(source: str, answers: dict[str, Answer], tmp_path: Path) -> None:
    if why := validators.missing(validators.dciodvfy):
        pytest.skip(why)
    (picture,) = answers[source].pictures.values()
    assert validators.dciodvfy(written(picture, tmp_path / "picture.dcm")) == []


@pytest.mark.parametrize("source", SOURCES)
def test_highdicom_reads_the_report(source: str, answers: dict[str, Answer], tmp_path: Path) -> None:
    (report,) = answers[source].reports.values()
    read = highdicom.sr.srread(written(report, tmp_path / "report.dcm"))
    groups = read.content.get_image_measurement_groups()
    assert groups
    assert dcmread(tmp_path / "report.dcm").CompletionFlag == "COMPLETE"
