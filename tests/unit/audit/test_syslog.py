"""Frames of RFC 5424 and 5425, and how far a trail was forwarded; tests/integration/test_audit.py has a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed.audit_messages import MOMENT
from tests.testbed.instances import later
from worker.audit import events
from worker.audit.messages import AuditEvent, encode
from worker.audit.syslog import Forwarder, frame
from worker.audit.trail import Trail, TrailRecord
from worker.config.sections import AuditSection
from worker.errors import StartError


def _record(event: AuditEvent) -> TrailRecord:
    return TrailRecord(1, "00" * 32, encode(event, MOMENT, "host"), "11" * 32)


@pytest.mark.parametrize(
    ("event", "priority"),
    [
        (events.started("receive", "host:1"), 85),  # facility 10, severity 5: notice
        (events.access_denied("unknown", "10.0.0.9", "/", "wrong"), 84),  # severity 4: warning
    ],
)
def test_a_frame_has_its_length_and_the_header_of_rfc_5424(event: AuditEvent, priority: int) -> None:
    record = _record(event)
    length, _, message = frame(record, "host name é").partition(b" ")
    assert int(length) == len(message)
    header = f"<{priority}>1 2026-01-02T03:04:05.678+00:00 hostname brain-mri-worker - DICOM+RFC3881 - "
    assert message == header.encode() + b"\xef\xbb\xbf" + record.message.encode()


def test_a_host_without_a_printable_name_and_a_record_without_a_time() -> None:
    assert b">1 - - brain-mri-worker - " in frame(TrailRecord(1, "", "<AuditMessage/>", ""), "é")


def test_nothing_new_connects_to_nobody(tmp_path: Path) -> None:
    trail = Trail(tmp_path, "host", 1 << 20)
    forwarder = Forwarder(AuditSection(), trail)
    assert forwarder.forward() == 0
    trail.append([encode(events.started("receive", "host:1"), later(0), "host")])
    with pytest.raises(StartError, match="TLS"):
        forwarder.forward()  # the section has no server
    trail.beside("sent").write_text("1")  # what an earlier process has sent
    assert forwarder.forward() == 0
