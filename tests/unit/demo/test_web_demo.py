"""The demo page's interface on a real PostgreSQL: what it writes, and how it says what is wrong."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from aiohttp import ClientSession, TCPConnector

from app.demo import pages
from app.demo.pages import Demo
from app.model.errors import DatabaseAway
from app.web.origins import same_origin
from harness.database import Database
from tests.unit.house import House, running

BIG = 1 << 63


@pytest.fixture
async def house(database: Database) -> AsyncIterator[House]:
    async def connect() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(database.url, autocommit=True)

    async with running(Demo(connect, "psql 'postgresql://somewhere'", same_origin)) as house:
        yield house


@pytest.fixture
async def http(house: House) -> AsyncIterator[ClientSession]:
    async with ClientSession(house.url) as http:
        yield http


async def asked(http: ClientSession, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    async with http.request(method, f"/demo/{path}", json=body) as answer:
        return answer.status, await answer.json()


async def test_a_post_is_written_changed_and_deleted(http: ClientSession, database: Database) -> None:
    status, made = await asked(http, "POST", "posts", {"author_id": 7, "title": "one", "body": "<b> \ud800 é"})
    assert status == 201
    row = made["row"]
    assert (await asked(http, "PATCH", f"posts/{row}", {"title": "two"}))[0] == 200
    rows = await database.execute("SELECT author_id, title, body FROM posts")
    assert rows == [(7, "two", "<b> \ufffd é")]
    assert (await asked(http, "DELETE", f"posts/{row}"))[0] == 200
    assert (await asked(http, "DELETE", f"posts/{row}"))[0] == 404


async def test_a_notification_is_read_and_unread(http: ClientSession, database: Database) -> None:
    _, made = await asked(http, "POST", "notifications", {"user_id": 42, "body": "hello"})
    for read in (True, False):
        assert (await asked(http, "PATCH", f"notifications/{made['row']}", {"read": read}))[0] == 200
        assert await database.execute("SELECT read_at IS NOT NULL FROM notifications") == [(read,)]


async def test_the_state_is_one_cut_with_its_position(http: ClientSession) -> None:
    for n in range(25):
        await asked(http, "POST", "posts", {"author_id": 1, "title": str(n)})
    status, state = await asked(http, "GET", "state")
    assert status == 200
    assert [r["title"] for r in state["rows"]["posts"]] == [str(n) for n in range(24, 4, -1)]
    assert state["rows"]["notifications"] == []
    assert [r["row"] for r in state["rows"]["posts"]] == [str(r["id"]) for r in state["rows"]["posts"]]
    assert state["position"].startswith("a1-")
    assert state["psql"].startswith("psql 'postgresql://somewhere' \\\n  -c \"INSERT INTO posts")


async def test_the_clock_is_the_databases(http: ClientSession, database: Database) -> None:
    [(before,)] = await database.execute("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000")
    _, clock = await asked(http, "GET", "clock")
    [(after,)] = await database.execute("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000")
    assert before - 5 <= clock["now"] <= after + 5


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "words"),
    [
        ("POST", "posts", {"title": "x"}, "author_id", "needed"),
        ("POST", "posts", {"author_id": 1, "title": " "}, "title", "needed"),
        ("POST", "posts", {"author_id": "1", "title": "x"}, "author_id", "whole number"),
        ("POST", "posts", {"author_id": True, "title": "x"}, "author_id", "whole number"),
        ("POST", "posts", {"author_id": BIG, "title": "x"}, "author_id", "bigint"),
        ("POST", "posts", {"author_id": 1, "title": "x\0"}, "title", "NUL"),
        ("POST", "posts", {"author_id": 1, "title": "x" * 2001}, "title", "2000"),
        ("POST", "posts", {"author_id": 1, "title": "x", "id": 5}, "id", "no field"),
        ("PATCH", "posts/1", {}, None, "nothing to change"),
        ("PATCH", "notifications/1", {"read": 1}, "read", "true or false"),
        ("PATCH", "posts/1", {"title": " "}, "title", "needed"),
        ("PATCH", "posts/1", [], None, "object"),
        ("PATCH", "posts/1", None, None, "application/json"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said(
    http: ClientSession, method: str, path: str, body: object, field: str | None, words: str
) -> None:
    status, said = await asked(http, method, path, body)
    assert (status, said.get("field")) == (400, field)
    assert words in said["error"]


async def test_both_ends_of_bigint_are_keys_and_values(http: ClientSession, database: Database) -> None:
    for number in (-BIG, BIG - 1):
        await database.execute("INSERT INTO posts (id, author_id) VALUES (%s, 1)", number)
        body = {"author_id": number, "title": "end"}
        assert (await asked(http, "PATCH", f"posts/{number}", body))[0] == 200
        assert await database.execute("SELECT id, author_id FROM posts") == [(number, number)]
        assert (await asked(http, "DELETE", f"posts/{number}"))[0] == 200


async def test_a_number_of_more_digits_than_python_reads_is_beyond_bigint(http: ClientSession) -> None:
    headers = {"Content-Type": "application/json"}
    body = '{"author_id": ' + "9" * 5000 + ', "title": "x"}'
    async with http.post("/demo/posts", data=body, headers=headers) as answer:
        said = await answer.json()
        assert (answer.status, said["field"]) == (400, "author_id")
        assert said["error"].startswith("Author must be within bigint")


async def test_a_key_beyond_bigint_is_no_row(http: ClientSession) -> None:
    assert (await asked(http, "DELETE", f"posts/{BIG}"))[0] == 404


async def test_what_the_database_refuses_is_said_in_its_words(http: ClientSession, database: Database) -> None:
    await database.execute("ALTER TABLE posts ADD CHECK (title <> 'forbidden')")
    status, said = await asked(http, "POST", "posts", {"author_id": 1, "title": "forbidden"})
    assert status == 409
    assert "posts_title_check" in said["error"]


async def test_other_sites_may_not_write(http: ClientSession, database: Database) -> None:
    async with http.post(
        "/demo/posts", json={"author_id": 1, "title": "x"}, headers={"Origin": "https://evil.example"}
    ) as answer:
        assert answer.status == 403
    async with http.post(
        "/demo/posts", data='{"author_id": 1, "title": "x"}', headers={"Content-Type": "text/plain"}
    ) as answer:
        assert answer.status == 400
    assert await database.execute("SELECT count(*) FROM posts") == [(0,)]


async def test_the_page_brings_all_that_it_names(http: ClientSession) -> None:
    seen, left = {"/"}, ["/"]
    while left:
        async with http.get(left.pop()) as answer:
            assert answer.status == 200, answer.url
            text = await answer.text()
            if answer.url.path != "/realtime/client.js":
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        named = set(re.findall(r'(?:href=|src=|from )"(/[a-z/]+\.(?:js|css))"', text))
        left += named - seen
        seen |= named
    assert len(seen) == 14


async def test_a_database_that_is_away_is_said() -> None:
    async def away() -> psycopg.AsyncConnection[Any]:
        raise DatabaseAway("no answer")

    async with running(Demo(away, "psql", same_origin)) as house, ClientSession(house.url) as http:
        assert await asked(http, "GET", "state") == (503, {"error": "the database is away: no answer"})


async def test_however_many_write_at_once_few_connections_are_taken_and_each_is_answered(database: Database) -> None:
    open_now = most = 0

    class Counted(psycopg.AsyncConnection[Any]):
        async def close(self) -> None:
            nonlocal open_now
            open_now -= not self.closed
            await super().close()

    async def connect() -> psycopg.AsyncConnection[Any]:
        nonlocal open_now, most
        made = await Counted.connect(database.url, autocommit=True)
        open_now += 1
        most = max(most, open_now)
        return made

    async with running(Demo(connect, "psql", same_origin)) as house, ClientSession(house.url) as http:
        body = {"author_id": 1, "title": "x"}
        answers = await asyncio.gather(*(asked(http, "POST", "posts", body) for _ in range(60)))
        assert {status for status, _ in answers} == {201}
        assert await database.execute("SELECT count(*) FROM posts") == [(60,)]
    assert 1 < most <= pages.CONNECTIONS
    assert open_now == 0


async def test_a_database_that_does_not_answer_is_told_and_holds_nobody_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(pages, "QUEUE", 6)
    connector = TCPConnector(limit=0)

    async def silent() -> psycopg.AsyncConnection[Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async with (
        running(Demo(silent, "psql", same_origin)) as house,
        ClientSession(house.url, connector=connector) as http,
    ):
        for _ in range(2):
            answers = await asyncio.gather(*(asked(http, "GET", "state") for _ in range(20)))
            assert {status for status, _ in answers} == {503}
            said = Counter(answer["error"] for _, answer in answers)
            assert said["not done within 0.3 seconds; try again"] == pages.CONNECTIONS + 6
            assert said["too many requests wait for the database; try again"] == 20 - pages.CONNECTIONS - 6
