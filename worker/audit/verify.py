"""Verify the trails in a folder, and read their newest records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from xml.etree import ElementTree

from worker.audit.recorder import anchored_head, host_name, trail_of
from worker.audit.trail import BrokenTrail, hosts_in
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.wording import counted


@dataclass(frozen=True, slots=True)
class TrailVerdict:
    """The result of verifying a host's trail; `fault` says where it is broken."""

    host: str
    records: int
    first: str | None  # times of the first and the last record
    last: str | None
    anchored: int  # the number of the record that the database knows
    fault: str | None


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """A record as a person reads it."""

    number: int
    time: str
    event: str
    outcome: str
    who: str
    what: str


def verify_trails(settings: Settings, database: Database, first: int = 1) -> list[TrailVerdict]:
    """A verdict per host: this host, and every other with files here. Raises DatabaseError without a database."""
    own = host_name(settings)
    others = [name for name in hosts_in(settings.audit_dir) if name != own]
    return [_verify(settings, database, host, first) for host in (own, *others)]


def _verify(settings: Settings, database: Database, host: str, first: int) -> TrailVerdict:
    with database.read() as session:
        anchor = anchored_head(session, host)
    trail = trail_of(settings, host)
    fault = None
    try:
        trail.verify(anchor, first)
    except BrokenTrail as broken:
        fault = broken.detail
    number, times = 0, deque[str](maxlen=1)
    begin = None
    for record in trail.records():
        number += 1
        times.append(_time(record.message))
        begin = begin or times[0]
    return TrailVerdict(host, number, begin, times[0] if times else None, anchor.number if anchor else 0, fault)


def newest_entries(settings: Settings, limit: int, before: int | None = None) -> list[TrailEntry]:
    """The last records of this host, of those before a number if it is given; newest first."""
    records = trail_of(settings).records_backwards(before)
    return [_entry(record.number, record.message) for record in islice(records, limit)]


def _entry(number: int, message: str) -> TrailEntry:
    try:
        root = ElementTree.fromstring(message)
    except ElementTree.ParseError:
        return TrailEntry(number, "", "unreadable", "", "", "")
    identification = root.find("EventIdentification")
    attributes = identification.attrib if identification is not None else {}
    codes = [code.get("originalText", "") for code in root.iterfind("EventIdentification/*") if code.get("csd-code")]
    description = root.findtext("EventIdentification/EventOutcomeDescription")
    failed = attributes.get("EventOutcomeIndicator") != "0"
    return TrailEntry(
        number,
        attributes.get("EventDateTime", "")[:19],
        ": ".join(codes),
        f"failed: {description}" if failed else description or "ok",
        " → ".join(_who(root)),
        ", ".join(_what(root)),
    )


def _who(root: ElementTree.Element) -> Iterator[str]:
    for participant in root.iterfind("ActiveParticipant"):
        address = participant.get("NetworkAccessPointID")
        yield participant.get("UserID", "") + (f" ({address})" if address else "")


def _what(root: ElementTree.Element) -> Iterator[str]:
    for subject in root.iterfind("ParticipantObjectIdentification"):
        numbers = [int(sop_class.get("NumberOfInstances", "0")) for sop_class in subject.iter("SOPClass")]
        yield subject.get("ParticipantObjectID", "") + (f" [{counted(sum(numbers), 'instance')}]" if numbers else "")


def _time(message: str) -> str:
    _, _, rest = message.partition(' EventDateTime="')
    return rest.partition('"')[0][:19]
