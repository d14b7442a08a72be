"""Half requests, silence and slow readers on a real socket: others are answered all the same."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from tests.testbed.waiting import patience, wait_until
from worker.config.sections import WebSection
from worker.web.limits.connections import Connections, limited_protocol
from worker.web.limits.requests import RequestLimits

HALF = b"GET /quick HTTP/1.1\r\nHost: x\r\nX-a: "


@pytest.fixture
def port() -> Iterator[int]:
    yield from serve(Connections(WebSection(), total=40, of_an_address=20, head_seconds=1.5, write_seconds=1))


def serve(connections: Connections) -> Iterator[int]:
    app = FastAPI()

    @app.get("/quick")
    async def quick(request: Request) -> str:
        return request.client.host if request.client else ""

    @app.get("/large")
    async def large() -> Response:
        return StreamingResponse(bytes(1 << 16) for _ in range(1 << 12))

    @app.post("/body")
    async def body(request: Request) -> int:
        return len(await request.body())

    app.add_middleware(RequestLimits, grace_seconds=1)
    config = uvicorn.Config(
        app, "127.0.0.1", 0, http=limited_protocol(connections), log_config=None, access_log=False, proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 10)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def connect(stack: ExitStack, port: int, content: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5, (source, 0)))
    connection.sendall(content)
    return connection


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        while connection.recv(4096):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def is_answered(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/quick", timeout=patience(5)).status_code == 200


@pytest.mark.parametrize("content", [b"", HALF, b"\x16\x03\x01"])
def test_connections_without_a_request_take_nobodys_place_and_end_soon(port: int, content: bytes) -> None:
    with ExitStack() as stack:
        halves = [connect(stack, port, content) for _ in range(200)]
        assert is_answered(port)
        wait_until(lambda: sum(not is_closed(half) for half in halves) <= 20, 5)
        wait_until(lambda: all(is_closed(half) for half in halves), 10)
        assert is_answered(port)


def test_many_addresses_take_nobodys_place_either(port: int) -> None:
    with ExitStack() as stack:
        for number in range(120):
            connect(stack, port, HALF, f"127.0.0.{2 + number % 20}")
        assert is_answered(port)


def test_a_head_that_drips_has_the_same_time(port: int) -> None:
    with ExitStack() as stack:
        connection = connect(stack, port, HALF)
        start = time.monotonic()
        while not is_closed(connection) and time.monotonic() - start < 10:
            connection.settimeout(1)
            try:
                connection.sendall(b"x")
            except OSError:
                break
            time.sleep(0.1)
        assert time.monotonic() - start < 5


def test_busy_connections_of_an_address_are_not_closed_for_new_ones(port: int) -> None:
    request = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    with ExitStack() as stack:
        busy = [connect(stack, port, request) for _ in range(20)]
        time.sleep(0.3)
        late = connect(stack, port, HALF)
        wait_until(lambda: is_closed(late), 5)
        other = connect(stack, port, b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n", "127.0.0.2")
        assert other.recv(100).startswith(b"HTTP/1.1 200")
        for connection in busy[:3]:
            connection.settimeout(5)
            connection.sendall(b"0123456789")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_left(port: int) -> None:
    with ExitStack() as stack:
        connection = connect(stack, port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3)
        connection.settimeout(5)
        received = 0
        try:
            while piece := connection.recv(1 << 20):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < 1 << 28


def test_a_body_that_drips_is_answered_408(port: int) -> None:
    with ExitStack() as stack:
        connection = connect(stack, port, b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        start = time.monotonic()
        while time.monotonic() - start < 10:
            try:
                connection.sendall(b"x")
                connection.settimeout(0.1)
                if connection.recv(100).startswith(b"HTTP/1.1 408"):
                    return
            except TimeoutError:
                continue
    pytest.fail("the body may drip")


def test_a_proxy_brings_everybodys_connections() -> None:
    web = WebSection(trusted_proxies=(ip_network("127.0.0.1/32"),))
    for port in serve(Connections(web, total=40, of_an_address=5, head_seconds=30)):
        with ExitStack() as stack:
            halves = [connect(stack, port, HALF) for _ in range(30)]
            time.sleep(0.3)
            assert not any(is_closed(half) for half in halves)
            assert is_answered(port)
