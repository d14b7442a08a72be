"""Who is let in when places run short, and who makes room."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from worker.config.sections import ReceiveSection
from worker.receive import places
from worker.receive.places import Place, Places, address_group


class Peers:
    """Connections to `places`; what was cut or ended is in `gone`."""

    def __init__(self, *, reserve: bool = False, **receive: Any) -> None:
        self.places = Places(ReceiveSection(**receive), reserve=reserve)
        self.gone: list[Place] = []

    def connect(self, address: str = "10.0.0.1", opened: float = 0.0) -> Place:
        place = Place(address, address, opened, cut=lambda: None)
        victim = self.places.connect(place)
        if victim is not None:
            self.gone.append(victim)
        return place

    def associate(
        self, ae_title: str, address: str = "10.0.0.1", *, known: bool = False, idle: float = 0.0
    ) -> Place | None:
        place = self.connect(address)
        admitted, ended = self.places.admit(place, ae_title, known)
        self.gone += ended
        place.last_work -= idle
        if not admitted:
            self.places.leave(place)
        return place if admitted else None


def test_silent_connections_are_no_associations() -> None:
    peers = Peers(maximum_associations=2)
    for _ in range(50):
        peers.connect()
    assert peers.associate("PACS")
    assert peers.associate("PACS")
    assert peers.gone == []


def test_the_oldest_silent_one_of_the_address_with_most_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SILENT_AT_MOST", 3)
    peers = Peers()
    peers.connect("10.0.0.1", opened=1)
    greedy = [peers.connect("10.0.0.2", opened=2), peers.connect("10.0.0.2", opened=3)]
    newest = peers.connect("10.0.0.3", opened=4)
    assert peers.gone == [greedy[0]]
    assert len(peers.places) == 3
    peers.places.leave(newest)
    assert len(peers.places) == 2


def test_silence_is_cut_after_its_time_and_an_association_is_not() -> None:
    peers = Peers(request_seconds=5)
    silent = peers.connect(opened=time.monotonic() - 6)
    peers.connect(opened=time.monotonic() - 4)
    assert peers.associate("PACS")
    assert peers.places.overdue(time.monotonic()) == [silent]


@pytest.mark.parametrize("same", ["10.0.0.1", None])
def test_an_ae_title_has_its_share_whatever_its_addresses(same: str | None) -> None:
    peers = Peers(maximum_associations_per_ae_title=3)
    admitted = [peers.associate("HOG", same or f"10.0.0.{number}") for number in range(5)]
    assert [place is not None for place in admitted] == [True] * 3 + [False] * 2
    assert peers.associate("PACS")


def test_an_address_has_its_share_whatever_its_titles() -> None:
    peers = Peers(maximum_associations_per_address=3)
    assert [peers.associate(f"HOG{number}") is not None for number in range(4)] == [True] * 3 + [False]
    assert peers.associate("PACS", "10.0.0.2")


def test_the_last_places_are_for_known_peers() -> None:
    peers = Peers(reserve=True, maximum_associations=6, reserved_associations=2)
    strangers = [peers.associate(f"S{number}", f"10.0.0.{number}") for number in range(6)]
    assert sum(place is not None for place in strangers) == 4
    assert peers.associate("PACS", known=True)
    assert peers.associate("PACS", known=True)
    assert peers.associate("PACS", known=True) is None


def test_without_known_peers_nothing_is_reserved() -> None:
    peers = Peers(maximum_associations=4, reserved_associations=2)
    assert all(peers.associate("PACS") for _ in range(4))


def test_what_did_nothing_for_a_while_makes_room() -> None:
    peers = Peers(maximum_associations=3, yield_seconds=10)
    busy, idle, longest = (peers.associate("PACS", idle=seconds) for seconds in (1, 11, 12))
    assert peers.associate("OTHER", "10.0.0.2")
    assert peers.gone == [longest]
    assert peers.associate("OTHER", "10.0.0.2")
    assert peers.gone == [longest, idle]
    assert peers.associate("OTHER", "10.0.0.2") is None
    assert busy not in peers.gone


def test_what_works_makes_no_room_however_long_it_takes() -> None:
    peers = Peers(maximum_associations=1, yield_seconds=10)
    working = peers.associate("PACS", idle=100)
    assert working is not None
    working.begin_work()
    assert peers.associate("OTHER") is None
    working.end_work()
    assert peers.associate("OTHER") is None  # it has just worked


def test_a_known_peer_makes_no_room_for_a_stranger() -> None:
    peers = Peers(reserve=True, maximum_associations=1, yield_seconds=10)
    known = peers.associate("PACS", known=True, idle=100)
    assert peers.associate("OTHER", "10.0.0.2") is None
    assert peers.associate("ARCHIVE", "10.0.0.3", known=True)
    assert peers.gone == [known]


def test_strangers_make_room_before_a_known_peer() -> None:
    peers = Peers(reserve=True, maximum_associations=2, reserved_associations=0, yield_seconds=10)
    peers.associate("PACS", known=True, idle=100)
    stranger = peers.associate("OTHER", "10.0.0.2", idle=11)
    assert peers.associate("ARCHIVE", "10.0.0.3", known=True)
    assert peers.gone == [stranger]


def test_nobody_ends_for_one_that_is_refused_all_the_same() -> None:
    peers = Peers(maximum_associations=2, maximum_associations_per_ae_title=1, yield_seconds=10)
    peers.associate("HOG", idle=100)
    peers.associate("PACS", "10.0.0.2")
    peers.places._limits = ReceiveSection(maximum_associations=1, maximum_associations_per_ae_title=1, yield_seconds=10)
    assert peers.associate("HOG") is None
    assert peers.gone == []


def test_all_addresses_of_an_ipv6_network_are_one_host() -> None:
    group: Callable[[str], str] = lambda address: address_group(ip_address(address))  # noqa: E731
    assert group("2001:db8::1") == group("2001:db8::ffff") != group("2001:db8:0:1::1")
    assert group("10.0.0.1") != group("10.0.0.2")
