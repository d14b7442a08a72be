"""A bundle of format 2 in a running service: 2-D and 3-D series from C-STORE to report, and why others get none."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread, dcmwrite

from tests.testbed import pacs, site
from tests.testbed.phantom import Grid, head_series
from tests.testbed.site import Site
from tests.testbed.tiny_bundle import RULE, SEQUENCES, make_tiny_bundle
from tests.testbed.waiting import wait_until

FLAT = Grid(slices=4)
THIN = Grid(slices=60, rows=64, columns=64, pixel_mm=3.0, slice_mm=2.0, plane="sagittal")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Its network is random: every series of a known sequence is a lesion, of an unknown kind."""
    rule = RULE | {"lesion_from": 0.0, "no_lesion_to": 0.0, "reliable_kinds": []}
    bundle = make_tiny_bundle(
        tmp_path_factory.mktemp("bundle") / "two",
        format=2,
        decision={name: rule | {"supported": name != "other"} for name in SEQUENCES},
    )
    with site.running(tmp_path_factory.mktemp("clinic"), settings={"worker": {"bundle": str(bundle)}}) as running:
        yield running


def _answered(clinic: Site, source: Any) -> tuple[Any, ...]:
    """Label and reason of the result on a series that was pushed."""
    statement = (
        "SELECT result.label, result.reason, result.detail FROM result JOIN series ON series.id = result.series_id "
        f"WHERE series.series_instance_uid = '{source.SeriesInstanceUID}'"
    )
    [row] = wait_until(lambda: clinic.worker.rows(statement), "the result")
    return tuple(row)


@pytest.mark.parametrize("grid", [FLAT, THIN], ids=["2-D axial", "3-D sagittal"])
def test_a_series_goes_from_the_scanner_to_its_report(clinic: Site, tmp_path: Path, grid: Grid) -> None:
    source = clinic.push(head_series(tmp_path, grid=grid, mass=True))
    assert _answered(clinic, source)[:2] == ("tumor", None)
    found = wait_until(lambda: clinic.pacs.files(pacs.REPORTS, source.StudyInstanceUID), "the report")
    [report] = (dcmread(BytesIO(content)) for content in found.values())
    groups = [item.value for item in report.iterall() if item.keyword == "UID"]
    assert len(groups) == len(set(groups)) > 1  # tracking UIDs: of the series, and of each deciding slice
    assert "126952004" in {item.value for item in report.iterall() if item.keyword == "CodeValue"}
    clinic.worker.require_alive()


def test_half_a_contrast_agent_is_a_reason(clinic: Site, tmp_path: Path) -> None:
    files = head_series(tmp_path, grid=FLAT, attributes={"SeriesDescription": "T1 SE"})
    for file in files[:2]:
        ds = dcmread(file)
        del ds.ContrastBolusAgent
        dcmwrite(file, ds)
    label, reason, detail = _answered(clinic, clinic.push(files))
    assert (label, reason) == (None, "sequence-contradiction")
    assert "others name none" in detail


def test_an_unknown_sequence_is_a_reason(clinic: Site, tmp_path: Path) -> None:
    attributes = dict.fromkeys(("SeriesDescription", "ProtocolName", "ScanningSequence", "EchoTime", "RepetitionTime"))
    files = head_series(tmp_path, grid=FLAT, attributes=attributes)
    label, reason, detail = _answered(clinic, clinic.push(files))
    assert (label, reason) == (None, "sequence-not-supported")
    assert "which sequence it is" in detail
