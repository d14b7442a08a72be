from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from pydicom import Dataset
from sqlalchemy import event, select

from tests.testbed.instances import MODEL, NOON, later, mr_instance, new_instance, received
from worker.config.sections import EligibilitySection, PeerSection, ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db import settling
from worker.db.engine import Database
from worker.db.instances import add_instance, close_association, input_sha256, instances_of, open_association
from worker.db.models import model_row
from worker.db.tables import JobRow, JobState, SeriesRow, SeriesState
from worker.db.views.search import Search, find_series
from worker.dicom.series_attributes import TYPE_KEY
from worker.dicom.standard import derive_uid
from worker.process import process_name
from worker.receive import settle as series_module
from worker.receive.peer_count import LULL, RECOUNT
from worker.receive.settle import check_identity, settle_series
from worker.storage.keeper import InstanceKeeper

ATTRIBUTES: dict[str, Any] = {
    "modality": "MR",
    "image_type": ["ORIGINAL", "PRIMARY", "M"],
    "scanning_sequence": ["SE"],
    "body_part": "BRAIN",
    "frames": 1,
}
SETTINGS = Settings(worker=WorkerSection(data_dir=Path("unused")), receive=ReceiveSection(quiet_seconds=10))


IDENTITY = {"patient": "BOB", "study": "1.2"}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"patient": "BOB", "study": "1.2"}, None),
        ({"patient": "BOB", "study": "1.2", "issuer": "A"}, None),
        ({"patient": "ALICE", "study": "1.2"}, "mixed-patients"),
        ({"patient": "bob", "study": "1.2"}, "mixed-patients"),
        ({"patient": "", "name": "BOB", "study": "1.2"}, "mixed-patients"),
        ({"patient": "BOB", "study": "1.3"}, "mixed-studies"),
        ({"patient": "ALICE", "study": "1.3"}, "mixed-patients"),
    ],
)
def test_a_series_of_two_patients_or_studies_is_refused(other: dict[str, str], reason: str | None) -> None:
    for identities in ([IDENTITY, IDENTITY, other], [other, IDENTITY, IDENTITY]):
        refused = check_identity(identities)
        assert (refused.reason if refused else None) == reason


def test_an_id_of_two_issuers_is_two_patients() -> None:
    refused = check_identity([IDENTITY | {"issuer": "A"}, IDENTITY, IDENTITY | {"issuer": "B"}])
    assert refused is not None
    assert refused.reason == "mixed-patients"


def test_a_refusal_counts_and_names_nobody() -> None:
    many = [{"patient": f"P{number}", "study": "1.2"} for number in range(2000)]
    refused = check_identity([IDENTITY, *many])
    assert refused is not None
    assert "2,001 patients" in refused.detail
    assert "BOB" not in refused.detail
    assert len(refused.detail) < 200


def _keep(database: Database, tmp_path: Path, *datasets: Dataset) -> None:
    keeper = InstanceKeeper(database, tmp_path, lambda: NOON, minimum_free_bytes=0)
    for ds in datasets:
        keeper.keep(received(ds))
    keeper.close()


