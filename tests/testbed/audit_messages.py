"""Audit messages checked against the schema of PS3.15 A.5.1."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from lxml import etree

from worker.audit.messages import AuditEvent, encode

SCHEMA = etree.RelaxNG(etree.parse(str(Path(__file__).parents[1] / "unit" / "audit" / "audit-message.rng")))
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


def validated(event: AuditEvent) -> etree._Element:
    """The event's message, parsed. Fails where it is not valid, or not on a single line."""
    message = encode(event, MOMENT, "host")
    assert "\n" not in message
    root = etree.fromstring(message)
    SCHEMA.assertValid(root)
    return root
