"""Claims, ends, commitments and retries of deliveries, on both databases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from tests.testbed.answered import answer
from tests.testbed.instances import later
from tests.testbed.rows import LEASE, REPORT_SOP_CLASS, add_series
from tests.testbed.studies import STUDY, classify, report_study
from worker.db import deliveries
from worker.db.deliveries import (
    Chosen,
    SentAgain,
    apply_commitment,
    claim_commitments,
    claim_deliveries,
    delivery_exists,
    delivery_waits,
    destination_waits,
    end_delivery,
    extend_delivery_leases,
    record_commitment_report,
    resend,
    retry_failed_deliveries,
    still_leased,
    supersede_deliveries,
)
from worker.db.engine import Database
from worker.db.tables import Commitment, DeliveryRow, DeliveryState, ObjectRow, SeriesRow, SeriesStatus, StudyRow
from worker.dicom import commitment, standard
from worker.dicom.standard import derive_uid

TRANSACTION = "2.25.1"


@pytest.fixture
def due(database: Database) -> Database:
    """Deliveries 1, 2 and 3 to `pacs`, due at 0, 10 and 20 seconds."""
    for number, name in enumerate("abc"):
        add_series(database, name, SeriesStatus.CLASSIFIED, number * 10)
    return database


def _delivery(database: Database, number: int) -> DeliveryRow:
    with database.read() as session:
        return session.get_one(DeliveryRow, number)


def _claim(database: Database, seconds: float, owner: str = "me", limit: int = 32) -> list[int]:
    with database.write() as session:
        waits = delivery_waits(session, "pacs", later(seconds))
        claimed = claim_deliveries(session, "pacs", owner, later(seconds), LEASE, limit)
        assert waits == bool(claimed)
        assert all(row.object_id == produced.id for row, produced in claimed)
        return [row.id for row, _ in claimed]


def test_due_deliveries_are_claimed_newest_first_up_to_a_limit(due: Database) -> None:
    assert [_claim(due, -1), _claim(due, 10, limit=1), _claim(due, 10), _claim(due, 10)] == [[], [2], [1], []]
    with due.write() as session:
        assert claim_deliveries(session, "other", "me", later(90), LEASE) == []
    delivery = _delivery(due, 1)
    assert (delivery.state, delivery.lease_owner, delivery.lease_until, delivery.attempts) == (
        "sending", "me", later(40), 1,
    )  # fmt: skip


def test_a_destination_waits_while_a_delivery_is_unfinished_or_lacks_its_commitment(due: Database) -> None:
    def waits(destination: str = "pacs") -> bool:
        with due.read() as session:
            return destination_waits(session, destination)

    def end(number: int, commitment: Commitment | None, state: DeliveryState = DeliveryState.DELIVERED) -> bool:
        with due.write() as session:
            values = {"state": state, "commitment": commitment, "delivered_at": later(21)}
            assert end_delivery(session, number, "me", values)
        return waits()

    assert (waits(), waits("other")) == (True, False)
    assert sorted(_claim(due, 20)) == [1, 2, 3]
    assert [end(1, None), end(2, None, DeliveryState.FAILED), end(3, Commitment.DUE)] == [True, True, True]
    with due.write() as session:
        session.get_one(DeliveryRow, 3).commitment = Commitment.CONFIRMED
    assert not waits()


def test_new_deliveries_go_first_and_the_backlog_still_shrinks(due: Database) -> None:
    for number, name in enumerate("defghij", 3):
        add_series(due, name, SeriesStatus.CLASSIFIED, number * 10)
    assert _claim(due, 100, limit=4) == [10, 9, 1, 2]
    add_series(due, "k", SeriesStatus.CLASSIFIED, 101)
    assert _claim(due, 110, limit=4) == [11, 8, 3, 4]


def test_a_new_report_goes_before_older_ones_whose_delay_has_just_ended(due: Database) -> None:
    add_series(due, "new", SeriesStatus.CLASSIFIED, 30)
    with due.write() as session:
        for row in session.query(DeliveryRow).where(DeliveryRow.id < 4):
            row.not_before, row.attempts = later(40 + row.id), 1  # a delay follows an attempt
    assert _claim(due, 100, limit=2) == [4, 1]


def test_a_result_s_report_goes_before_its_picture(database: Database, tmp_path: Path) -> None:
    for name in "ab":
        answer(database, tmp_path, name)
    assert _claim(database, 1e8 * 3) == [3, 4, 1, 2]


def test_a_lease_is_extended_for_its_owner_alone(due: Database) -> None:
    assert sorted(_claim(due, 20)) == [1, 2, 3]
    with due.write() as session:
        extend_delivery_leases(session, [1, 2], "me", later(500))
        extend_delivery_leases(session, [3], "another", later(500))
    assert _claim(due, 60, "second") == [3]


def test_an_expired_lease_is_claimed_again_and_its_first_owner_changes_nothing(due: Database) -> None:
    assert _claim(due, 0, "first") == [1]
    assert _claim(due, 31, "second") == [1, 3, 2]
    with due.write() as session:
        assert not end_delivery(session, 1, "first", {"state": DeliveryState.DELIVERED})
        assert end_delivery(session, 1, "second", {"state": DeliveryState.DELIVERED, "status": 0})
        assert not end_delivery(session, 1, "second", {"state": DeliveryState.FAILED})
    delivery = _delivery(due, 1)
    assert (delivery.state, delivery.lease_owner, delivery.attempts) == ("delivered", None, 2)


@pytest.fixture
def delivered(due: Database) -> Database:
    """All three arrived; their storage commitment is due."""
    _claim(due, 20)
    with due.write() as session:
        for number, name in enumerate("abc", 1):
            values = {"state": DeliveryState.DELIVERED, "commitment": Commitment.DUE}
            end_delivery(session, number, "me", values | {"sent_as": derive_uid("report", name)})
    return due


def _request(database: Database, seconds: float, again: float = 600) -> list[tuple[str, str]]:
    with database.write() as session:
        return claim_commitments(session, "pacs", TRANSACTION, later(seconds), later(seconds + again))


def test_commitment_is_requested_once_until_a_report_is_overdue(delivered: Database) -> None:
    expected = [(REPORT_SOP_CLASS, derive_uid("report", name)) for name in "abc"]
    assert [_request(delivered, seconds) for seconds in (30, 629, 630)] == [expected, [], expected]
    assert _delivery(delivered, 1).transaction_uid == TRANSACTION


def test_an_object_under_another_uid_is_a_comprehensive_sr(delivered: Database) -> None:
    with delivered.write() as session:
        session.get_one(DeliveryRow, 2).sent_as = "1.2.3"
    assert _request(delivered, 30)[1] == (standard.COMPREHENSIVE_SR, "1.2.3")


def test_a_report_confirms_objects_or_has_them_sent_again(delivered: Database) -> None:
    _request(delivered, 30)
    a, b, _ = (derive_uid("report", name) for name in "abc")
    report = commitment.CommitmentReport(TRANSACTION, committed=frozenset({a, "1.2.3"}), failed={b: 0x0112})
    with delivered.write() as session:
        assert apply_commitment(session, replace(report, transaction_uid="2.25.9"), later(31)) == (0, 0)
        assert apply_commitment(session, report, later(31)) == (1, 1)
    states = [(row.state, row.commitment, row.reason) for row in (_delivery(delivered, n) for n in (1, 2, 3))]
    assert states == [
        ("delivered", "confirmed", None),
        ("pending", None, "commitment-failed"),
        ("delivered", "requested", None),
    ]
    assert "0x0112" in (_delivery(delivered, 2).detail or "")
    assert _claim(delivered, 31) == [2]


def test_a_malformed_report_is_a_processing_failure(delivered: Database) -> None:
    from pydicom import Dataset

    assert record_commitment_report(delivered, Dataset(), later(0)) == standard.PROCESSING_FAILURE


def test_whether_a_delivery_exists(due: Database) -> None:
    with due.read() as session:
        assert [delivery_exists(session, number) for number in (0, 1, 3, 4)] == [False, True, True, False]


def test_failed_deliveries_are_retried_by_number_or_all(due: Database) -> None:
    _claim(due, 20)
    with due.write() as session:
        for number in (1, 2):
            end_delivery(session, number, "me", {"state": DeliveryState.FAILED, "rejections": 5})
        end_delivery(session, 3, "me", {"state": DeliveryState.PENDING, "not_before": later(900)})
        assert retry_failed_deliveries(session, later(30), [2, 3, 99]) == [2, 3]
        assert retry_failed_deliveries(session, later(40)) == [1]
    rows = [_delivery(due, number) for number in (1, 2, 3)]
    assert [(row.state, row.rejections) for row in rows] == [("pending", 0)] * 3
    assert [row.not_before for row in rows] == [later(40), later(30), later(30)]


@pytest.mark.parametrize("state", [state for state in DeliveryState if state != DeliveryState.DELIVERED])
def test_what_has_not_arrived_is_superseded_for_good(due: Database, state: DeliveryState) -> None:
    with due.write() as session:
        row = session.get_one(DeliveryRow, 1)
        row.state = state
        if state == DeliveryState.SENDING:
            row.lease_owner, row.lease_until = "me", later(30)
    with due.write() as session:
        supersede_deliveries(session, [1], (), "images-corrected", "x")
        assert still_leased(session, [1], "me") == set()
        assert not end_delivery(session, 1, "me", {"state": DeliveryState.PENDING})
        assert retry_failed_deliveries(session, later(40), [1]) == []
    assert _claim(due, 1000) == [3, 2]  # the lease of a sender that died is over, too
    row = _delivery(due, 1)
    assert (row.state, row.lease_owner) == (DeliveryState.SUPERSEDED, None)


def test_one_that_arrived_while_it_was_superseded_is_delivered_and_not_committed_to(due: Database) -> None:
    assert _claim(due, 0) == [1]
    delivered = {"state": DeliveryState.DELIVERED, "commitment": Commitment.DUE, "delivered_at": later(2)}
    with due.write() as session:
        supersede_deliveries(session, [1, 2], (), "images-corrected", "x")
        assert end_delivery(session, 1, "me", delivered)
        assert claim_commitments(session, "pacs", TRANSACTION, later(3), later(9)) == []
    assert [_delivery(due, number).state for number in (1, 2, 3)] == ["delivered", "superseded", "pending"]


def test_what_a_peer_lost_of_a_corrected_series_is_not_sent_again(due: Database) -> None:
    assert _claim(due, 0) == [1]
    with due.write() as session:
        end_delivery(session, 1, "me", {"state": DeliveryState.DELIVERED, "commitment": Commitment.DUE, "sent_as": "1"})
        [(_, uid)] = claim_commitments(session, "pacs", TRANSACTION, later(3), later(9))
        supersede_deliveries(session, [1], (), "images-corrected", "x")
        report = commitment.CommitmentReport(TRANSACTION, frozenset(), {uid: 0x0112})
        assert apply_commitment(session, report, later(4)) == (0, 0)
    assert _delivery(due, 1).state == DeliveryState.DELIVERED


def test_the_deliveries_of_a_study_are_superseded_with_a_series_of_it(database: Database) -> None:
    classify(database, "a")
    report_study(database)
    with database.write() as session:
        supersede_deliveries(session, [1], (STUDY,), "images-corrected", "x")
    with database.read() as session:
        assert session.get_one(DeliveryRow, 1).state == DeliveryState.SUPERSEDED


def test_of_the_newest_deliveries_those_of_a_study_are_ordered_among_those_of_series(database: Database) -> None:
    add_series(database, "x", SeriesStatus.CLASSIFIED)
    classify(database, "a")
    with database.write() as session:  # the study of x is not this test's
        session.execute(delete(StudyRow).where(StudyRow.study_instance_uid != STUDY))
    report_study(database, seconds=10)
    add_series(database, "y", SeriesStatus.CLASSIFIED, 20)
    with database.write() as session:
        claimed = claim_deliveries(session, "pacs", "me", later(30), LEASE)
    assert [produced.path for _, produced in claimed[:2]] == ["objects/y", "objects/s"]


def _arrive(database: Database, number: int) -> None:
    with database.write() as session:
        session.get_one(DeliveryRow, number).state = DeliveryState.SENDING
        row = session.get_one(DeliveryRow, number)
        row.lease_owner, row.lease_until = "me", later(900)
        session.flush()
        values = {"state": DeliveryState.DELIVERED, "delivered_at": later(20), "sent_as": "2.25.9", "status": 0}
        assert end_delivery(session, number, "me", values)


def test_what_waits_at_a_mended_destination_is_sent_now(due: Database) -> None:
    with due.write() as session:
        for row in session.scalars(select(DeliveryRow)):
            row.not_before, row.detail = later(5000), "refused"
        session.get_one(DeliveryRow, 2).state = DeliveryState.FAILED
        session.flush()
        assert retry_failed_deliveries(session, later(30), (), "elsewhere", waiting=True) == []
        assert retry_failed_deliveries(session, later(30), (), "pacs") == [2]
        assert sorted(retry_failed_deliveries(session, later(31), (), "pacs", waiting=True)) == [1, 2, 3]
    assert sorted(_claim(due, 31)) == [1, 2, 3]


def test_what_arrived_is_sent_again_and_what_is_under_way_is_left_alone(due: Database) -> None:
    _arrive(due, 1)
    with due.write() as session:
        row = session.get_one(DeliveryRow, 2)
        row.state, row.lease_owner, row.lease_until = DeliveryState.SENDING, "me", later(900)
        session.get_one(DeliveryRow, 3).state = DeliveryState.SUPERSEDED
    sent = resend(due, Chosen(delivery_ids=(1, 2, 3, 99)), "pacs", ("report",), later(50))
    assert sent == SentAgain((1,), ())
    assert resend(due, Chosen(delivery_ids=(3,)), "archive", ("report",), later(50)) == SentAgain(), "withdrawn"
    row = _delivery(due, 1)
    assert (row.state, row.not_before, row.delivered_at, row.sent_as) == ("pending", later(50), None, None)
    assert _claim(due, 60) == [1]
    assert _delivery(due, 3).state == DeliveryState.SUPERSEDED


def test_a_destination_that_is_new_gets_the_newest_results_of_the_kinds_that_it_takes(
    due: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "_RESENT_AT_ONCE", 1)  # parts, each in its own transaction
    with due.read() as session:
        [series] = session.scalars(select(SeriesRow.series_instance_uid).where(SeriesRow.id == 2)).all()
        study = session.scalar(select(SeriesRow.study_instance_uid).where(SeriesRow.id == 1))
    assert resend(due, Chosen(series_instance_uid=series), "archive", ("picture",), later(0)) == SentAgain()
    assert len(resend(due, Chosen(series_instance_uid=series), "archive", ("report",), later(0)).added) == 1
    assert len(resend(due, Chosen(study_instance_uid=study), "archive", ("report",), later(0)).added) == 1
    everything = resend(due, Chosen(since=later(-5)), "archive", ("report",), later(0))
    assert (len(everything.again), len(everything.added)) == (2, 1)
    assert resend(due, Chosen(since=later(900)), "archive", ("report",), later(0)) == SentAgain()
    with due.write() as session:
        assert len(claim_deliveries(session, "archive", "me", later(1), LEASE)) == 3


def test_of_an_earlier_result_nothing_is_sent_to_a_new_destination(database: Database, tmp_path: Path) -> None:
    answer(database, tmp_path, "a")
    with database.write() as session:
        session.scalar(select(SeriesRow)).state = "open"  # type: ignore[union-attr]
    answer(database, tmp_path, "a", count=2)
    with database.read() as session:
        newest = set(session.scalars(select(ObjectRow.id).where(ObjectRow.result_id == 2)))
    assert len(resend(database, Chosen(since=later(-5)), "archive", ("report", "picture"), later(0)).added) == 2
    with database.read() as session:
        sent = select(DeliveryRow.object_id).where(DeliveryRow.destination == "archive")
        assert set(session.scalars(sent)) == newest


def test_the_report_of_a_study_is_sent_to_a_new_destination_too(database: Database) -> None:
    classify(database, "a")
    report_study(database)
    [number] = resend(database, Chosen(study_instance_uid=STUDY), "archive", ("report",), later(0)).added
    with database.read() as session:
        produced = session.get_one(ObjectRow, _delivery(database, number).object_id)
    assert (produced.result_id, produced.study_result_id) == (None, 1)
