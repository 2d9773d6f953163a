"""Who × which policy × which channel × which way in, over both transports: nobody is sent what he has no right to, and
each refusal is as the contract says.

Each table has one policy, and the tables are alike. Tokens are of five kinds. The ways in are live, replay, rows, a row
that moves, a token that is refreshed without its claims, and a revocation.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from harness.database import Database
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support import token
from tests.support.eventstream import EventParser
from tests.support.forge import SECRET, signed
from tests.support.transport import now

POLICIES = {  # of each table: channel, roles, claims, may
    "t_all": ("t_all", None, "{}", "{subscribe,snapshot}"),
    "t_any": ("t_any", "{*}", "{}", "{subscribe,snapshot}"),
    "t_role": ("t_role", "{staff}", "{}", "{subscribe,snapshot}"),
    "t_claim": ("t_claim", None, '{"org": 7}', "{subscribe,snapshot}"),
    "t_own": ("t_own:owner={sub}", None, "{}", "{subscribe,snapshot}"),
    "t_team": ("t_team:team={teams},owner=*", "{*}", "{}", "{subscribe,snapshot}"),
    "t_key": ("t_key:id=*", None, "{}", "{subscribe,snapshot}"),
    "t_sub": ("t_sub", None, "{}", "{subscribe}"),
    "t_none": ("t_none", None, "{}", "{presence}"),
}
TOKENS: dict[str, dict[str, Any] | None] = {
    "nobody": None,
    "user": {"sub": "42"},
    "staff": {"sub": "50", "role": "staff"},
    "member": {"sub": "51", "org": 7},
    "teams": {"sub": "43", "teams": ["a", "b"]},
}
ROUTES = ["", "owner=42", "owner=43", "id=1", "team=a,owner=42", "team=c,owner=42"]
ROWS = [(1, "42", "a"), (2, "43", "a"), (3, "42", "c"), (4, "9", "z")]
CASES = [(who, table, route) for who in TOKENS for table in POLICIES for route in ROUTES]


def allowed(who: str, table: str, route: str) -> bool:
    """What the policy says, in other words."""
    claims = TOKENS[who] or {}
    match table:
        case "t_all" | "t_sub":
            return True
        case "t_any":
            return bool(claims)
        case "t_role":
            return claims.get("role") == "staff"
        case "t_claim":
            return claims.get("org") == 7
        case "t_own":
            return route == f"owner={claims.get('sub')}"
        case "t_team":
            return bool(claims.get("teams")) and route.startswith("team=a,")
        case "t_key":
            return route == "id=1"
    return False


def matches(route: str, row: dict[str, Any]) -> bool:
    return all(str(row[column]) == value for column, _, value in (p.partition("=") for p in route.split(",") if p))


class Asker:
    """One client with one channel. `answer` is `subscribed`, or the code of the refusal."""

    def __init__(self, server: Server, kind: str, who: str, table: str, route: str) -> None:
        self.url, self.kind, self.who, self.table, self.route = server.url, kind, who, table, route
        self.channel = f"{table}:{route}" if route else table
        self.messages: list[dict[str, Any]] = []
        self.answer = ""
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None

    async def ask(self, session: aiohttp.ClientSession, position: str | None = None, *, rows: bool = False) -> "Asker":
        claims = TOKENS[self.who]
        headers = {"Authorization": f"Bearer {signed(**claims)}"} if claims is not None else {}
        more = {"position": position} if position else {}
        if self.kind == "websocket":
            self._socket = await session.ws_connect(f"{self.url}/realtime/ws", headers=headers, max_msg_size=0)
            self._reading = asyncio.create_task(self._read_socket(self._socket))
            await self.send({"type": "subscribe", "id": 1, "channels": [self.channel], "snapshot": rows, **more})
        else:
            asking = {"channel": self.channel, "snapshot": str(int(rows)), **more}
            request = session.get(f"{self.url}/realtime/events", params=asking, headers=headers)
            self._reading = asyncio.create_task(self._read_events(request))
        await eventually(lambda: self.answer, 30, f"{self.channel} is answered")
        return self

    async def send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        await self._socket.send_str(json.dumps(message))

    async def _read_socket(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async with socket:
            async for frame in socket:
                self._take(json.loads(frame.data))

    async def _read_events(self, request: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> None:
        parser = EventParser()
        async with request as response:
            if response.status != 200:
                refused = await response.json()
                assert (response.status, refused["type"], refused["channel"]) == (403, "error", self.channel), refused
                self.answer = refused["code"]
                return
            async for data in response.content.iter_any():
                for event in parser.feed(data):
                    if event.data:
                        self._take(json.loads(event.data))

    def _take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["type"] == "subscribed":
            self.answer = "subscribed"
        elif message["type"] == "error" and message.get("id") == 1:
            assert message["channel"] == self.channel
            self.answer = message["code"]

    def reached(self, position: str) -> bool:
        last = next((m["position"] for m in reversed(self.messages) if "position" in m), None)
        return last is not None and token.read(last).contains(token.read(position))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every row that it was sent in any form."""
        changes = [c for m in self.messages for c in m.get("changes", ())]
        found = [row for c in changes for row in (c["data"], c["old"]) if row is not None]
        return found + [row for m in self.messages if m["type"] == "snapshot" for row in m["rows"]]

    def lost(self) -> bool:
        told = [(m["type"], m.get("code"), m.get("id")) for m in self.messages]
        return (("error", "forbidden", None), ("unsubscribed", None, None)) in pairwise(told)

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


