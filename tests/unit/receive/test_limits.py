"""Which addresses are served. With real peers: tests/integration/test_limits.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker.config.sections import ReceiveSection
from worker.receive.limits import LimitedServer
from worker.receive.places import Places


@pytest.mark.parametrize(
    ("address", "is_served"),
    [
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("::ffff:10.1.2.3", True),  # an IPv4 peer on an IPv6 socket
        ("::ffff:10.2.0.1", False),
        ("fd00::7", True),
        ("fe80::1", False),
    ],
)
def test_addresses_outside_the_networks_are_refused(address: str, is_served: bool) -> None:
    refused: list[tuple[str, str]] = []
    receive = ReceiveSection(allowed_networks=("10.1.0.0/16", "fd00::/8"))
    server: Any = SimpleNamespace(
        limits=receive,
        on_refused=lambda *refusal: refused.append(refusal),
        _by_connection={},
        _places=Places(receive, reserve=False),
    )
    assert LimitedServer.verify_request(server, object(), (address, 104)) is is_served
    assert refused == ([] if is_served else [(address, "network")])
    assert len(server._places) == is_served
