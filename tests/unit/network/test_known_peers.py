"""An AE title is known only from the addresses of its host."""

from __future__ import annotations

import pytest

from worker.config.sections import PeerSection
from worker.network import known_peers
from worker.network.known_peers import KnownPeers, plain_address

LOOPBACK = PeerSection(ae_title="PACS", host="127.0.0.1", port=104)


@pytest.mark.parametrize(
    ("address", "host", "is_known"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("nonsense", "127.0.0.1", False),
        ("127.0.0.1", "no-such-host.invalid", False),
    ],
)
def test_a_peer_calls_from_its_host(address: str, host: str, is_known: bool) -> None:
    peers = KnownPeers([LOOPBACK.model_copy(update={"host": host})])
    assert peers.is_known("PACS", address) is is_known
    assert (peers.find("PACS", address) is not None) is is_known
    assert not peers.is_known("OTHER", address)


def test_an_allowed_title_is_known_from_everywhere_unless_a_peer_has_it() -> None:
    peers = KnownPeers([LOOPBACK], ["PACS", "CT1"])
    assert peers.is_known("CT1", "10.0.0.9")
    assert not peers.is_known("PACS", "10.0.0.9")
    assert peers.find("CT1", "10.0.0.9") is None
    assert not KnownPeers([])


def test_the_name_server_is_asked_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(known_peers, "resolve", lambda host: asked.append(host) or frozenset())
    now = 0.0
    peers = KnownPeers([LOOPBACK], clock=lambda: now)
    for _ in range(100):
        peers.is_known("PACS", "10.0.0.1")
    now = 61.0
    peers.is_known("PACS", "10.0.0.1")
    assert asked == ["127.0.0.1"] * 2


def test_an_address_is_compared_as_ipv4_where_it_is_mapped() -> None:
    assert str(plain_address("::ffff:10.0.0.1")) == "10.0.0.1"
    assert plain_address("") is None
