"""What readers confirmed leaves the worker whole, checked, and without what nobody may train on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from monai_train.data.from_worker import convert_export
from tests.testbed.databases import make_tables
from tests.testbed.instances import MODEL, NOON, classified, mr_instance, new_instance, received
from worker.db.engine import Database
from worker.db.instances import add_instance, instances_of
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.readings import NewReading, add_reading
from worker.db.results import add_result
from worker.db.series import queue_series
from worker.db.tables import InstanceRow, JobState, ModelRow, SeriesRow
from worker.dicom.standard import derive_uid
from worker.errors import StartError
from worker.ops.export_readings import LABELS, export_readings
from worker.results import SliceResult
from worker.storage.keeper import InstanceKeeper


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    yield database
    database.close()


def _series(database: Database, data_dir: Path, name: str, label: str | None, **said: object) -> int:
    """A glioma of three slices, the middle one deciding, the last unlike the training data; read where `label`."""
    keeper = InstanceKeeper(database, data_dir, lambda: NOON, minimum_free_bytes=0)
    for number in range(3):
        keeper.keep(received(mr_instance(number, name)))
    keeper.close()
    return _answered(database, derive_uid("series", name), label, [said.get("frame")] * 3)


def _answered(database: Database, series_instance_uid: str, label: str | None, frames: Sequence[object]) -> int:
    """`frames`: of each slice the frame of its file, of which there is one or as many."""
    with database.write() as session:
        model = model_row(session, MODEL, NOON).id
        series = session.query(SeriesRow).filter_by(series_instance_uid=series_instance_uid).one()
        queue_series(session, series, model, NOON)
        job = claim_job(session, "me", model, NOON, timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, NOON)
        rows = instances_of(session, series.id)
        slices = tuple(
            SliceResult(
                row.sop_class_uid, row.sop_instance_uid, frame, None, (0.9, 0.1), place < 2, place == 1,  # type: ignore[arg-type]
            )
            for place, (row, frame) in enumerate(zip(cycle(rows), frames, strict=False))
        )  # fmt: skip
        ids = {row.sop_instance_uid: row.id for row in rows}
        result = add_result(session, job, replace(classified(), slices=slices), ids, [], [], NOON)
        if label is not None:
            add_reading(session, series.id, NewReading(label, "dr-a", "", (1, 2), result.id, 0), NOON)
        return series.id


def _lines(out: Path, name: str) -> list[dict[str, str]]:
    with (out / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_lesion_that_the_model_knows_and_a_tumour_of_unknown_kind_are_exported(
    database: Database, tmp_path: Path
) -> None:
    """`other` is a class only to a model that has it; to another it is something else, which has no name."""
    _series(database, tmp_path, "tumour", "tumor")
    _series(database, tmp_path, "lesion", "other")
    assert export_readings(database, tmp_path, tmp_path / "before").left_out[0][1] == "other"
    with database.write() as session:
        for row in session.query(ModelRow):
            row.labels = {**(row.labels or {}), "other": {"neoplasm": False, "lesion": True, "kind": True}}
    done = export_readings(database, tmp_path, tmp_path / "out")
    assert (done.series, done.left_out) == (2, ())
    assert {line["label"] for line in _lines(tmp_path / "out", LABELS)} == {"tumor", "other"}


def test_files_are_whole_and_every_slice_says_what_is_known_of_it(database: Database, tmp_path: Path) -> None:
    _series(database, tmp_path, "a", "glioma")
    _series(database, tmp_path, "unread", None)
    out = tmp_path / "out"
    done = export_readings(database, tmp_path, out)
    assert (done.series, done.slices, done.left_out) == (1, 3, ())
    lines = _lines(out, LABELS)
    assert [(line["marked"], line["deciding"], line["in_distribution"]) for line in lines] == [
        ("", "", "yes"),
        ("yes", "yes", "yes"),
        ("yes", "", ""),
    ]
    assert {(line["label"], line["answer"], line["dataset"]) for line in lines} == {("glioma", "glioma", "site")}
    received_files = sorted(path.read_bytes() for path in (tmp_path / "instances").rglob("*.dcm"))
    assert all((out / line["path"]).read_bytes() in received_files for line in lines)
    assert derive_uid("series", "a") not in (out / LABELS).read_text()


def test_what_cannot_be_trained_on_is_left_out_with_the_reason(database: Database, tmp_path: Path) -> None:
    _series(database, tmp_path, "other", "other")
    _series(database, tmp_path, "frames", "glioma", frame=2)  # of files with one: no header tells what lies there
    deleted, damaged = (_series(database, tmp_path, name, "glioma") for name in ("deleted", "damaged"))
    with database.write() as session:
        for row in session.query(InstanceRow).filter_by(series_id=deleted):
            row.removed_at = NOON
        [first, *_] = session.query(InstanceRow).filter_by(series_id=damaged)
        (tmp_path / first.path).write_bytes(b"other bytes")
        no_result = add_instance(session, new_instance(1, "no-result"), NOON).series_id
        add_reading(session, no_result, NewReading("glioma", "dr-a", "", (), None, 0), NOON)
    out = tmp_path / "out"
    done = export_readings(database, tmp_path, out)
    assert (done.series, done.slices) == (0, 0)
    assert sorted(reason for _, reason in done.left_out) == [
        "images-damaged",
        "images-deleted",
        "multi-frame",
        "no-result",
        "other",
    ]
    assert [line["reason"] for line in _lines(out, "left-out.csv")] == [reason for _, reason in done.left_out]
    assert list((out / "images").iterdir()) == []


def test_frames_of_one_file_are_exported_each_and_become_a_dataset(database: Database, tmp_path: Path) -> None:
    """A glioma in one file of four frames, of which a reader marked the second and the third slice."""
    ds = mr_instance(1, "frames", NumberOfFrames=4)
    ds.PixelData = np.random.default_rng(7).integers(0, 4000, (4, 16, 16), np.uint16).tobytes()
    sent = received(ds)
    keeper = InstanceKeeper(database, tmp_path, lambda: NOON, minimum_free_bytes=0)
    keeper.keep(sent)
    keeper.close()
    _answered(database, ds.SeriesInstanceUID, "glioma", [4, 3, 2, 1])
    export, dataset = tmp_path / "export", tmp_path / "dataset"
    done = export_readings(database, tmp_path, export)
    assert (done.series, done.slices, done.left_out) == (1, 4, ())
    for line in _lines(export, LABELS):
        alone = dcmread(export / line["path"])
        assert (alone.pixel_array == ds.pixel_array[3 - int(line["ordinal"])]).all()
        assert alone.InstanceNumber == int(line["ordinal"]) + 1
    converted = convert_export(export, dataset)
    # The others stay in the series, whose slices are preprocessed together, but without a label.
    known = [(line["ordinal"], line["truth"], line["label"]) for line in converted.manifest]
    assert known == [("0", "", ""), ("1", "marked", "glioma"), ("2", "marked", "glioma"), ("3", "", "")]
    assert len(_lines(dataset, "series.csv")) == 4


def test_nothing_is_written_over(database: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_readings(database, tmp_path, out)
    with pytest.raises(StartError, match="is not empty"):
        export_readings(database, tmp_path, out)