MIXTURES: dict[str, tuple[dict[str, Any], str | None]] = {
    "the same": ({}, None),
    "padding": ({"PatientID": "  ID-a  "}, None),
    "an issuer": ({"IssuerOfPatientID": "HOSPITAL"}, None),
    "another spelling of the name": ({"PatientName": "FAMILY^A"}, None),
    "another patient": ({"PatientID": "ID-b", "PatientName": "Other^B"}, "mixed-patients"),
    "another case": ({"PatientID": "id-a"}, "mixed-patients"),
    "no ID": ({"PatientID": None}, "mixed-patients"),
    "an empty ID": ({"PatientID": ""}, "mixed-patients"),
    "a control character": ({"PatientID": "ID\x07-a"}, "mixed-patients"),
    "a difference after 64 characters": ({"PatientID": "ID-a" + 80 * " " + "x"}, "mixed-patients"),
    "another study": ({"StudyInstanceUID": "1.2.3"}, "mixed-studies"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("change", "reason"), MIXTURES.values(), ids=MIXTURES.keys())
def test_a_received_series_of_two_patients_is_kept_and_not_reported(
    database: Database, tmp_path: Path, change: dict[str, Any], reason: str | None
) -> None:
    _serve_a_model(database)
    _keep(database, tmp_path, *(mr_instance(number) for number in (1, 2, 3)), mr_instance(4, **change))
    settle_series(database, SETTINGS, later(60))
    assert _series(database).reason == reason
    assert len(_jobs(database)) == (0 if reason else 1)
    assert len(list(tmp_path.rglob("*.dcm"))) == 4


@pytest.mark.parametrize(
    ("name", "reason"), [("Bob^B", None), ("BOB^B^^", None), ("Alice^A", "mixed-patients"), ("", "mixed-patients")]
)
def test_without_ids_the_names_decide(database: Database, tmp_path: Path, name: str, reason: str | None) -> None:
    _serve_a_model(database)
    first = [mr_instance(number, PatientID="", PatientName="Bob^B") for number in (1, 2, 3)]
    _keep(database, tmp_path, *first, mr_instance(4, PatientID=None, PatientName=name))
    settle_series(database, SETTINGS, later(60))
    assert _series(database).reason == reason


def test_a_second_patient_that_comes_after_the_answer_refuses_the_series(database: Database, tmp_path: Path) -> None:
    _serve_a_model(database)
    _keep(database, tmp_path, *(mr_instance(number) for number in (1, 2, 3)))
    settle_series(database, SETTINGS, later(60))
    _keep(database, tmp_path, *(mr_instance(number, PatientID="ID-b") for number in (4, 5, 6)))
    settle_series(database, SETTINGS, later(120))
    assert _series(database).reason == "mixed-patients"
    [job] = _jobs(database)  # of the first patient's images alone
    with database.read() as session:
        assert len(instances_of(session, job.series_id, job.last_instance_id)) == 3


def test_a_series_is_refused_while_half_of_it_is_corrected_and_queued_under_the_new_patient(
    database: Database, tmp_path: Path
) -> None:
    _serve_a_model(database)
    _keep(database, tmp_path, *(mr_instance(number) for number in (1, 2, 3, 4)))
    settle_series(database, SETTINGS, later(60))
    _keep(database, tmp_path, *(mr_instance(number, PatientID="R1") for number in (1, 2)))
    settle_series(database, SETTINGS, later(120))
    assert (_series(database).reason, _series(database).patient_id) == ("mixed-patients", "R1")
    _keep(database, tmp_path, *(mr_instance(number, PatientID="R1") for number in (3, 4)))
    settle_series(database, SETTINGS, later(180))
    assert (_series(database).state, _series(database).patient_id) == (SeriesState.QUEUED, "R1")
    assert [(job.state, job.reason) for job in _jobs(database)] == [
        ("superseded", "images-corrected"),
        ("pending", None),
    ]


def test_a_series_that_all_images_left_is_refused_and_opens_for_the_next(database: Database, tmp_path: Path) -> None:
    _serve_a_model(database)
    images = [mr_instance(number) for number in (1, 2, 3)]
    _keep(database, tmp_path, *images, *(mr_instance(number, SeriesInstanceUID="1.2") for number in (1, 2, 3)))
    settle_series(database, SETTINGS, later(60))
    with database.read() as session:
        states = [(row.state, row.reason) for row in session.scalars(select(SeriesRow).order_by(SeriesRow.id))]
    assert states == [(SeriesState.REFUSED, "moved"), (SeriesState.QUEUED, None)]
    _keep(database, tmp_path, *images)
    settle_series(database, SETTINGS, later(120))
    with database.read() as session:
        states = [(row.state, row.reason) for row in session.scalars(select(SeriesRow).order_by(SeriesRow.id))]
    assert states == [(SeriesState.QUEUED, None), (SeriesState.REFUSED, "moved")]


def test_images_of_before_identities_were_recorded_are_the_series(database: Database, tmp_path: Path) -> None:
    _serve_a_model(database)
    _add(database, 1, 2, 3)
    _keep(database, tmp_path, mr_instance(4))
    settle_series(database, SETTINGS, later(60))
    assert _series(database).reason is None
    _keep(database, tmp_path, mr_instance(5, PatientID="ID-b"))
    settle_series(database, SETTINGS, later(120))
    assert _series(database).reason == "mixed-patients"


def test_pseudonyms_tell_patients_apart_and_name_none(database: Database, tmp_path: Path) -> None:
    database.pseudonym = lambda identifier: identifier and hashlib.sha256(identifier.encode()).hexdigest()[:16]
    _serve_a_model(database)
    secret = {"PatientID": "", "PatientName": "Bob^B"}
    _keep(database, tmp_path, *(mr_instance(number) for number in (1, 2, 3)))
    settle_series(database, SETTINGS, later(60))
    assert _series(database).reason is None
    _keep(database, tmp_path, mr_instance(4, **secret), mr_instance(5, IssuerOfPatientID="HOSPITAL"))
    settle_series(database, SETTINGS, later(120))
    assert _series(database).reason == "mixed-patients"
    with database.read() as session:
        recorded = str([instance.attributes for instance in instances_of(session, 1)])
    assert not any(word in recorded for word in ("ID-a", "BOB", "HOSPITAL"))


def _add(database: Database, *numbers: int, seconds: float = 0, **changes: Any) -> None:
    with database.write() as session:
        for number in numbers:
            add_instance(session, new_instance(number, **changes), later(seconds))


def _serve_a_model(database: Database) -> None:
    with database.write() as session:
        model_row(session, MODEL, NOON)


def _series(database: Database) -> SeriesRow:
    with database.read() as session:
        return session.scalars(select(SeriesRow)).one()


def _jobs(database: Database) -> list[JobRow]:
    with database.read() as session:
        return list(session.scalars(select(JobRow).order_by(JobRow.id)))


def test_a_look_while_no_series_is_open_is_a_single_query(database: Database) -> None:
    _add(database, 1)
    _serve_a_model(database)
    queries: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: queries.append(call[2]))
    assert settle_series(database, SETTINGS, later(20)) == 1
    assert len([query for query in queries if query.startswith("SELECT")]) > 1
    queries.clear()
    assert settle_series(database, SETTINGS, later(30)) == 0
    assert len([query for query in queries if query.startswith("SELECT")]) == 1


