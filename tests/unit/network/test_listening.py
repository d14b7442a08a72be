"""Whether an address can be bound, and what is said where it cannot."""

from __future__ import annotations

import errno
import socket

from worker.network.listening import binding_fault, explain_binding, listening_socket


def test_an_address_is_free_or_the_reason_says_what_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert binding_fault("web", "127.0.0.1", port) == (
            f"[web] cannot listen on 127.0.0.1:{port}: address already in use; "
            "stop the program that uses it, or set [web] port"
        )
    assert binding_fault("web", "127.0.0.1", port) is None
    assert "this host has no such address" in str(binding_fault("receive", "192.0.2.1", port))
    for host in ("nowhere.invalid", "two..dots"):
        assert f"the host name '{host}'" in str(binding_fault("receive", host, port))
    denied = PermissionError(errno.EACCES, "")
    assert "only root may use this port" in explain_binding(denied, "receive", "0.0.0.0", 104)


def test_a_socket_is_bound_by_its_family() -> None:
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with listening_socket(host, 0) as bound:
            assert bound.family is family
            assert bound.getsockname()[1] > 0
