"""The studies of associations, deliveries and series, on both databases."""

from __future__ import annotations

import pytest

from tests.testbed.instances import later, new_instance
from tests.testbed.rows import LEASE, REPORT_SOP_CLASS, answer, claimed_job
from tests.testbed.studies import STUDY, classify, report_study
from worker.audit.subjects import delivered, received_of, received_over
from worker.db.deliveries import claim_deliveries, end_delivery
from worker.db.engine import Database
from worker.db.instances import add_instance, instances_of, open_association
from worker.db.tables import DeliveryState
from worker.dicom.standard import derive_uid

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"


@pytest.fixture
def answered(database: Database) -> Database:
    """Series 1, two instances over association 1 with its report, due; and an instance of another study."""
    with database.write() as session:
        association = open_association(session, "PACS", "10.0.0.1", "host:1", later(0))
        new = [new_instance(number, association_id=association) for number in (1, 2)]
        rows = [add_instance(session, instance, later(0)) for instance in new]
        answer(session, claimed_job(session, rows[0].series_id), new, "a", 0)
        other = new_instance(1, "b", association_id=association, sop_class_uid=ENHANCED)
        add_instance(session, other, later(0))
    return database


def test_an_association_brought_instances_of_studies(answered: Database) -> None:
    with answered.read() as session:
        calling, address, transferred = received_over(session, 1)
    assert (calling, address) == ("PACS", "10.0.0.1")
    found = {study.study_instance_uid: (study.patient_id, dict(study.sop_classes)) for study in transferred}
    assert found == {
        derive_uid("study", "a"): ("ID-a", {MR: 2}),
        derive_uid("study", "b"): ("ID-b", {ENHANCED: 1}),
    }


def test_a_series_has_the_instances_whose_files_are_left(answered: Database) -> None:
    with answered.write() as session:
        assert [dict(study.sop_classes) for study in received_of(session, [1])] == [{MR: 2}]
        instances_of(session, 1)[0].removed_at = later(9)
        session.flush()
        assert [dict(study.sop_classes) for study in received_of(session, [1])] == [{MR: 1}]


def test_only_what_has_arrived_was_delivered(answered: Database) -> None:
    with answered.write() as session:
        ids = [delivery.id for delivery, _ in claim_deliveries(session, "pacs", "me", later(1), LEASE)]
        assert delivered(session, ids) == []
        for delivery_id in ids:
            end_delivery(session, delivery_id, "me", {"state": DeliveryState.DELIVERED})
        [study] = delivered(session, ids)
        assert study.study_instance_uid == derive_uid("study", "a")
        assert dict(study.sop_classes) == {REPORT_SOP_CLASS: 1}


def test_the_report_of_a_study_was_delivered_for_it(database: Database) -> None:
    classify(database, "a")
    classify(database, "b")
    report_study(database)
    with database.write() as session:
        [(delivery, _)] = claim_deliveries(session, "pacs", "me", later(90), LEASE)
        end_delivery(session, delivery.id, "me", {"state": DeliveryState.DELIVERED})
        [study] = delivered(session, [delivery.id])
    assert (study.study_instance_uid, study.patient_id, dict(study.sop_classes)) == (STUDY, "ID", {REPORT_SOP_CLASS: 1})