def test_silence_settles_and_not_a_moment_earlier(database: Database) -> None:
    _add(database, 1, 2, 3)
    _serve_a_model(database)
    assert settle_series(database, SETTINGS, later(9.9)) == 0
    assert settle_series(database, SETTINGS, later(10)) == 1
    assert _series(database).state == SeriesState.QUEUED
    assert [job.state for job in _jobs(database)] == [JobState.PENDING]


def test_an_association_keeps_its_series_open_until_a_quiet_time_after_its_end(database: Database) -> None:
    with database.write() as session:
        association = open_association(session, "PACS", "127.0.0.1", "host:1", NOON)
    _add(database, 1, 2, 3, association_id=association)
    _serve_a_model(database)
    assert settle_series(database, SETTINGS, later(60)) == 0
    with database.write() as session:
        close_association(session, association, later(61))
    assert settle_series(database, SETTINGS, later(70.9)) == 0
    assert settle_series(database, SETTINGS, later(71)) == 1


def test_an_association_whose_receiver_died_does_not_hold_a_series_for_ever(database: Database) -> None:
    with database.write() as session:
        association = open_association(session, "PACS", "127.0.0.1", "gone:1", NOON)
    _add(database, 1, 2, 3, association_id=association)
    _serve_a_model(database)
    assert settle_series(database, SETTINGS, later(2 * SETTINGS.receive.idle_seconds)) == 0
    incomplete = 2 * SETTINGS.receive.idle_seconds + SETTINGS.receive.incomplete_seconds
    assert settle_series(database, SETTINGS, later(incomplete)) == 1
    assert (_jobs(database)[0].missing or "").startswith("its transfer broke off after 3 images (association lost)")


