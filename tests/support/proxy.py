"""A TCP proxy whose line can fail in every way a line fails.

`cut()` resets what is open (new connections pass); `refuse()` cuts and turns new ones away; `stall()` stops carrying
bytes both ways while every connection stays open; `deaf()` swallows what the server behind it sends (a half-open line:
the one side talks on, the other never hears); `resume()` ends a stall, a refusal or a deafness.
"""

import asyncio
from types import TracebackType
from typing import Self

CHUNK = 65536


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._flow = asyncio.Event()
        self._flow.set()
        self._refusing = self._deaf = False
        self.accepted = 0

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    @property
    def open(self) -> int:
        return len(self._open)

    def cut(self) -> None:
        for writers in self._open.values():
            for writer in writers:
                writer.transport.abort()

    def refuse(self) -> None:
        self._refusing = True
        self.cut()

    def stall(self) -> None:
        self._flow.clear()

    def deaf(self) -> None:
        self._deaf = True

    def resume(self) -> None:
        self._refusing = self._deaf = False
        self._flow.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            self._open[task].append(far_writer)
            await asyncio.gather(self._carry(reader, far_writer, False), self._carry(far_reader, writer, True))
        except OSError:
            pass  # either end went away: the other is told below
        finally:
            for end in self._open.pop(task):
                end.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        while data := await source.read(CHUNK):
            await self._flow.wait()
            if answers and self._deaf:
                continue
            sink.write(data)
            await sink.drain()
        sink.write_eof()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self.resume()
        self._server.close()
        tasks = list(self._open)
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
