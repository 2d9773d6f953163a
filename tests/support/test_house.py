"""The test house: the cluster, its faults and the proxy do what the tests believe of them."""

import asyncio

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.facts import eventually
from tests.support.proxy import Proxy


async def test_a_database_is_fresh_and_answers(empty_database: Database) -> None:
    assert await empty_database.value("SELECT current_database()") == empty_database.name
    assert await empty_database.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'realtime'") == []


def test_a_killed_cluster_comes_back_with_what_was_committed(own_cluster: Cluster) -> None:
    own_cluster.execute("CREATE TABLE kept AS SELECT 1 AS one")
    own_cluster.execute("CHECKPOINT")
    own_cluster.kill9()
    with pytest.raises(psycopg.OperationalError):
        own_cluster.execute("SELECT 1")
    own_cluster.start()
    assert own_cluster.execute("SELECT one FROM kept") == [(1,)]


async def test_the_proxy_cuts_stalls_and_resumes(empty_database: Database, proxy: Proxy) -> None:
    connection = await psycopg.AsyncConnection.connect(proxy.url(empty_database.name), autocommit=True)
    proxy.stall()
    answer = asyncio.ensure_future(connection.execute("SELECT 1"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(answer), 0.1)
    proxy.resume()
    assert await (await answer).fetchone() == (1,)
    proxy.cut()
    await eventually(lambda: proxy.open == 0, 5, "every connection cut")
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")
    await connection.close()


async def test_a_deaf_proxy_carries_one_way_only(empty_database: Database, proxy: Proxy) -> None:
    connection = await psycopg.AsyncConnection.connect(proxy.url(empty_database.name), autocommit=True)
    proxy.deaf()
    unheard = asyncio.ensure_future(connection.execute("CREATE TABLE heard ()"))
    await eventually(lambda: empty_database.execute("SELECT 1 FROM pg_class WHERE relname = 'heard'"), 5, "carried in")
    assert not unheard.done()
    proxy.cut()
    with pytest.raises(psycopg.OperationalError):
        await unheard
    await connection.close()