def test_a_permanent_association_holds_a_series_the_idle_time_and_is_no_fault(database: Database) -> None:
    idle = SETTINGS.receive.idle_seconds
    with database.write() as session:
        permanent = open_association(session, "PACS", "127.0.0.1", process_name(), NOON)
    _add(database, 1, 2, 3, association_id=permanent)
    _serve_a_model(database)
    assert settle_series(database, SETTINGS, later(idle - 1)) == 0
    assert settle_series(database, SETTINGS, later(idle)) == 1
    assert _jobs(database)[0].missing is None


def test_what_is_refused_is_recorded_with_its_reason(database: Database) -> None:
    _add(database, 1)
    _serve_a_model(database)
    settle_series(database, SETTINGS, later(10))
    series = _series(database)
    assert (series.state, series.reason) == (SeriesState.REFUSED, "too-few-slices")
    assert series.detail == "1 of at least 3 slices"
    assert _jobs(database) == []


def test_late_instance_opens_the_series_again_and_makes_a_new_job(database: Database) -> None:
    _add(database, 1, 2, 3)
    _serve_a_model(database)
    settle_series(database, SETTINGS, later(10))
    _add(database, 4, seconds=11)
    assert _series(database).state == SeriesState.OPEN
    settle_series(database, SETTINGS, later(21))
    first, second = _jobs(database)
    assert (first.state, first.reason) == (JobState.SUPERSEDED, "more-instances-came")
    assert second.state == JobState.PENDING
    assert second.last_instance_id == first.last_instance_id + 1
    assert second.input_sha256 != first.input_sha256


def test_a_series_that_was_too_small_is_queued_once_it_is_whole(database: Database) -> None:
    _add(database, 1)
    _serve_a_model(database)
    settle_series(database, SETTINGS, later(10))
    _add(database, 2, 3, seconds=12)
    settle_series(database, SETTINGS, later(22))
    assert _series(database).reason is None
    assert [job.state for job in _jobs(database)] == [JobState.PENDING]


