"""An identity provider that publishes keys over real HTTP, and behaves as a test wants it to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Provider:
    """`answer` is what it does when it is asked; `asked` counts how often it was, and `elsewhere` who followed a
    redirect. While `held` is not None an answer waits for it."""

    def __init__(self) -> None:
        self.asked = 0
        self.elsewhere = 0
        self.held: asyncio.Event | None = None
        self.url = ""
        self.answer: Answer = self.publish()

    def publish(self, *keys: dict[str, Any], max_age: int | None = None) -> Answer:
        """From now on it publishes these keys."""
        headers = {} if max_age is None else {"Cache-Control": f"public, max-age={max_age}, must-revalidate"}
        return self.say(json.dumps({"keys": keys}).encode(), headers=headers)

    def say(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=body, status=status, headers=headers)

        self.answer = answer
        return answer

    async def keys(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.held is not None:
            await self.held.wait()
        return await self.answer(request)

    async def other(self, _: web.Request) -> web.StreamResponse:
        self.elsewhere += 1
        return web.json_response({"keys": []})


@asynccontextmanager
async def providing(port: int = 0) -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.add_routes([web.get("/keys", provider.keys), web.get("/other", provider.other)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    try:
        yield provider
    finally:
        await runner.cleanup()
