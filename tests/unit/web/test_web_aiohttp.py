"""What app/web/ takes of aiohttp and asyncio that they nearly keep private (docs/decisions/0008), each by its name.

Invariant: a release that moves one of them fails here first, with the name and the place of ours that uses it. Then:
read the release's RequestHandler, change that place, run tests/unit/web, and raise the cap in pyproject.toml.
"""

import socket
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def parser_slot(request: Any) -> bool:
    """It is free for us: aiohttp's own takes what comes until then."""
    return callable(request.protocol.set_parser) and request.protocol._payload_parser is None


def settable_transport(request: Any) -> bool:
    kept, request.protocol.transport = request.protocol.transport, None
    request.protocol.transport = kept
    return kept is request.transport


# name -> (the place that uses it, whether it is as that place needs it)
NEEDED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "Request.transport": ("Peer.take, _Sink", lambda r: r.transport.get_protocol() is r.protocol),
    "RequestHandler.set_parser": ("Peer.take: gets what came behind the head of the request", parser_slot),
    "RequestHandler.writing_paused": ("Peer.take", lambda r: r.protocol.writing_paused is False),
    "RequestHandler.transport": ("leave: None, so that aiohttp does not close the socket", settable_transport),
    "RequestHandler.connection_lost": (
        "leave: cancels the handler and lets go of the request",
        lambda r: callable(r.protocol.connection_lost) and r.protocol._manager.handler_cancellation is True,
    ),
    "RequestHandler._request_count, _current_request, _upgraded": (
        "Visitor.data_received: whether the head of a request has its end",
        lambda r: r.protocol._request_count == 1 and r.protocol._current_request is r and r.protocol._upgraded is False,
    ),
    "RequestHandler.__init__, Server._kwargs": (
        "Visitors.factory: a protocol of our own in place of aiohttp's",
        lambda r: type(r.protocol)(r.protocol._manager, loop=r.protocol._loop, **r.protocol._manager._kwargs),
    ),
    "TransportSocket._sock of asyncio": (
        "_plain: the socket that bursts are written to",
        lambda r: type(r.transport.get_extra_info("socket")._sock) is socket.socket,
    ),
}


def moved(request: Any) -> Iterator[str]:
    for name, (place, as_needed) in NEEDED.items():
        try:
            why = "" if as_needed(request) else "is not as it was"
        except AttributeError as error:
            why = str(error)
        if why:
            yield f"aiohttp {version('aiohttp')}: {name} has moved ({why}); app/web/ uses it in {place}"


async def test_what_is_taken_of_aiohttp_is_where_it_was() -> None:
    found: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        found.extend(moved(request))
        return web.Response(text="seen")

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        answer = await session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        assert await answer.text() == "seen"
    await runner.cleanup()
    assert not found, "\n".join(found)


def test_one_that_has_moved_is_named_with_the_place_that_uses_it() -> None:
    said = list(moved(object()))
    assert len(said) == len(NEEDED)
    assert any("RequestHandler.set_parser" in line and "Peer.take" in line for line in said)


def test_aiohttp_has_a_cap_and_the_one_in_use_is_below_it() -> None:
    (wanted,) = (d for d in tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"] if d.startswith("aiohttp"))
    low, high = (bound.strip("<>=") for bound in wanted.removeprefix("aiohttp").split(","))
    assert "<" in wanted.split(",")[1]
    assert parts(low) <= parts(version("aiohttp")) < parts(high), f"{wanted}: read this file's docstring"


def parts(number: str) -> list[int]:
    return [int(part) for part in number.split(".")[:2]]
