"""What is recorded of a study that is handed over."""

from __future__ import annotations

from sqlalchemy import select

from tests.testbed.instances import later
from worker.db.engine import Database
from worker.db.operating import hand_overs
from worker.db.tables import HandOverRow
from worker.dicom.commitment import CommitmentReport


def test_what_was_taken_is_not_sent_again_unless_it_changed(database: Database) -> None:
    with database.write() as session:
        assert not hand_overs.begin(session, "1.2", "ARCHIVE", "content", later(0))
        assert not hand_overs.begin(session, "1.2", "ARCHIVE", "content", later(1))
        hand_overs.mark_taken(session, "1.2", "ARCHIVE", "other", later(2))
        assert not hand_overs.begin(session, "1.2", "ARCHIVE", "content", later(3))
        hand_overs.mark_taken(session, "1.2", "ARCHIVE", "content", later(4))
    with database.write() as session:
        assert hand_overs.begin(session, "1.2", "ARCHIVE", "content", later(5)) == later(4)
        assert not hand_overs.begin(session, "1.2", "ARCHIVE", "changed", later(6))
        assert not hand_overs.begin(
            session, "1.2", "ARCHIVE", "content", later(7)
        )  # what was taken was another content
        assert session.scalars(select(HandOverRow.begun_at)).all() == [later(7)]


def test_a_report_counts_for_its_transaction_only(database: Database) -> None:
    report = CommitmentReport("9.9", frozenset({"1", "2", "3"}), {"3": 0x0112})
    with database.write() as session:
        hand_overs.begin(session, "1.2", "ARCHIVE", "content", later(0))
        assert not hand_overs.record_report(session, report)
        hand_overs.expect_report(session, "1.2", "9.9")
        assert hand_overs.committed_to(session, "9.9") is None
        assert hand_overs.record_report(session, report)
        assert hand_overs.committed_to(session, "9.9") == {"1", "2"}
        hand_overs.expect_report(session, "1.2", "9.10")
        assert hand_overs.committed_to(session, "9.10") is None
        assert not hand_overs.record_report(session, report)
