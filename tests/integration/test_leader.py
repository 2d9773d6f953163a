"""Leading: one at a time, another when it goes or falls silent, and the partitions turned meanwhile."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import psycopg
import pytest

from app.model.observations import (
    ConnectFailed,
    EventLogState,
    EventLogTurnBlocked,
    EventLogTurned,
    EventLogTurnFree,
    Gate,
    LeaderEnded,
    Led,
    Observation,
    QueueUsage,
    Resigned,
    StrangerAtLock,
    WatchProblem,
)
from app.model.position import Snapshot
from app.postgres import leader as module
from app.postgres import partitions
from app.postgres.event_log import PostgresEventLog
from app.postgres.leader import Leader
from app.postgres.partitions import Retention
from harness.cluster import ROOT, Cluster, clean_environment, migrate
from harness.database import Database
from harness.facts import eventually, holds
from tests.support.proxy import Proxy

HOUR = Retention(timedelta(hours=1), 1 << 30)


class Candidate:
    """A server as far as leading goes."""

    def __init__(self, url: str, retention: Retention = HOUR) -> None:
        self.observed: list[Observation] = []
        self.log = PostgresEventLog(url, self.observed.append)
        self.commits = 0
        self.beats = 0
        self.leader = Leader(
            url,
            retention,
            pull=self.pull,
            beat=self.beat,
            published=lambda: self.position,
            observe=self.observed.append,
        )
        self.position = Snapshot(1)

    async def pull(self) -> int:
        batch = await self.log.difference(self.position)
        if batch is None:
            return 0
        self.position = batch.upto
        self.commits += len(batch.transactions or ())
        return 1

    async def beat(self) -> None:
        self.beats += 1

    def count(self, kind: type[Observation]) -> int:
        return sum(isinstance(o, kind) for o in self.observed)

    def told(self, what: str) -> list[str]:
        return [o.error for o in self.observed if isinstance(o, ConnectFailed) and o.what == what]

    def parked(self) -> bool:
        return [o.hot for o in self.observed if isinstance(o, Gate)][-1:] == [False]


@asynccontextmanager
async def candidate(url: str, retention: Retention = HOUR) -> AsyncIterator[Candidate]:
    made = Candidate(url, retention)
    made.position = (await made.log.head()).position
    task = asyncio.create_task(made.leader.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await made.log.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A house kept every few milliseconds instead of every second."""
    monkeypatch.setattr(module, "TRY_SECONDS", 0.02)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(partitions, "SETTLED_SECONDS", 0.1)


@pytest.mark.usefixtures("quick")
async def test_one_leads_and_the_other_takes_over_when_it_stops(database: Database) -> None:
    async with candidate(database.url) as second_to_last:
        async with candidate(database.url) as first:
            await eventually(lambda: first.leader.leading or second_to_last.leader.leading)
            leading, waiting = (first, second_to_last) if first.leader.leading else (second_to_last, first)
            await database.execute("INSERT INTO posts (author_id) VALUES (1)")
            await eventually(lambda: leading.commits == 1)
            await eventually(lambda: leading.beats > 3)
            assert (waiting.commits, waiting.beats, waiting.count(Led)) == (0, 0, 0)
            assert leading.count(EventLogState) == 1  # those of an hour are turned every five seconds
        await eventually(lambda: second_to_last.leader.leading)
        await eventually(lambda: second_to_last.commits == 1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("purpose", ["leader", "gate", "live"])
async def test_a_leader_that_loses_any_connection_starts_over_and_misses_nothing(
    database: Database, purpose: str
) -> None:
    async with candidate(database.url) as server:
        await eventually(lambda: server.leader.leading)
        await eventually(server.parked)
        ended = await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            f"sobranie {purpose}",
        )
        assert ended == [(True,)]
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await eventually(lambda: server.count(Resigned) == 1)
        await eventually(lambda: server.commits == 1)
        await eventually(lambda: server.leader.leading)
        assert server.count(Led) == 2
        held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
        await eventually(lambda: _is(database, held, 1, f"sobranie {purpose}"))


async def _is(database: Database, query: str, value: int, *parameters: object) -> bool:
    return bool(await database.value(query, *parameters) == value)


@pytest.mark.usefixtures("quick")
async def test_a_silent_leader_is_ended_and_replaced(database: Database, proxy: Proxy) -> None:
    """Its line carries nothing, and its backends keep the lock and the gate."""
    async with candidate(proxy.url(database.name)) as silent:
        await eventually(lambda: silent.leader.leading)
        await eventually(silent.parked)
        proxy.stall()
        async with candidate(database.url) as server:
            assert not server.leader.leading

            async def ended() -> bool:
                await server.leader.terminate_stale(5.0)
                return server.count(LeaderEnded) > 0

            await eventually(ended, 10, "it has kept no house for half of that")
            assert server.count(LeaderEnded) == 2
            await eventually(lambda: server.leader.leading)
            await database.execute("INSERT INTO posts (author_id) VALUES (1)")
            await eventually(lambda: server.commits == 1)
            await eventually(server.parked)  # the gate was let go of, too
        proxy.resume()


