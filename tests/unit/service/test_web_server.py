from __future__ import annotations

import asyncio
import socket

from worker.service.web_server import web_listener


def test_the_web_role_holds_no_answer_back_for_an_acknowledgement() -> None:
    """TCP_NODELAY on what its port accepts: 40 ms an answer otherwise."""
    listener = web_listener("127.0.0.1", 0)
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
