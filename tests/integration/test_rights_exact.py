"""Revoke and insert the secret, in one transaction: it reaches nobody from whom the right is taken, however he is
served, and who keeps the right misses nothing.

Each round takes the right of one user by a policy or a revocation, and writes a secret in the same transaction, before
or after. That user is live on both servers, lagging, fed from an old position, and in the midst of his rows. The ledger
of those who keep theirs is judged in the end.
"""

import os
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

import app.stream.rights
from app.server import Server
from harness.database import Database
from harness.facts import eventually
from tests.integration.guarded import Guest, serving, user
from tests.support import token
from tests.support.judge import judge, report
from tests.support.truth import Truth

ROUNDS = 24  # of each part
PARTS = 42 if "LONG" in os.environ else 1
SETUP = """
  CREATE TABLE safe (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text, body text);
  CREATE INDEX ON safe (owner);
  SELECT realtime.watch('safe', routes => '{owner}');
  INSERT INTO realtime.policies VALUES ('keepers', 'safe', '{keeper}')"""
GRANT = "INSERT INTO realtime.policies VALUES ('round', 'safe', NULL, '{\"round\": %d}')"
FILL = "INSERT INTO safe (owner, body) SELECT 'a', repeat('filler ', 30) FROM generate_series(1, 12)"
SECRET = "INSERT INTO safe (owner, body) VALUES ('a', 'secret %d'), ('b', 'secret %d')"
MOVED = "UPDATE safe SET owner = 'a', body = 'secret %d' WHERE id = (SELECT max(id) FROM safe WHERE owner = 'b')"
TAKE = {
    "policy": "DELETE FROM realtime.policies WHERE name = 'round'",
    "roles": "UPDATE realtime.policies SET roles = '{nobody}' WHERE name = 'round'",
    "revocation": "INSERT INTO realtime.revocations (sub, until) VALUES ('u%d', 'infinity')",
}
CHANNELS = ("safe", "safe:owner=a", "safe:owner=b")


@pytest.fixture
async def both(database: Database) -> AsyncIterator[list[Server]]:
    async with serving(database, "one", "two", outbound_bytes=2000) as made:
        yield made


class Round:
    """One user, served in each way there is, from whom the right is taken."""

    def __init__(self, database: Database, servers: list[Server], number: int) -> None:
        self.database, self.servers, self.number = database, servers, number
        self.guests: list[Guest] = []

    def guest(self, server: int, name: str) -> Guest:
        made = Guest(self.servers[server], user(f"u{self.number}", round=self.number), name)
        self.guests.append(made)
        return made

    async def prepare(self, old: str) -> None:
        """`old` is a position of a while ago."""
        for n in (0, 1):
            live = self.guest(n, f"live {n}")
            await subscribed(live, *CHANNELS)
            await eventually(partial(is_live, live))
        lagging = self.guest(0, "lagging")
        await subscribed(lagging, *CHANNELS)
        lagging.sink.slow = True
        lagging.sink.unsent = 1 << 20
        for n in (0, 1):
            fed = self.guest(n, f"fed {n}")
            fed.sink.slow = True
            await subscribed(fed, *CHANNELS, position=old)
            rows = self.guest(n, f"rows {n}")
            rows.sink.slow = True
            await subscribed(rows, "safe:owner=a", snapshot=True)

    async def take(self, how: str, *, first: bool, secret: str) -> None:
        taking = TAKE[how] % self.number if "%d" in TAKE[how] else TAKE[how]
        await self.database.execute(";".join([taking, secret] if first else [secret, taking]))

    async def check(self) -> None:
        for n in (0, 1):  # after the right was taken: perhaps of a server that has not come so far
            await self.guest(n, f"late {n}").subscribe(*CHANNELS)
            refused = await Guest(self.servers[n], user(f"u{self.number}", round=self.number)).subscribe(
                "safe", snapshot=True
            )
            assert refused["code"] == "forbidden"  # the rows would have the secret
        for guest in self.guests:
            guest.sink.slow = False
            guest.sink.take()
        for guest in self.guests:
            for channel in [c for m in guest.messages if m["type"] == "subscribed" for c in m["channels"]]:
                await eventually(partial(guest.lost, channel), 30, f"{guest.name} is told of {channel}")
            assert not guest.saw(f'secret {self.number}"'), (self.number, guest.name, guest.messages)
            guest.close()


async def subscribed(guest: Guest, *channels: str, position: str | None = None, snapshot: bool = False) -> None:
    answer = await guest.subscribe(*channels, position=position, snapshot=snapshot)
    assert answer["type"] == "subscribed", answer


@pytest.mark.parametrize("part", range(PARTS))
async def test_revoke_and_insert_the_secret_leaks_nothing_and_who_keeps_the_right_misses_nothing(
    database: Database, both: list[Server], figures: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(app.stream.rights, "LOAD_SECONDS", 0.02)  # each round is refused four times
    await database.execute(SETUP)
    keepers = [Guest(server, user("keeper", role="keeper"), f"keeper {n}") for n, server in enumerate(both)]
    for keeper in keepers:
        await subscribed(keeper, *CHANNELS)
    await database.execute(FILL)
    old = await database.value("SELECT realtime.position()")
    secrets = 0
    for number in range(part * ROUNDS, (part + 1) * ROUNDS):
        if number % 8 == 0:
            old = await database.value("SELECT realtime.position()")
        await database.execute(f"{GRANT % number}; {FILL}")
        play = Round(database, both, number)
        await play.prepare(old)
        secret = (SECRET, MOVED)[number % 5 == 4].replace("%d", str(number))
        await play.take(list(TAKE)[number % 3], first=number % 2 == 0, secret=secret)
        await play.check()
        secrets += secret.count("secret")
        await database.execute("DELETE FROM realtime.policies WHERE name = 'round'; DELETE FROM safe WHERE owner = 'a'")
    final = await database.value("SELECT realtime.position()")
    async with await database.connect() as connection:
        truth = await Truth.read(connection, "safe")
    for keeper in keepers:
        await eventually(partial(has_reached, keeper, both[0]), 60)
        found = judge(keeper.stream, truth, final=final)
        assert not found, f"{keeper.name}: {report(found)}"
        keeper.close()
    figures(f"revoke and insert: {ROUNDS} rounds, {secrets} secrets, none seen by whom the right was taken from")


def is_live(guest: Guest) -> bool:
    return guest.live


def has_reached(guest: Guest, server: Server) -> bool:
    position = guest.stream.position
    return position is not None and token.read(position).contains(token.read(server.broadcaster.point.token or ""))
