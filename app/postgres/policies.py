"""Reading who may see what: realtime.policies and realtime.revocations, and asking realtime.may_subscribe.

Invariants
- What is read is of one statement, whose snapshot comes with it.
- The database's own function is called on a connection of its own, in a transaction that can write nothing, and for a
  second at most. Its error is never an answer.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg

from app.core.rights import Policy
from app.model.errors import DatabaseAway, Unavailable
from app.model.position import Snapshot
from app.model.rights import Revocation
from app.postgres.catalog import Lend
from app.postgres.connect import OURS, Connection, away, deadline, refusal
from app.postgres.queries import SQL
from app.stream.ports import PolicyRead

READ_SECONDS: Final = 10.0
ASK_SECONDS: Final = 3.0  # more than the statement_timeout, for a database that does not answer at all


class PostgresPolicies:
    """Implements app.stream.ports.PolicyReader. `lend` gives a session of the event log's, `open_` makes another."""

    def __init__(self, lend: Lend, open_: Callable[[], Awaitable[Connection]]) -> None:
        self._lend = lend
        self._open = open_
        self._asking = asyncio.Lock()
        self._connection: Connection | None = None

    async def policies(self) -> PolicyRead:
        """Raises DatabaseAway."""
        async with self._lend() as connection:
            with away(*OURS):
                async with deadline(connection, READ_SECONDS):
                    row = await (await connection.execute(SQL["policies"])).fetchone()
        assert row is not None
        snapshot, policies, revocations, asks = row
        return PolicyRead(
            Snapshot.parse(snapshot), [_policy(*fields) for fields in json.loads(policies)],
            [_revocation(*fields) for fields in json.loads(revocations)], asks,
        )  # fmt: skip

    async def may_subscribe(self, channel: str, claims: str) -> bool | None:
        """See app.stream.ports.PolicyReader."""
        async with self._asking:
            try:
                return await self._ask(channel, claims)
            except (psycopg.Error, OSError, DatabaseAway) as error:
                await self.close()
                text = refusal(error) if isinstance(error, psycopg.Error) else str(error)
                raise Unavailable(f"realtime.may_subscribe gives no answer: {text}", channel=channel) from error

    async def _ask(self, channel: str, claims: str) -> bool | None:
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = await self._open()
            await connection.set_read_only(True)
        async with deadline(connection, ASK_SECONDS), connection.transaction():
            await connection.execute(SQL["ask_briefly"])
            row = await (
                await connection.execute(SQL["may_subscribe"], {"channel": channel, "claims": claims})
            ).fetchone()
        answer = row[0] if row is not None else None
        return None if answer is None else bool(answer)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _policy(name: str, channel: str, roles: list[str] | None, claims: dict[str, Any], may: list[str]) -> Policy:
    return Policy(name, channel, tuple(roles) if roles is not None else None, claims, tuple(may))


def _revocation(sub: str | None, jti: str | None, issued_before: float | str | None) -> Revocation:
    """`infinity` is no number in JSON: all tokens were issued before."""
    if isinstance(issued_before, str):
        issued_before = -math.inf if issued_before.startswith("-") else math.inf
    return Revocation(sub, jti, issued_before)
