from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from worker.web.limits.head import HeadAsGet


def test_head_is_get_without_its_content() -> None:
    app, made = FastAPI(), []

    def pieces() -> Iterator[bytes]:
        for number in range(1000):
            made.append(number)
            yield b"x" * 1000

    @app.get("/whole")
    def whole() -> str:
        return "content"

    @app.get("/pieces")
    def streamed() -> StreamingResponse:
        return StreamingResponse(pieces(), media_type="text/plain", headers={"X-Kind": "a"})

    @app.post("/take")
    def take() -> int:
        return 1

    app.add_middleware(HeadAsGet)

    async def requests() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
            for path in ("/whole", "/nowhere", "/take"):
                head, get = await client.head(path), await client.get(path)
                assert (head.status_code, head.headers, head.content) == (get.status_code, get.headers, b"")
            head = await client.head("/pieces")
            assert (head.status_code, head.headers["x-kind"], head.content) == (200, "a", b"")
            assert len(made) < 10
            assert len((await client.get("/pieces")).content) == 1_000_000

    asyncio.run(requests())
