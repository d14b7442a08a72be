"""Looking at the trails in a folder: verify every chain, and read the newest records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from worker.audit.recorder import anchored_head, host_name, trail_of
from worker.audit.trail import BrokenTrail, hosts_in
from worker.config.settings import Settings
from worker.db.engine import Database


@dataclass(frozen=True, slots=True)
class TrailVerdict:
    """What was found of one host's trail; `fault` says where it is broken."""

    host: str
    records: int
    first: str | None  # times of the first and the last record
    last: str | None
    anchored: int  # the number of the record that the database knows
    fault: str | None


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """One record for a person."""

    number: int
    time: str
    event: str
    outcome: str
    who: str
    what: str


def verify_trails(settings: Settings, database: Database, first: int = 1) -> list[TrailVerdict]:
    """One verdict a host: this one, and every other whose files lie here. Raises SQLAlchemyError without a database."""
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


def newest_entries(settings: Settings, limit: int) -> list[TrailEntry]:
    """The last records of this host, the newest first."""
    return [_entry(one.number, one.message) for one in reversed(deque(trail_of(settings).records(), maxlen=limit))]


def _entry(number: int, message: str) -> TrailEntry:
    try:
        root = ElementTree.fromstring(message)
    except ElementTree.ParseError:
        return TrailEntry(number, "", "unreadable", "", "", "")
    identification = root.find("EventIdentification")
    attributes = identification.attrib if identification is not None else {}
    codes = [one.get("originalText", "") for one in root.iterfind("EventIdentification/*") if one.get("csd-code")]
    why = root.findtext("EventIdentification/EventOutcomeDescription")
    failed = attributes.get("EventOutcomeIndicator") != "0"
    return TrailEntry(
        number,
        attributes.get("EventDateTime", "")[:19],
        ": ".join(codes),
        f"failed: {why}" if failed else why or "ok",
        " → ".join(_who(root)),
        ", ".join(_what(root)),
    )


def _who(root: ElementTree.Element) -> Iterator[str]:
    for one in root.iterfind("ActiveParticipant"):
        place = one.get("NetworkAccessPointID")
        yield one.get("UserID", "") + (f" ({place})" if place else "")


def _what(root: ElementTree.Element) -> Iterator[str]:
    for one in root.iterfind("ParticipantObjectIdentification"):
        numbers = [int(sop.get("NumberOfInstances", "0")) for sop in one.iter("SOPClass")]
        yield one.get("ParticipantObjectID", "") + (f" [{sum(numbers)} instances]" if numbers else "")


def _time(message: str) -> str:
    _, _, rest = message.partition(' EventDateTime="')
    return rest.partition('"')[0][:19]
