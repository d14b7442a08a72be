from __future__ import annotations

import asyncio
import socket

from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.process import ProcessRole
from worker.service.roles import _children, _web_listener


def test_the_web_role_holds_no_answer_back_for_an_acknowledgement() -> None:
    """TCP_NODELAY on what its port accepts: 40 ms an answer otherwise."""
    listener = _web_listener("127.0.0.1", 0)
    set_on_accepted: list[int] = []

    async def accept_one() -> None:
        accepted = asyncio.Event()

        async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            set_on_accepted.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            accepted.set()

        async with await asyncio.start_server(look, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            await accepted.wait()
            writer.close()
            await writer.wait_closed()

    asyncio.run(accept_one())
    assert set_on_accepted == [1]


def test_a_worker_without_destinations_sends_nothing_but_queries_its_peers() -> None:
    peer = PeerSection(ae_title="PACS", host="127.0.0.1", port=104, query=True)
    for peers, expected in (((), False), ((peer,), True), ((peer.model_copy(update={"query": False}),), False)):
        roles = [child.role for child in _children(Settings(peer=peers), None)]
        assert (ProcessRole.SEND in roles) is expected
