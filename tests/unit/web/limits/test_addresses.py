from __future__ import annotations

import pytest

from worker.web.limits.addresses import network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_sender_is_an_address_or_a_network_of_ipv6(address: str, network: str) -> None:
    assert network_of(address) == network
