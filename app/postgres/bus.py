"""The bus that needs nothing but the database: NOTIFY says that something is new, and every server reads the log.

Invariants: the last wake-up is never lost on this side (it is sent again after a reconnect); no more than a hundred
notifications a second; whoever could have missed one (after every connect) is woken.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import psycopg

from app.model.change import Batch
from app.model.errors import DatabaseAway
from app.stream.ports import Receiver

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Connect = Callable[[str], Awaitable[Connection]]

LISTEN: Final = b"LISTEN realtime_bus"
NOTIFY: Final = b"SELECT pg_catalog.pg_notify('realtime_bus', %s)"
LISTENERS: Final = b"""SELECT count(*) FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND application_name = 'sobranie bus listener'"""
SPACING_SECONDS: Final = 0.010
QUIET_SECONDS: Final = 5.0  # a line that said nothing for so long is asked whether it is alive
ANSWER_SECONDS: Final = 5.0
GONE: Final = (psycopg.OperationalError, psycopg.InterfaceError, DatabaseAway, OSError, TimeoutError)


class PostgresBus:
    def __init__(self, connect: Connect, server_id: str) -> None:
        """`connect` makes a session of the database for a purpose (its argument), and raises DatabaseAway."""
        self._connect = connect
        self._server_id = server_id
        self.ready = False
        self._news = asyncio.Event()
        self._dirty = False
        self._alone = False
        self._position: str | None = None

    async def run(self, receiver: Receiver) -> None:
        """Carry messages until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lasting(lambda: self._listen(receiver)))
            group.create_task(self._lasting(self._send))

    async def publish(self, batch: Batch) -> None:
        """Wake the others, now or with those that follow within ten milliseconds."""
        self._dirty = True
        self._news.set()

    async def beat(self, position: str) -> None:
        """Tell the others that this server leads, and where it stands."""
        self._position = position
        self._news.set()

    async def _lasting(self, work: Callable[[], Awaitable[None]]) -> None:
        pauses = _pauses()
        while True:
            started = asyncio.get_running_loop().time()
            with suppress(*GONE):
                await work()
            if asyncio.get_running_loop().time() - started > QUIET_SECONDS:
                pauses = _pauses()
            await asyncio.sleep(next(pauses))

    async def _listen(self, receiver: Receiver) -> None:
        connection = await self._connect("bus listener")
        try:
            await connection.execute(LISTEN)
            self.ready = True
            receiver.wake()
            while True:
                quiet = True
                async for notify in connection.notifies(timeout=QUIET_SECONDS, stop_after=1):
                    quiet = False
                    self._receive(notify.payload, receiver)
                if quiet:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await connection.execute(b"SELECT 1")
        finally:
            self.ready = False
            await connection.close()

    def _receive(self, payload: str, receiver: Receiver) -> None:
        try:
            message = json.loads(payload)
            sender, position = message["from"], message.get("position")
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # anybody may notify: a stranger's word is worth nothing
        if sender == self._server_id or not isinstance(sender, str):
            return
        if isinstance(position, str):
            receiver.beat(sender, position)
        else:
            receiver.wake()

    async def _send(self) -> None:
        await self._news.wait()  # only a leader ever sends
        connection = await self._connect("bus sender")
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if self._dirty:
                    self._dirty = False
                    if not self._alone:
                        await self._notify(connection, None)
                if self._position is not None:
                    position, self._position = self._position, None
                    await self._notify(connection, position)
                    self._alone = await self._nobody_else(connection)
                await asyncio.sleep(SPACING_SECONDS)
        finally:
            await connection.close()

    async def _nobody_else(self, connection: Connection) -> bool:
        """Whether wake-ups can be spared. One that comes reads when it does, and hears the beat within a second."""
        async with asyncio.timeout(ANSWER_SECONDS):
            row = await (await connection.execute(LISTENERS)).fetchone()
        return row is not None and row[0] <= 1

    async def _notify(self, connection: Connection, position: str | None) -> None:
        message = {"from": self._server_id} | ({"position": position} if position is not None else {})
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await connection.execute(NOTIFY, (json.dumps(message),))
        except BaseException:
            self._dirty = True
            self._news.set()
            raise


def _pauses() -> Iterator[float]:
    pause = 0.1
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, 10.0)