@pytest.mark.usefixtures("quick")
async def test_the_ring_turns_by_age_up_to_what_is_published_and_its_state_is_observed(database: Database) -> None:
    async with candidate(database.url, Retention(timedelta(seconds=0.2), 1 << 30)) as server:
        start = server.position

        async def turned() -> bool:
            await database.execute("INSERT INTO posts (author_id) SELECT g FROM generate_series(1, 100) g")
            return server.count(EventLogTurned) > 0

        await eventually(turned, every=0.1)
        floor = Snapshot.parse(await database.value("SELECT floor::text FROM realtime.event_log_state"))
        assert server.position.contains(floor)
        assert not start.contains(floor)
        states = [o for o in server.observed if isinstance(o, EventLogState)]
        assert len(states) > server.beats / 3  # a short one's as fast as it needs
        assert all(0 < o.bytes < 1 << 26 for o in states)
        assert all(0 <= o.age_seconds < states[0].age_seconds + 60 for o in states)  # the first is of the template
        assert all(o.ratio < 0.01 for o in server.observed if isinstance(o, QueueUsage))


@pytest.mark.usefixtures("quick")
async def test_a_log_that_cannot_turn_is_told_with_who_is_in_the_way_and_what_ends_it(database: Database) -> None:
    reader = await database.connect(autocommit=False)
    async with candidate(database.url, Retention(timedelta(seconds=0.2), 1)) as server:
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await reader.execute("LOCK TABLE realtime.events IN ACCESS SHARE MODE")
        await eventually(lambda: server.leader.blocked)
        await eventually(lambda: server.leader.blocked and server.leader.blocked.seconds > 0.5)
        blocked = server.leader.blocked
        assert blocked is not None
        assert f"process {reader.info.backend_pid} " in blocked.reason
        assert "idle in transaction, waits for Client ClientRead" in blocked.reason
        state = next(o for o in reversed(server.observed) if isinstance(o, EventLogState))
        assert state.blocked_seconds > 0.5
        assert 0 < state.excess_bytes == state.bytes - 1
        assert server.count(EventLogTurnBlocked) == 1  # however often it was looked at
        assert await database.value(blocked.remedy)
        await eventually(lambda: server.leader.blocked is None)
        await eventually(lambda: server.count(EventLogTurnFree) == 1)
        await eventually(lambda: server.count(EventLogTurned) > 0)
    await reader.close()


@pytest.mark.usefixtures("quick")
async def test_a_purge_is_made_at_once_by_the_leader_without_passing_what_it_published(database: Database) -> None:
    async with candidate(database.url) as server:
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await eventually(lambda: server.commits == 1)
        n = await database.value("SELECT realtime.purge()")
        await eventually(lambda: _is(database, "SELECT done IS NOT NULL FROM realtime.purges WHERE n = %s", True, n))
        assert await database.value("SELECT count(*) FROM realtime.events") == 0
        assert server.position.contains(
            Snapshot.parse(await database.value("SELECT floor::text FROM realtime.event_log_state"))
        )
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await eventually(lambda: server.commits == 2)


@pytest.mark.usefixtures("quick")
async def test_a_watch_that_is_not_whole_is_reported_with_its_remedy_until_it_is_mended(database: Database) -> None:
    async with candidate(database.url) as server:
        await database.execute("DROP TRIGGER realtime_update ON posts")
        await eventually(lambda: bool(server.leader.problems))
        (problem,) = server.leader.problems
        assert (problem.schema, problem.table) == ("public", "posts")
        assert server.count(WatchProblem) >= 1
        await database.execute(problem.remedy)
        await eventually(lambda: not server.leader.problems)


async def test_two_phase_commit_works_beside_a_leader_and_is_read_once(own_cluster: Cluster) -> None:
    own_cluster.settings["max_prepared_transactions"] = "5"
    own_cluster.restart()
    own_cluster._ddl("CREATE DATABASE served")
    migrate(own_cluster.url("served"))
    database = Database(own_cluster, "served")
    async with candidate(database.url) as server:
        await eventually(lambda: server.leader.leading)
        await eventually(lambda: server.beats > 1)
        async with await database.connect() as writer:
            for name in ("kept", "gone"):
                await writer.execute(f"BEGIN; INSERT INTO posts (author_id, title) VALUES (1, '{name}')".encode())
                await writer.execute(f"PREPARE TRANSACTION '{name}'".encode())
        await database.execute("SELECT realtime.purge()")
        await eventually(lambda: server.leader.blocked, timeout=20)
        blocked = server.leader.blocked
        assert blocked is not None
        assert blocked.reason.startswith("the prepared transaction 'kept' holds a lock on the event log")
        assert blocked.reason.endswith(", and 1 more")
        assert blocked.remedy == "COMMIT PREPARED 'kept' (or ROLLBACK PREPARED 'kept')"
        own_cluster.kill9()
        own_cluster.start()
        await database.execute("COMMIT PREPARED 'kept'")
        await database.execute("ROLLBACK PREPARED 'gone'")
        await eventually(lambda: server.commits == 1, timeout=20)
        await database.execute("INSERT INTO posts (author_id) VALUES (2)")
        await eventually(lambda: server.commits == 2)


