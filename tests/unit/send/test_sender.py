"""What a delivery becomes after each answer of a destination. With real peers: tests/integration/test_send.py."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
import structlog
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage
from sqlalchemy import event, select

from tests.testbed.answered import answer
from tests.testbed.instances import Clock
from tests.testbed.waiting import wait_until
from worker.db import engine
from worker.db.deliveries import supersede_deliveries
from worker.db.engine import Database
from worker.db.instances import file_fault_counts
from worker.db.operating.suspensions import resume, suspend
from worker.db.tables import Commitment, DeliveryRow, DeliveryState, FileFault, ObjectRow, Stage
from worker.dicom import commitment, standard
from worker.errors import Park, Retry, StartError
from worker.logs import configure_logs
from worker.send.destinations.base import Connection, ConnectionLost, Description, Destination, Rejected
from worker.send.sender import REJECTIONS_BEFORE_FAILED, Sender, backoff

REPORT, PICTURE = Comprehensive3DSRStorage, SecondaryCaptureImageStorage


class Script(Destination):
    """A destination that answers as the test says."""

    answers: ClassVar[dict[str, Exception | tuple[int, str]]] = {}  # by SOP class; otherwise success
    opening: ClassVar[Exception | None] = None
    commits: ClassVar[bool] = False
    requested: ClassVar[list[Sequence[tuple[str, str]]]] = []

    @property
    def store_seconds(self) -> float:
        return 10.0

    @property
    def commitment_timeout(self) -> timedelta | None:
        return timedelta(minutes=5) if self.commits else None

    def open(self, ae_title: str) -> Connection:
        if self.opening is not None:
            raise self.opening
        return Scripted()

    def probe(self, ae_title: str) -> None: ...

    def describe(self) -> Description:
        return Description("script", "here", "here", "", "")

    def request_commitment(
        self,
        ae_title: str,
        transaction_uid: str,
        instances: Sequence[tuple[str, str]],
        on_report: Callable[[Dataset], int],
    ) -> None:
        self.requested.append(instances)
        if len(self.requested) == 1:
            raise Retry("commitment-not-requested", "no")
        assert on_report(commitment.build_report(transaction_uid, instances, [])) == standard.SUCCESS


class Scripted:
    def store(self, ds: Dataset) -> tuple[int, str]:
        result = Script.answers.get(ds.SOPClassUID, (0, str(ds.SOPInstanceUID)))
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sender(database: Database, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Sender:
    """A report and a picture are due."""
    answer(database, tmp_path)
    for name, value in (("answers", {}), ("opening", None), ("commits", False), ("requested", [])):
        monkeypatch.setattr(Script, name, value)
    return Sender(Script(name="pacs"), "AI_WORKER", database, tmp_path, clock)


def _deliveries(sender: Sender) -> list[DeliveryRow]:
    with sender.database.read() as session:
        return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))


def _states(sender: Sender) -> list[tuple[str, str | None]]:
    return [(row.state, row.reason) for row in _deliveries(sender)]


def test_backoff_doubles_up_to_ten_minutes() -> None:
    assert [1.5 * 2**n <= backoff(n + 1).total_seconds() <= 2.0 * 2**n for n in range(8)] == [True] * 8
    assert backoff(1000).total_seconds() <= 600


def test_the_answer_of_each_object_is_its_own(sender: Sender) -> None:
    Script.answers = {REPORT: (0xB000, "1.2.3"), PICTURE: Retry("no-answer", "silence")}
    assert sender.send_due() == 2
    assert _states(sender) == [(DeliveryState.DELIVERED, None), (DeliveryState.PENDING, "no-answer")]
    assert (_deliveries(sender)[0].status, _deliveries(sender)[0].sent_as) == (0xB000, "1.2.3")


def test_nothing_is_sent_or_requested_while_deliveries_are_suspended(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Script, "commits", True)
    with sender.database.write() as session:
        suspend(session, [Stage.DELIVERIES], "somebody", sender.clock())
    assert sender.send_due() == 0
    with sender.database.write() as session:
        resume(session, [Stage.DELIVERIES])
    assert sender.send_due() == 2
    with sender.database.write() as session:
        suspend(session, [Stage.DELIVERIES], "somebody", sender.clock())
    assert (sender.request_commitment(), Script.requested) == (0, [])
    assert [row.attempts for row in _deliveries(sender)] == [1, 1]


def test_an_object_that_the_destination_never_accepts_is_failed_at_once(sender: Sender) -> None:
    Script.answers = {PICTURE: Park("not-a-report", "only reports")}
    sender.send_due()
    assert _states(sender) == [(DeliveryState.DELIVERED, None), (DeliveryState.FAILED, "not-a-report")]


def test_rejections_are_counted_and_other_faults_are_not(sender: Sender, clock: Clock) -> None:
    for number in range(REJECTIONS_BEFORE_FAILED - 1):
        Script.answers = {REPORT: Rejected(0xC000, "rejected", ""), PICTURE: Retry("no-answer", "")}
        assert sender.send_due() == 2, number
        clock.ahead += timedelta(minutes=11)
    assert [state for state, _ in _states(sender)] == [DeliveryState.PENDING] * 2
    Script.answers = dict.fromkeys((REPORT, PICTURE), Rejected(0xC000, "rejected", ""))
    sender.send_due()
    assert [state for state, _ in _states(sender)] == [DeliveryState.FAILED, DeliveryState.PENDING]
    assert [row.rejections for row in _deliveries(sender)] == [REJECTIONS_BEFORE_FAILED, 1]


def test_a_destination_that_cannot_be_reached_delays_the_whole_batch(sender: Sender, clock: Clock) -> None:
    Script.opening = Retry("peer-unavailable", "no answer")
    assert sender.send_due() == 2
    assert _states(sender) == [(DeliveryState.PENDING, "peer-unavailable")] * 2
    assert sender.send_due() == 0  # the backoff
    Script.opening = None
    clock.ahead += timedelta(minutes=11)
    assert sender.send_due() == 2
    assert _states(sender) == [(DeliveryState.DELIVERED, None)] * 2


def test_tls_files_or_a_fault_of_ours_leave_no_delivery_in_sending(sender: Sender, clock: Clock) -> None:
    Script.opening = StartError("tls-file-missing", "TLS: there is no key.pem")
    assert sender.send_due() == 2
    assert _states(sender) == [(DeliveryState.PENDING, "tls-file-missing")] * 2
    assert {row.detail for row in _deliveries(sender)} == {"TLS: there is no key.pem"}
    clock.ahead += timedelta(minutes=11)
    for place in ("opening", "answers"):
        Script.opening = KeyError("CANARY") if place == "opening" else None
        Script.answers = dict.fromkeys((REPORT, PICTURE), KeyError("CANARY"))
        with pytest.raises(KeyError):
            sender.send_due()
        assert _states(sender) == [(DeliveryState.PENDING, "sending-failed")] * 2
        assert {row.lease_owner for row in _deliveries(sender)} == {None}
        assert "CANARY" not in (_deliveries(sender)[0].detail or "")
        clock.ahead += timedelta(minutes=11)


def test_what_does_not_arrive_is_a_warning_that_names_the_destination(
    sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs()
    Script.answers = {PICTURE: Rejected(0xC000, "rejected", "the peer answered 0xC000")}
    sender.send_due()
    structlog.reset_defaults()
    arrived, refused = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (arrived["level"], arrived["event"]) == ("info", "delivered")
    assert (refused["level"], refused["event"], refused["destination"]) == ("warning", "not delivered", "pacs")
    assert (refused["reason"], refused["detail"]) == ("rejected", "the peer answered 0xC000")


def test_the_lease_covers_a_batch(sender: Sender, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    leases: list[datetime | None] = []

    class Looking(Scripted):
        def store(self, ds: Dataset) -> tuple[int, str]:
            leases.append(_deliveries(sender)[1].lease_until)
            return super().store(ds)

    monkeypatch.setattr(Script, "open", lambda _self, _ae_title: Looking())
    begin = clock()
    sender.send_due()
    assert leases[0] is not None
    assert leases[0] - begin >= timedelta(seconds=4 * 10)


@pytest.fixture
def backlog(sender: Sender) -> Sender:
    """Forty objects of twenty series are due."""
    for number in range(19):
        answer(sender.database, sender.data_dir, f"{number}")
    return sender


def test_a_backlog_goes_over_one_connection(backlog: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_(_destination: Script, ae_title: str) -> Connection:
        opened.append(ae_title)
        return Scripted()

    monkeypatch.setattr(Script, "open", open_)
    assert backlog.send_due() == 40
    assert len(opened) == 1
    assert set(_states(backlog)) == {(DeliveryState.DELIVERED, None)}


def test_a_batch_is_recorded_in_one_transaction(backlog: Sender) -> None:
    commits: list[object] = []
    event.listen(backlog.database.engine, "commit", commits.append)
    assert backlog.send_due() == 40
    assert len(commits) <= 5 * 3  # a batch: what waits, its claim, its ends, its audit


def test_a_lost_connection_costs_one_object_an_attempt(backlog: Sender, clock: Clock) -> None:
    Script.answers = {REPORT: ConnectionLost("association-lost", "")}
    assert backlog.send_due() == 16
    tried = [row for row in _deliveries(backlog) if row.attempts]
    assert [row.reason for row in tried] == ["association-lost"]
    assert {row.lease_owner for row in _deliveries(backlog)} == {None}
    Script.answers = {}
    clock.ahead += timedelta(seconds=2)  # the others' first delay
    backlog.send_due()
    assert sum(state == DeliveryState.DELIVERED for state, _ in _states(backlog)) >= 39


def test_an_object_that_ends_every_connection_holds_up_no_other(
    backlog: Sender, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = _deliveries(backlog)[0].object_id
    with backlog.database.read() as session:
        uid = session.get_one(ObjectRow, poison).sop_instance_uid

    class Poisoned(Scripted):
        def store(self, ds: Dataset) -> tuple[int, str]:
            if ds.SOPInstanceUID == uid:
                raise ConnectionLost("no-answer", "")
            return super().store(ds)

    monkeypatch.setattr(Script, "open", lambda _self, _ae_title: Poisoned())
    for _ in range(8):
        backlog.send_due()
        clock.ahead += timedelta(seconds=3)
    states = _states(backlog)
    assert states.count((DeliveryState.DELIVERED, None)) == 39
    assert states[0] == (DeliveryState.PENDING, "no-answer")


def test_a_slow_batch_keeps_its_lease_and_is_recorded_as_it_goes(
    backlog: Sender, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.send.sender._RECORD_SECONDS", -1.0)  # every object takes longer
    seen: list[tuple[datetime, datetime, int]] = []

    class Slow(Scripted):
        def store(self, ds: Dataset) -> tuple[int, str]:
            rows = [row for row in _deliveries(backlog) if row.state == DeliveryState.SENDING]
            until = min(row.lease_until for row in rows if row.lease_until)
            seen.append((clock(), until, sum(row.state == DeliveryState.DELIVERED for row in _deliveries(backlog))))
            clock.ahead += timedelta(seconds=9)
            return super().store(ds)

    monkeypatch.setattr(Script, "open", lambda _self, _ae_title: Slow())
    assert backlog.send_due() == 40
    assert all(until - now > timedelta(seconds=10) for now, until, _ in seen)
    assert [done for _, _, done in seen] == list(range(40))


def test_only_what_is_under_way_at_a_correction_may_still_arrive(
    backlog: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.send.sender._LOOK_SECONDS", -1.0)  # every object takes longer
    monkeypatch.setattr(Script, "commits", True)
    sent: list[str] = []

    class Correcting(Scripted):
        def store(self, ds: Dataset) -> tuple[int, str]:
            sent.append(ds.SOPInstanceUID)
            with backlog.database.write() as session:
                supersede_deliveries(session, range(1, 21), (), "images-corrected", "x")
            return super().store(ds)

    monkeypatch.setattr(Script, "open", lambda _self, _ae_title: Correcting())
    while backlog.send_due():
        pass
    assert len(sent) == 1
    arrived = [row for row in _deliveries(backlog) if row.state == DeliveryState.DELIVERED]
    assert [(row.sent_as, row.commitment) for row in arrived] == [(sent[0], None)]
    assert _states(backlog).count((DeliveryState.SUPERSEDED, "images-corrected")) == 39


def test_an_object_whose_file_is_gone_is_failed_with_the_reason(sender: Sender, tmp_path: Path) -> None:
    for file in (tmp_path / "objects").rglob("*.dcm"):
        file.unlink()
    sender.send_due()
    assert _states(sender) == [(DeliveryState.FAILED, "object-missing")] * 2


def test_commitment_is_requested_of_a_kind_that_has_it_until_it_is_reported(sender: Sender, clock: Clock) -> None:
    sender.send_due()
    assert sender.request_commitment() == 0
    assert {row.commitment for row in _deliveries(sender)} == {None}

    Script.commits = True
    with sender.database.write() as session:
        for row in session.scalars(select(DeliveryRow)):
            row.state = DeliveryState.PENDING
    sender.send_due()
    assert {row.commitment for row in _deliveries(sender)} == {Commitment.DUE}
    assert sender.request_commitment() == 2  # not accepted: once more when the time for the report is over
    assert sender.request_commitment() == 0
    clock.ahead += timedelta(minutes=6)
    assert sender.request_commitment() == 2
    assert {row.commitment for row in _deliveries(sender)} == {Commitment.CONFIRMED}
    assert len(Script.requested[0]) == 2


def test_an_object_that_the_disk_has_damaged_is_not_sent(sender: Sender, tmp_path: Path) -> None:
    [report, _] = sorted(tmp_path.rglob("objects/*/*.dcm"), key=lambda path: path.stat().st_size)
    content = report.read_bytes()
    report.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert sender.send_due() == 2
    assert sorted(_states(sender), key=str) == [(DeliveryState.DELIVERED, None), (DeliveryState.FAILED, "file-damaged")]
    with sender.database.read() as session:
        assert file_fault_counts(session)[FileFault.DAMAGED] == 1


def test_the_loop_finds_what_another_process_commits_and_what_time_makes_due(
    sender: Sender, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it rests: on SQLite nothing else would wake it."""
    monkeypatch.setattr(engine, "_REST_SECONDS", 3600)
    monkeypatch.setattr(engine, "_POLL_SECONDS", 0.01)
    claims: list[int] = []
    claim = Sender._claim

    def counted(self: Sender) -> list[tuple[DeliveryRow, ObjectRow]]:
        claims.append(1)
        return claim(self)

    def rests() -> bool:
        before = len(claims)
        time.sleep(0.1)
        return len(claims) == before

    def states() -> list[str]:
        return [state for state, _ in _states(sender)]

    monkeypatch.setattr(Sender, "_claim", counted)
    stop = threading.Event()
    thread = threading.Thread(target=sender.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: states() == [DeliveryState.DELIVERED] * 2, "the first objects", every=0.01)
        if not sender.database.is_shared:
            wait_until(rests, "the loop to rest", every=0)
        Script.answers = {PICTURE: Retry("no-answer", "silence")}
        other = Database(sender.database.engine.url.render_as_string(hide_password=False))
        answer(other, tmp_path, "b")
        other.close()
        due = [DeliveryState.DELIVERED] * 3 + [DeliveryState.PENDING]
        wait_until(lambda: states() == due and _deliveries(sender)[3].reason, "an object to be refused", every=0.01)
        Script.answers = {}
        clock.ahead += timedelta(seconds=60)
        wait_until(lambda: states() == [DeliveryState.DELIVERED] * 4, "its delay to end", every=0.01)
    finally:
        stop.set()
        thread.join()
