"""The bus that needs nothing but the database: NOTIFY says that something is new, and every server reads the event log.

Invariants
- The sender loses no wake-up: one that could not be sent is sent after the next connect.
- The sender sends no more than a hundred notifications a second.
- A server that could have missed a wake-up, as after every connect, is woken.
- Nothing counts that a session of another role than ours has sent, because any role may notify.
- Two servers of one name hear of each other, also where neither leads: each says once that it has come, and answers
  the other of its name.
"""

import asyncio
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

import psycopg

from app.model.change import Batch
from app.model.errors import DatabaseAway
from app.model.observations import Noted, Observer
from app.postgres.connect import Connection
from app.postgres.failures import Failures
from app.postgres.queries import SQL
from app.stream.backoff import backoff
from app.stream.ports import Receiver

Connect = Callable[[str], Awaitable[Connection]]

LISTENER: Final = "bus listener"  # bus.sql counts the sessions of this name
SENDER: Final = "bus sender"
SPACING_SECONDS: Final = 0.010  # between two notifications
KNOWN_SECONDS: Final = 5.0  # for so long it is remembered whose a session is: its number may become another's
KNOWN_MOST: Final = 1000
REMIND_SECONDS: Final = 60.0
QUIET_SECONDS: Final = 5.0  # a connection that brought nothing for so long is asked whether it is alive
ANSWER_SECONDS: Final = 5.0
GONE: Final = (psycopg.OperationalError, psycopg.InterfaceError, DatabaseAway, OSError, TimeoutError)


class PostgresBus:
    """Implements app.stream.ports.Bus."""

    def __init__(self, connect: Connect, server_id: str, observe: Observer) -> None:
        """`connect` makes a session of the database with the name that it is given, and raises DatabaseAway."""
        self._connect = connect
        self._server_id = server_id
        self._observe = observe
        self._run = secrets.token_hex(4)  # tells this server from another of the same name
        self._known: dict[
            int, tuple[float, bool]
        ] = {}  # sessions that sent: until when it is known whether they are ours
        self._told_at = -math.inf
        self.ready = False
        self._news = asyncio.Event()  # there is something to send
        self._dirty = False  # a wake-up is to be sent
        self._position: str | None = None  # a beat is to be sent, with this position
        self._alone = False  # no other server listens
        self._greet = False  # another of this name has come, and is to hear of this one

    async def run(self, receiver: Receiver) -> None:
        """Carry messages until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_up(lambda: self._listen(receiver)))
            group.create_task(self._keep_up(self._send))

    async def publish(self, batch: Batch) -> None:
        """Wake the other servers. Batches that follow within ten milliseconds share one wake-up."""
        self._dirty = True
        self._news.set()

    async def beat(self, position: str) -> None:
        """Tell the other servers that this one leads, and where it stands."""
        self._position = position
        self._news.set()

    async def _keep_up(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` again whenever its connection breaks."""
        pauses = backoff()
        failures = Failures("bus", self._observe)
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await work()
            except GONE as error:
                failures.tell(error)
            if asyncio.get_running_loop().time() - started > QUIET_SECONDS:
                pauses = backoff()
            await asyncio.sleep(next(pauses))

    async def _listen(self, receiver: Receiver) -> None:
        connection = await self._connect(LISTENER)
        try:
            await connection.execute(SQL["listen_bus"])
            await self._notify(connection, come=True)
            self.ready = True
            receiver.wake()
            while True:
                heard = [n async for n in connection.notifies(timeout=QUIET_SECONDS, stop_after=1)]
                for notify in heard:
                    if await self._is_ours(connection, notify.pid):
                        self._receive(notify, receiver)
                if self._greet:
                    self._greet = False
                    await self._notify(connection)
                if not heard:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await connection.execute(SQL["answer"])
        finally:
            self.ready = False
            await connection.close()

    async def _is_ours(self, connection: Connection, pid: int) -> bool:
        """Whether the session `pid` is one of our roles', as it was at most KNOWN_SECONDS ago."""
        now = time.monotonic()
        until, ours = self._known.get(pid, (-math.inf, False))
        if until < now:
            async with asyncio.timeout(ANSWER_SECONDS):
                row = await (await connection.execute(SQL["is_ours"], {"pid": pid})).fetchone()
            ours = row is not None and bool(row[0])
            if len(self._known) >= KNOWN_MOST:
                self._known.clear()
            self._known[pid] = now + KNOWN_SECONDS, ours
        return ours

    def _receive(self, notify: psycopg.Notify, receiver: Receiver) -> None:
        try:
            message = json.loads(notify.payload)
            sender, position = message["from"], message.get("position")
            run, come = message.get("run"), message.get("come")
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # what no server said is worth nothing
        if not isinstance(sender, str) or run == self._run:
            return
        if sender == self._server_id:
            self._greet = self._greet or bool(come)
            self._tell_of_namesake()
        if isinstance(position, str):
            receiver.beat(sender, position)
        elif not come:
            receiver.wake()

    def _tell_of_namesake(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= REMIND_SECONDS:
            self._told_at = now
            self._observe(
                Noted(f"another server is called {self._server_id!r} too: give each its own SOBRANIE_SERVER_ID")
            )

    async def _send(self) -> None:
        await self._news.wait()  # a follower never sends, and needs no connection
        connection = await self._connect(SENDER)
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if self._dirty:
                    self._dirty = False
                    if not self._alone:
                        await self._send_or_wake(connection)
                if self._position is not None:
                    position, self._position = self._position, None
                    await self._send_or_wake(connection, position=position)
                    self._alone = await self._nobody_else(connection)
                await asyncio.sleep(SPACING_SECONDS)
        finally:
            await connection.close()

    async def _nobody_else(self, connection: Connection) -> bool:
        """Whether wake-ups can be spared because no other server listens.

        A server that joins reads when it does, and hears the next beat within a second.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            row = await (await connection.execute(SQL["count_listeners"])).fetchone()
        return row is not None and row[0] <= 1

    async def _notify(self, connection: Connection, **more: str | bool) -> None:
        """Send a beat with a `position`, that this server has `come`, or else a wake-up."""
        message = {"from": self._server_id, "run": self._run} | more
        async with asyncio.timeout(ANSWER_SECONDS):
            await connection.execute(SQL["notify_bus"], {"message": json.dumps(message)})

    async def _send_or_wake(self, connection: Connection, **position: str) -> None:
        """Send a beat with a `position`, or a wake-up. Where it fails a wake-up is to be sent."""
        try:
            await self._notify(connection, **position)
        except BaseException:
            self._dirty = True
            self._news.set()
            raise