def test_a_slice_that_lands_between_look_and_lock_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interleaving that loses slices in systems that settle by a look alone."""
    _add(database, 1, 2, 3)
    _serve_a_model(database)
    real = series_module._settle

    def late(*arguments: Any) -> None:
        _add(database, 4, seconds=10)
        real(*arguments)

    monkeypatch.setattr(series_module, "_settle", late)
    settle_series(database, SETTINGS, later(10))
    monkeypatch.undo()
    assert _series(database).state == SeriesState.OPEN
    assert _jobs(database) == []
    settle_series(database, SETTINGS, later(20))
    [job] = _jobs(database)
    with database.read() as session:
        assert len(instances_of(session, job.series_id, job.last_instance_id)) == 4


def test_the_input_hash_does_not_depend_on_the_order_of_arrival() -> None:
    first, second = new_instance(1), new_instance(2, sha256="11" * 32)
    assert input_sha256([first, second]) == input_sha256([second, first])
    assert input_sha256([first]) != input_sha256([first, second])


# --- a sender's count ---------------------------------------------------------------------------------------------

ASKED = SETTINGS.model_copy(
    update={
        "receive": ReceiveSection(quiet_seconds=10, incomplete_seconds=60),
        "peer": (PeerSection(ae_title="PACS", host="127.0.0.1", port=1, query=True),),
    }
)
ON_COUNT = ASKED.model_copy(
    update={"receive": ReceiveSection(quiet_seconds=10, incomplete_seconds=60, settle_on_count=True)}
)


def _sent_by(database: Database, ae_title: str, *numbers: int, closed: bool = True) -> None:
    with database.write() as session:
        association = open_association(session, ae_title, "127.0.0.1", "host:1", NOON)
        if closed:
            close_association(session, association, NOON)
    _add(database, *numbers, association_id=association)


def _count(database: Database, images: int | None, seconds: float) -> None:
    with database.write() as session:
        settling.record_count(session, _series(database).id, later(seconds), images)


def _asked_for(database: Database, seconds: float, ae_title: str = "PACS") -> int:
    with database.read() as session:
        return len(settling.series_to_count(session, ae_title, later(seconds), LULL, RECOUNT))


def test_a_count_that_is_reached_settles_at_once_where_that_is_wanted(database: Database) -> None:
    _sent_by(database, "PACS", 1, 2, 3, closed=False)  # a PACS may keep its association open for ever
    _serve_a_model(database)
    _count(database, 4, 2)
    assert settle_series(database, ON_COUNT, later(2)) == 0
    _count(database, 3, 3)
    assert settle_series(database, ASKED, later(3)) == 0
    assert settle_series(database, ON_COUNT, later(3)) == 1
    assert [job.missing for job in _jobs(database)] == [None]


def test_a_count_from_before_the_last_image_says_nothing(database: Database) -> None:
    _sent_by(database, "PACS", 1, 2, 3)
    _serve_a_model(database)
    _count(database, 3, 2)
    _add(database, 4, seconds=2.5)
    assert settle_series(database, ON_COUNT, later(3)) == 0
    _count(database, None, 4)  # and an answer that did not come does not make it true
    assert settle_series(database, ON_COUNT, later(5)) == 0
    assert settle_series(database, ON_COUNT, later(12.5)) == 1


def test_what_the_sender_still_has_is_waited_for_and_then_named(database: Database) -> None:
    _sent_by(database, "PACS", 1, 2, 3)
    _serve_a_model(database)
    _count(database, 5, 5)
    assert settle_series(database, ASKED, later(10)) == 0
    _count(database, None, 60)  # the peer is away for a moment: what it said stands
    assert settle_series(database, ASKED, later(69.9)) == 0
    assert settle_series(database, ASKED, later(70)) == 1
    assert [job.missing for job in _jobs(database)] == ["3 of the 5 images that the sender has"]


def test_a_rule_makes_the_series_of_a_sender_urgent(database: Database) -> None:
    _serve_a_model(database)
    _sent_by(database, "ER_MR1", 1, 2, 3)
    rule = {"name": "er", "match": [{"attribute": "Sender.ae_title", "equals": "ER_MR1"}], "urgent": True}
    settle_series(database, Settings.model_validate({"route": [rule]}), later(120))
    assert [job.urgent for job in _jobs(database)] == [True]


def test_what_came_after_all_makes_a_whole_series(database: Database) -> None:
    _sent_by(database, "PACS", 1, 2, 3)
    _serve_a_model(database)
    _count(database, 5, 5)
    settle_series(database, ASKED, later(70))
    _add(database, 4, 5, seconds=80)
    _count(database, 5, 85)
    assert settle_series(database, ASKED, later(90)) == 1
    assert [(job.state, job.missing) for job in _jobs(database)] == [
        (JobState.SUPERSEDED, "3 of the 5 images that the sender has"),
        (JobState.PENDING, None),
    ]


def test_a_count_that_never_comes_is_waited_for_and_no_longer(database: Database) -> None:
    _sent_by(database, "PACS", 1, 2, 3)
    _serve_a_model(database)
    assert settle_series(database, ASKED, later(69.9)) == 0
    assert settle_series(database, ASKED, later(70)) == 1


def test_a_sender_that_is_not_asked_settles_by_silence(database: Database) -> None:
    _sent_by(database, "OTHER", 1, 2, 3)
    assert _asked_for(database, 5) == 0
    _serve_a_model(database)
    assert settle_series(database, ON_COUNT, later(10)) == 1


def test_a_sender_is_asked_in_a_lull_and_again_while_images_are_missing(database: Database) -> None:
    _sent_by(database, "PACS", 1, 2, 3)
    assert [_asked_for(database, 0.9), _asked_for(database, 1)] == [0, 1]
    _count(database, 5, 1)
    assert [_asked_for(database, 5.9), _asked_for(database, 6)] == [0, 1]
    _count(database, 3, 6)
    assert _asked_for(database, 60) == 0
    _add(database, 4, seconds=60)
    assert [_asked_for(database, 60.5), _asked_for(database, 61)] == [0, 1]


def test_an_incomplete_series_is_refused_where_the_rules_say_so(database: Database) -> None:
    places = [[1.0, 0, 0, 0, 1, 0, 0, 0, 5.0 * number] for number in (1, 2, 4, 5)]
    for number, place in enumerate(places, 1):
        _add(database, number, attributes=ATTRIBUTES | {"place": place})
    strict = SETTINGS.model_copy(update={"eligibility": EligibilitySection(refuse_incomplete=True)})
    _serve_a_model(database)
    settle_series(database, strict, later(10))
    series = _series(database)
    assert (series.state, series.reason) == (SeriesState.REFUSED, "incomplete")
    assert series.detail == "a gap in slice position, about 1 slice"


# --- a slice that lands while its series settles ------------------------------------------------------------------


class _Steps:
    """Stops the settling thread before each of its statements, its commit among them, to let another pass."""

    def __init__(self, database: Database, at: int, meanwhile: Callable[[], None]) -> None:
        self._at, self._meanwhile = at, meanwhile
        self._settling = threading.current_thread()
        self.taken = 0
        self._events = [
            (database.engine, "before_cursor_execute", lambda *_: self._step()),
            (database.engine, "commit", lambda *_: self._step()),
        ]

    def __enter__(self) -> Self:
        for listener in self._events:
            event.listen(*listener)
        return self

    def __exit__(self, *_exception: object) -> None:
        for listener in self._events:
            event.remove(*listener)

    def _step(self) -> None:
        if threading.current_thread() is not self._settling:
            return
        if self.taken == self._at:
            self._meanwhile()
        self.taken += 1


def test_a_slice_that_lands_at_any_step_of_settling_is_not_lost(database: Database) -> None:
    """Whatever is done first, the newest job that is not superseded holds every slice in the end."""
    _serve_a_model(database)
    at, steps = 0, 1
    while at <= steps:  # the last one lands after the last step
        name = f"at-{at}"
        numbers = (1, 2, 3)
        with database.write() as session:
            for number in numbers:
                add_instance(session, new_instance(number, name), later(0))
        landing = threading.Thread(target=_land, args=(database, name))

        def meanwhile(landing: threading.Thread = landing) -> None:
            landing.start()
            landing.join(0.1)  # it has landed, or waits for the lock that the settling holds

        with _Steps(database, at, meanwhile) as stepping:
            settle_series(database, SETTINGS, later(10))
        steps = stepping.taken
        if at >= steps:
            landing.start()
        landing.join()
        settle_series(database, SETTINGS, later(30))
        with database.read() as session:
            series = session.scalars(
                select(SeriesRow).where(SeriesRow.series_instance_uid == derive_uid("series", name))
            ).one()
            jobs = session.scalars(
                select(JobRow).where(JobRow.series_id == series.id, JobRow.state == JobState.PENDING)
            ).all()
            assert series.state == SeriesState.QUEUED, at
            assert [len(instances_of(session, series.id, job.last_instance_id)) for job in jobs] == [4], at
        at += 1
    assert steps >= 8  # look, begin, lock, read, job and commit were all among them


def _land(database: Database, name: str) -> None:
    with database.write() as session:
        add_instance(session, new_instance(4, name), later(10))


def test_the_series_type_is_stored_when_a_series_settles_and_is_searchable(database: Database) -> None:
    kind = {"SeriesDescription": ["T1", "post"]}
    attributes = new_instance(1).attributes | {TYPE_KEY: [kind], "place": [1, 0, 0, 0, 1, 0, 0, 0, 0]}
    _add(database, 1, 2, 3, attributes=attributes)
    settle_series(database, SETTINGS, later(10))
    with database.read() as session:
        [answer] = find_series(session, Search(sequence="T1", contrast_agent="with", plane="axial"))
        assert find_series(session, Search(sequence="FLAIR")) == []
    assert answer.series_type is not None
    assert "SeriesDescription 'post': with contrast agent" in answer.series_type["evidence"]