@pytest.fixture
async def server(database: Database, servers: Servers) -> Server:
    for table in POLICIES:
        await database.execute(
            f"""CREATE TABLE {table} (id int PRIMARY KEY, owner text, team text, body text);
                CREATE INDEX ON {table} (owner); CREATE INDEX ON {table} (team, owner);
                SELECT realtime.watch('{table}', routes => '{{owner,"team,owner"}}')"""
        )
    for name, policy in POLICIES.items():
        await database.execute("INSERT INTO realtime.policies VALUES (%s, %s, %s, %s::jsonb, %s)", name, *policy)
    many = "1000"  # each of few users has a connection for every case of the table
    return await servers.start(
        SOBRANIE_JWT_SECRET=SECRET, SOBRANIE_ANONYMOUS="allow", SOBRANIE_CONNECTIONS_PER_USER=many
    )


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as made:
        yield made


async def write(database: Database, rows: Iterable[tuple[int, str, str]], body: str) -> None:
    values = ",".join(f"({n}, '{owner}', '{team}', '{body}')" for n, owner, team in rows)
    await database.execute(";".join(f"INSERT INTO {table} VALUES {values}" for table in POLICIES))


def check_answers(askers: list[Asker], *, rows: bool = False) -> list[Asker]:
    """Those that are let in."""
    for asker in askers:
        right = allowed(asker.who, asker.table, asker.route) and not (rows and asker.table == "t_sub")
        assert asker.answer == ("subscribed" if right else "forbidden"), (asker.who, asker.channel, asker.messages)
        assert right or not asker.rows
    return [asker for asker in askers if asker.answer == "subscribed"]


def check_rows(asker: Asker, bodies: set[str]) -> None:
    """It was sent rows of its own channel alone, and all that it should."""
    assert all(matches(asker.route, row) for row in asker.rows), (asker.channel, asker.rows)
    assert {row["body"] for row in asker.rows} <= bodies
    kept = [r for r in ROWS if matches(asker.route, {"id": r[0], "owner": r[1], "team": r[2]})]
    assert {row["id"] for row in asker.rows} >= {r[0] for r in kept}, (asker.channel, asker.messages)


async def all_reach(askers: list[Asker], end: str) -> None:
    for asker in askers:
        await eventually(partial(asker.reached, end), 30, f"{asker.channel} comes to {end}")


async def move_row(database: Database, live: list[Asker]) -> None:
    """From one route to another, and back: each channel sees its own half."""
    for owner in ("43", "42"):
        await database.execute(
            ";".join(f"UPDATE {t} SET owner = '{owner}', body = 'moved' WHERE id = 1" for t in POLICIES)
        )
    await all_reach(live, await now(database))
    for asker in live:
        check_rows(asker, {"known", "moved"})


async def refresh(live: list[Asker]) -> None:
    """Tokens of the same users without their claims."""
    losing = [a for a in live if a.who in ("staff", "member", "teams") and a.table in ("t_role", "t_claim", "t_team")]
    assert losing
    for asker in losing:
        claims = TOKENS[asker.who]
        assert claims is not None
        await asker.send({"type": "auth", "id": 2, "token": signed(claims["sub"])})
    for asker in losing:
        await eventually(asker.lost, 30, f"{asker.who} loses {asker.channel}")


async def revoke(database: Database, live: list[Asker]) -> None:
    """With a secret in the same transaction, before it and after it."""
    revoked = [asker for asker in live if asker.who == "user"]
    assert revoked
    await database.execute(
        ";".join(
            [f"INSERT INTO {t} VALUES (11, '42', 'a', 'secret')" for t in POLICIES]
            + ["INSERT INTO realtime.revocations (sub, until) VALUES ('42', 'infinity')"]
            + [f"UPDATE {t} SET body = 'secret' WHERE id = 1" for t in POLICIES]
        )
    )
    for asker in revoked:
        await eventually(asker.lost, 30, f"{asker.channel} is lost")
        assert "secret" not in {row["body"] for row in asker.rows}
    others = [asker for asker in live if asker not in revoked and not asker.lost()]
    await all_reach(others, await now(database))
    for asker in others:
        check_rows(asker, {"known", "moved", "secret"})


@pytest.mark.parametrize("kind", ["websocket", "events"])
async def test_nobody_is_sent_what_he_has_no_right_to(
    database: Database, server: Server, session: aiohttp.ClientSession, kind: str
) -> None:
    everybody: list[Asker] = []

    async def ask(position: str | None = None, *, rows: bool = False) -> list[Asker]:
        made = [Asker(server, kind, *case) for case in CASES]
        everybody.extend(made)
        await asyncio.gather(*(asker.ask(session, position, rows=rows) for asker in made))
        return check_answers(made, rows=rows)

    try:
        start = await now(database)
        live = await ask()
        await write(database, ROWS, "known")
        end = await now(database)
        served = [*live, *await ask(start), *await ask(rows=True)]
        await all_reach(served, end)
        for asker in served:
            check_rows(asker, {"known"})
        await move_row(database, live)
        if kind == "websocket":
            await refresh(live)
        await revoke(database, live)
    finally:
        await asyncio.gather(*(asker.close() for asker in everybody))
