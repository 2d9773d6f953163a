"""A socket that is taken over while it still has something to send."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

from aiohttp import web

from app.web.peer import Peer, leave
from harness.facts import eventually, turn

HIGH, LOW = 64 << 10, 16 << 10
STEP = 2048


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        yield client


async def test_a_backlog_that_was_large_and_is_half_gone_is_waited_for() -> None:
    """The loop tells of the next change only: a peer that thinks it may write is never told that it may not."""
    peers: list[Peer] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport.set_write_buffer_limits(high=HIGH, low=LOW)
        transport.write(bytes(1 << 20))
        await eventually(lambda: transport.get_write_buffer_size() <= HIGH, every=0)
        assert transport.get_write_buffer_size() > LOW
        peer = Peer()
        peer.take(request, left=lambda: None)
        peers.append(peer)
        await leave(request)

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with connected(runner.addresses[0][1]) as client:

        def reads() -> bool:
            with contextlib.suppress(BlockingIOError):
                client.recv(STEP)
            return bool(peers)

        await eventually(reads, every=0)
        drained = asyncio.create_task(peers[0].drained())
        for _ in range(100):
            await turn()
        assert not drained.done()

        def reads_on() -> bool:
            reads()
            return drained.done()

        await eventually(reads_on, every=0)
    await eventually(lambda: peers[0].lost)
    await runner.cleanup()
