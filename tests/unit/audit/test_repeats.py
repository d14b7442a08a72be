from __future__ import annotations

from worker.audit import events
from worker.audit.messages import AuditEvent
from worker.audit.repeats import CONNECTIONS_OF_A_PEER, REFUSALS_OF_A_PEER, REFUSALS_OF_ALL, Repeats


def refused(address: str, reason: str = "token wrong") -> AuditEvent:
    return events.access_denied("unknown", address, "/x", reason)


def recorded(repeats: Repeats, *batch: AuditEvent) -> int:
    return sum(repeats.admits(event) for event in batch)


def test_refusals_of_a_peer_are_counted_after_a_few_and_summed_up_when_the_minute_is_over() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    assert recorded(repeats, *[refused("10.0.0.1")] * 300, refused("10.0.0.2")) == REFUSALS_OF_A_PEER + 1
    assert repeats.due() == []
    now[0] = 61
    [summary] = repeats.due()
    assert summary.description == "295 more of this kind within a minute; the last: token wrong"
    assert summary.participants[0].address == "10.0.0.1"
    assert repeats.due() == []
    assert repeats.admits(refused("10.0.0.1"))


def test_many_peers_write_no_more_than_all_may_and_take_bounded_memory() -> None:
    repeats = Repeats(lambda: 0.0)
    batch = [refused(f"10.{number >> 8}.{number & 255}.1") for number in range(5000)]
    assert recorded(repeats, *batch) == REFUSALS_OF_ALL
    assert len(repeats._counts) <= 1001
    assert len(repeats.due(at_once=True)) <= 1001


def test_connections_of_a_peer_are_recorded_until_there_are_very_many() -> None:
    repeats = Repeats(lambda: 0.0)
    assert recorded(repeats, *[events.connected("MR", "10.0.0.1", "AI")] * 500) == CONNECTIONS_OF_A_PEER
    [summary] = repeats.due(at_once=True)
    assert summary.description == "380 more of this kind within a minute"


def test_what_somebody_may_do_is_always_recorded() -> None:
    repeats = Repeats(lambda: 0.0)
    assert recorded(repeats, *[events.viewed("a", "10.0.0.1", "1.2")] * 500) == 500
    assert recorded(repeats, *[events.signed_in("a", "10.0.0.1")] * 500) == 500