STOPPED = """
import asyncio, sys
from tests.integration.test_leader import candidate
from harness.facts import eventually, holds
async def main():
    async with candidate(sys.argv[1]) as server:
        await eventually(lambda: server.leader.leading, 60)
        print("leading", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_stopped_process_that_leads_is_ended_and_replaced(database: Database) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOPPED, database.url, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=clean_environment()
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"leading\n"
        os.kill(process.pid, signal.SIGSTOP)
        async with candidate(database.url) as server:
            with pytest.raises(AssertionError):
                await eventually(lambda: server.leader.leading, timeout=1.5)

            async def leads() -> bool:
                await server.leader.terminate_stale(5.0)
                return server.leader.leading

            await eventually(leads, 10, "it has kept no house for half of that")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def test_leading_needs_no_right_beyond_the_readers(database: Database) -> None:
    await database.execute("CREATE ROLE leads LOGIN IN ROLE realtime_reader")
    try:
        async with candidate(database.cluster.url(database.name, user="leads")) as server:
            await eventually(lambda: server.leader.leading)
            await eventually(lambda: server.count(EventLogState) > 0)
            await server.leader.terminate_stale(5.0)
            assert server.count(LeaderEnded) == 0  # it keeps house
            await server.leader.terminate_stale(0.0)
            await eventually(lambda: server.count(Resigned) == 1)
    finally:
        with suppress(psycopg.errors.UndefinedObject):
            await database.execute("DROP ROLE leads")


@asynccontextmanager
async def role(database: Database, name: str, *, of: str = "") -> AsyncIterator[Database]:
    """A role that may log in, and a database as it sees it. Its sessions end with it."""
    await database.execute(f"CREATE ROLE {name} LOGIN {of}")
    try:
        yield Database(database.cluster, database.name, name)
    finally:
        await database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", name)
        gone = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
        await eventually(lambda: _is(database, gone, 0, name))
        await database.execute(f"DROP ROLE {name}")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["", "_shared"])
async def test_a_stranger_who_takes_the_leaders_lock_keeps_nobody_from_leading_and_is_told(
    database: Database, kind: str
) -> None:
    async with role(database, "anybody") as stranger, await stranger.connect() as holder:
        await holder.execute(f"SELECT pg_advisory_lock{kind}(1919247220, 2)".encode())
        pid = holder.info.backend_pid
        async with candidate(database.url) as first:
            await eventually(lambda: first.leader.leading, 2)
            await eventually(lambda: first.leader.strangers)
            (told,) = first.leader.strangers
            assert (told.pid, told.role, told.lock) == (pid, "anybody", "the leader's lock")
            async with candidate(database.url) as second:  # the key that was taken instead keeps it out
                await holds(lambda: first.leader.leading and not second.leader.leading, 0.3)
                assert first.count(StrangerAtLock) == 1
                assert await database.value(told.remedy)
                await eventually(lambda: not first.leader.strangers)
                await second.leader.terminate_stale(0.0)
                await eventually(lambda: first.count(Resigned) == 1)


@pytest.mark.usefixtures("quick")
async def test_a_stranger_in_the_queue_of_the_leaders_lock_delays_its_successor_by_nothing(database: Database) -> None:
    async with (
        role(database, "anybody") as stranger,
        await stranger.connect() as waiter,
        candidate(database.url) as old,
    ):
        await eventually(lambda: old.leader.leading)
        waiting = asyncio.create_task(waiter.execute("SELECT pg_advisory_lock_shared(1919247220, 2)"))
        await eventually(lambda: old.leader.strangers)
        async with candidate(database.url) as new:
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'sobranie leader'"
                " AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock')"
            )
            await waiting
            await eventually(lambda: old.leader.leading or new.leader.leading, 2)


@pytest.mark.usefixtures("quick")
async def test_a_stranger_at_the_gate_is_told_and_a_writer_is_none(database: Database) -> None:
    async with role(database, "anybody") as stranger, candidate(database.url) as server:
        await database.execute(
            "GRANT INSERT ON posts TO anybody; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO anybody"
        )
        async with await stranger.connect(autocommit=False) as writer, await stranger.connect() as holder:
            await eventually(lambda: server.leader.leading)
            await writer.execute("INSERT INTO posts (author_id) VALUES (1)")
            await holder.execute("SELECT pg_advisory_lock_shared(1919247220, 1)")
            await eventually(lambda: server.leader.strangers)
            assert [(s.pid, s.lock) for s in server.leader.strangers] == [(holder.info.backend_pid, "the gate")]
            await writer.rollback()
            await database.execute("INSERT INTO posts (author_id) VALUES (1)")
            await eventually(lambda: server.commits == 1, 2)
        await database.execute(
            "REVOKE ALL ON posts FROM anybody; REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM anybody"
        )


@pytest.mark.usefixtures("quick")
async def test_a_stranger_who_prepares_a_statement_on_our_tables_keeps_no_server_out_and_is_told(
    database: Database,
) -> None:
    """PREPARE locks a statement's tables before it asks for a right."""
    await database.execute("SELECT realtime.incarnate()")
    async with role(database, "anybody") as stranger, await stranger.connect(autocommit=False) as holder:
        for table in ("generations", "incarnation"):
            await holder.execute(f"PREPARE of_{table} AS DELETE FROM realtime.{table}".encode())
        await database.execute("DELETE FROM realtime.alive")  # as a crash does: the next server begins an incarnation
        async with candidate(database.url) as server:
            await eventually(lambda: server.leader.strangers)
            assert [(s.pid, s.lock) for s in server.leader.strangers] == [
                (holder.info.backend_pid, "realtime.generations")
            ]
            assert await database.value("SELECT fresh FROM realtime.incarnate()") is False


