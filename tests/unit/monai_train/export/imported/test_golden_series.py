"""A golden case has the pixels and the geometry of its source, and nothing that names a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import dcmread

from monai_train.export.imported.golden_series import write_series
from tests.testbed import tutorial
from worker.pixels.decode import decode


def test_pixels_and_geometry_remain_and_names_do_not(tmp_path: Path) -> None:
    source = tutorial.write_series(
        tmp_path / "source", "left", 12, RescaleSlope=2, RescaleIntercept=-7, PhotometricInterpretation="MONOCHROME1"
    )
    written = write_series(tmp_path / "whole", source, whole=True)
    assert len(written) == 12
    for old, new in zip(source, written, strict=True):
        [before], [after] = decode(old), decode(new)
        assert np.array_equal(before.pixels, after.pixels)
        assert (before.slope, before.intercept, before.spacing) == (after.slope, after.intercept, after.spacing)
        assert (before.orientation, before.position) == (after.orientation, after.position)
        ds = dcmread(new)
        assert (str(ds.PatientName), ds.PatientID) == ("", "GOLDEN")
        assert not {"StudyDate", "AccessionNumber", "SeriesDescription", "PatientBirthDate"} & {e.keyword for e in ds}
        assert before.sop_instance_uid != after.sop_instance_uid
    assert len(write_series(tmp_path / "few", source, whole=False)) == 8