FORBID = """
CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE insufficient_privilege USING MESSAGE = 'no DDL here'; END $$;
CREATE EVENT TRIGGER forbid ON ddl_command_end EXECUTE FUNCTION forbid()"""


@pytest.mark.usefixtures("quick")
async def test_where_an_event_trigger_forbids_all_ddl_the_partitions_turn_and_changes_flow(database: Database) -> None:
    async with candidate(database.url, Retention(timedelta(seconds=0.2), 1 << 30)) as server:
        await database.execute(FORBID)

        async def turned() -> bool:
            await database.execute("INSERT INTO posts (author_id) VALUES (1)")
            return server.count(EventLogTurned) > 4

        await eventually(turned, every=0.05)
        assert server.leader.blocked is None
        assert server.count(Led) == 1
        await database.execute("DROP EVENT TRIGGER forbid")


@pytest.mark.usefixtures("quick")
async def test_what_the_database_refuses_the_leader_is_told_with_the_reason_and_ends_nothing(
    database: Database,
) -> None:
    await database.execute("SELECT realtime.incarnate()")  # a copy of a database makes its capture functions anew
    await database.execute("ALTER TABLE posts ADD more int; " + FORBID)  # the check would make a new capture function
    async with candidate(database.url) as server:
        await eventually(lambda: server.leader.problems)
        (problem,) = server.leader.problems
        assert (problem.schema, problem.table) == ("realtime", "check()")
        assert "no DDL here (PL/pgSQL function " in problem.problem
        assert "forbid()" in problem.problem
        assert "event trigger forbid (function public.forbid()) forbids it" in problem.problem
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await eventually(lambda: server.commits == 1)
        assert server.count(Led) == 1
        await database.execute(problem.remedy)
        await eventually(lambda: not server.leader.problems)
        await database.execute("DROP EVENT TRIGGER forbid")
    await database.execute("ALTER TABLE realtime.recorded ADD CHECK (false) NOT VALID")
    async with candidate(database.url, Retention(timedelta(seconds=0.2), 1 << 30)) as server:
        await eventually(lambda: server.leader.blocked)
        assert server.leader.blocked is not None
        assert "recorded_check" in server.leader.blocked.reason
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await eventually(lambda: server.commits >= 1)
        await database.execute("ALTER TABLE realtime.recorded DROP CONSTRAINT recorded_check")
        await eventually(lambda: server.leader.blocked is None)
        assert server.count(Led) == 1


async def test_why_a_connection_cannot_be_made_again_is_told_once_for_each_reason(database: Database) -> None:
    async with role(database, "serves", of="IN ROLE realtime_reader") as same, candidate(same.url) as server:
        await eventually(lambda: server.leader.leading)
        await database.execute("ALTER ROLE serves NOLOGIN")
        await database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'serves'")
        await eventually(lambda: any("not permitted to log in" in text for text in server.told("leader")))
        await holds(lambda: len(server.told("leader")) <= 2, 1.0)
        await database.execute("ALTER ROLE serves LOGIN")
        await eventually(lambda: server.leader.leading)
