"""One connection, case by case: what the random schedules of test_flow do not single out."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import app.model.position
from app.clients.registry import BEATS
from app.model.errors import DatabaseAway, ResetReason
from app.model.position import Position, Snapshot
from harness.facts import turn
from tests.unit.log_model import World
from tests.unit.stage import Stage, joined, keys, link


async def test_a_client_that_comes_with_a_position_gets_what_it_missed_and_then_the_live_stream(stage: Stage) -> None:
    start = stage.token
    missed = [await stage.commit() for _ in range(3)]
    client = stage.client()
    client.subscribe(["posts"], start)
    await stage.until(joined(client, "posts"))
    await stage.until(lambda: keys(client) == missed)
    live = await stage.commit()
    await stage.until(lambda: keys(client) == [*missed, live])


async def test_its_own_position_is_not_sent_back_while_more_is_to_come(stage: Stage) -> None:
    """It would close the unit of which the client may hold the beginning from a connection that broke."""
    start = stage.token
    await stage.commit()
    client = stage.client()
    client.subscribe(["posts"], start)
    await stage.until(lambda: keys(client))
    told = [line for line in client.diary if "'position'" in line and "'subscribed'" not in line]
    assert len(told) == 1
    assert start not in told[0]


async def test_at_the_front_its_own_position_says_that_it_has_joined(stage: Stage) -> None:
    client = stage.client()
    client.subscribe(["posts"], stage.token)
    await stage.until(joined(client, "posts"))
    assert client.stream.position == stage.token


@pytest.mark.parametrize(
    ("channels", "code"),
    [
        (["nothing"], "bad_channel"),
        (["posts:title=x"], "bad_channel"),
        (["posts:id=042"], "bad_channel"),
        (["posts:id=x"], "bad_channel"),
        (["notes", "posts:"], "bad_channel"),
        (["notes", "room/lobby"], "bad_channel"),
        (["posts"], "bad_request"),
        (["notes", "posts"], "bad_request"),
        (["notes", "notes"], "bad_request"),
        ([f"notes:id={n}" for n in range(1001)], "bad_request"),
    ],
)
async def test_a_subscribe_that_fails_changes_nothing(stage: Stage, channels: list[str], code: str) -> None:
    client = stage.client()
    client.subscribe(["posts"], None)
    await stage.until(joined(client, "posts"))
    hub = stage.server.broadcaster.hub
    before = {name: channel.users for name, channel in hub._channels.items()}
    answers: list[Any] = []
    link(client).command(type="subscribe", id="mine", channels=channels)
    client.receive = answers.append  # type: ignore[method-assign, assignment]
    await stage.until(lambda: answers)
    assert [(a["type"], a["code"], a.get("id")) for a in answers] == [("error", code, "mine")]
    assert {name: channel.users for name, channel in hub._channels.items()} == before
    await stage.commit()
    assert answers[1]["changes"][0]["channel"] == "posts"


async def test_an_unsubscribe_of_what_is_not_there_changes_nothing(stage: Stage) -> None:
    client = stage.client()
    client.subscribe(["posts"], None)
    await stage.until(joined(client, "posts"))
    link(client).command(type="unsubscribe", channels=["posts", "notes"])
    await stage.turns()
    assert "is not subscribed" in client.diary[-1]
    key = await stage.commit()
    assert keys(client) == [key]


async def test_a_position_ahead_of_the_server_is_reached_first(stage: Stage) -> None:
    client = stage.client()
    client.subscribe(["notes"], None)
    await stage.until(joined(client, "notes"))
    await stage.commit(pull=False)
    ahead = Position(1, "00000001", stage.world.now()).encode()
    after = await stage.commit(pull=False)
    client.subscribe(["posts"], ahead)
    await stage.until(joined(client, "posts"))
    assert keys(client) == [after]
    assert not client.stream.resets


async def test_transactions_that_wrote_nothing_make_no_position_of_another_server_invalid(stage: Stage) -> None:
    silent = stage.world.begin()
    await stage.commit()
    stage.world.rollback(silent)
    ahead = Position(1, "00000001", stage.world.now())
    assert not stage.server.broadcaster.point.snapshot.contains(ahead.snapshot)
    client = stage.client()
    client.subscribe(["posts"], ahead.encode())
    await stage.until(joined(client, "posts"))
    assert not client.stream.resets


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ("", "invalid"),
        ("nonsense", "invalid"),
        (Position(1, "00000001", Snapshot(10**18)).encode(), "invalid"),
        (Position(1, "ffffffff", Snapshot(100)).encode(), "foreign"),
        (Position(9, "00000009", Snapshot(100)).encode(), "foreign"),
        (Position(1, "00000001", Snapshot(50)).encode(), "expired"),
    ],
)
async def test_a_position_that_cannot_be_honoured_is_one_reset_from_which_the_stream_goes_on(
    stage: Stage, position: str, reason: str
) -> None:
    client = stage.client()
    client.subscribe(["posts", "notes"], position)
    await stage.until(lambda: client.stream.resets)
    (reset,) = client.stream.resets
    assert (reset["channels"], reset["reason"]) == (["posts", "notes"], reason)
    assert reset["position"] == stage.token
    key = await stage.commit()
    await stage.until(lambda: keys(client) == [key])


async def test_a_client_behind_what_left_the_log_is_overrun_and_memory_serves_none_of_it(stage: Stage) -> None:
    """Its position was good when it was looked at: the partitions turned before it was read (adversarial 28)."""
    start = stage.token
    for _ in range(3):
        await stage.commit()
    broadcaster, gone = stage.server.broadcaster, stage.world.now()
    await stage.commit()

    async def accept(position: Position) -> None:
        await World.accept(stage.world, position)
        stage.world.horizon = gone
        broadcaster.forget(gone)

    stage.world.accept = accept  # type: ignore[method-assign]
    client = stage.client()
    client.subscribe(["posts"], start)
    await stage.until(lambda: client.stream.resets)
    assert [r["reason"] for r in client.stream.resets] == ["overrun"]
    assert keys(client) == []
    assert not any(s.holds(gone) for s in broadcaster.history.stretches)
    after = await stage.commit()
    await stage.until(lambda: keys(client) == [after])


async def test_a_route_that_is_gone_is_told_also_when_the_database_is_away_just_then(stage: Stage) -> None:
    client = stage.client()
    client.subscribe(["posts:author_id=1", "posts"], None)
    await stage.until(joined(client, "posts"))
    stage.world.alter("posts", None)
    await stage.server.broadcaster.pull()
    stage.world.away = True
    await stage.turns()
    assert "posts:author_id=1" in client.stream.open
    stage.world.away = False
    await stage.until(lambda: "posts:author_id=1" not in client.stream.open)
    assert {r["reason"] for r in client.stream.resets} == {"schema"}
    key = await stage.commit()
    assert keys(client)[-1] == key


async def test_a_lost_database_between_units_is_waited_for(stage: Stage) -> None:
    start = stage.token
    missed = [await stage.commit() for _ in range(8)]
    stage.server.broadcaster.history.restart(stage.server.broadcaster.point.snapshot)
    client = stage.client()
    link(client).stall(True)
    client.subscribe(["posts"], start)
    await stage.turns()
    stage.world.away = True
    link(client).stall(False)
    await stage.turns()
    assert client.connected
    stage.world.away = False
    await stage.until(lambda: keys(client) == missed)
    assert client.connected


async def test_a_database_lost_in_the_midst_of_a_unit_ends_the_connection_rather_than_repeat(stage: Stage) -> None:
    client = stage.client()
    client.subscribe(["posts"], None)
    await stage.until(joined(client, "posts"))
    first = stage.token
    assert link(client).connection.session.point is not None
    missed = [await stage.commit() for _ in range(8)]
    stage.server.broadcaster.history.restart(stage.server.broadcaster.point.snapshot)

    async def stretches(since: Snapshot, upto: Snapshot) -> AsyncIterator[Any]:
        async for stretch in World.stretches(stage.world, since, upto):
            yield stretch
            raise DatabaseAway("gone")

    stage.world.stretches = stretches  # type: ignore[method-assign]
    client.subscribe(["posts:author_id=1"], first)
    await stage.until(lambda: not client.connected)
    assert keys(client) == missed
    assert "posts:author_id=1" in client.stream.pending


async def test_a_server_that_lost_its_position_tells_the_live_and_sends_away_the_others(stage: Stage) -> None:
    start = stage.token
    live, fed = stage.client(), stage.client()
    live.subscribe(["posts"], None)
    await stage.until(joined(live, "posts"))
    for _ in range(30):
        await stage.commit()
    link(fed).stall(True)
    stage.server.broadcaster.history.restart(stage.server.broadcaster.point.snapshot)
    fed.subscribe(["posts"], start)
    await stage.until(lambda: link(fed).backlog() > 400)
    stage.server.broadcaster.rebase(stage.world.start(), ResetReason.LOST)
    await stage.until(lambda: live.stream.resets and not fed.connected)
    assert live.stream.resets[0]["reason"] == "lost"
    key = await stage.commit()
    await stage.until(lambda: keys(live)[-1:] == [key])


async def test_who_vanishes_in_the_midst_of_a_subscribe_leaves_nothing(stage: Stage) -> None:
    start = stage.token
    for _ in range(20):
        await stage.commit()
    for turns in range(40):
        client = stage.client()
        client.subscribe(["notes"], None)
        client.subscribe(["posts"], start)
        for _ in range(turns):
            await turn()
        client.cut(cancel=turns % 2 == 0)
    await asyncio.gather(*(made.task for c in stage.clients for made in c.links), return_exceptions=True)
    await stage.until(stage.server.spotless)


async def test_pings_do_not_stand_in_for_positions(stage: Stage) -> None:
    client = stage.client()
    client.subscribe(["notes"], None)
    await stage.until(joined(client, "notes"))
    await stage.commit()
    heart = asyncio.create_task(stage.server.registry.beat())

    def ping() -> bool:
        link(client).command(type="ping", id=1)
        return client.stream.position == stage.token

    try:
        await stage.until(ping)
    finally:
        heart.cancel()


async def test_heartbeats_leave_the_loop_to_others_and_tell_where_the_server_is_by_then(stage: Stage) -> None:
    clients = [stage.client() for _ in range(3 * BEATS)]
    for client in clients:
        client.subscribe(["notes"], None)
    await stage.until(lambda: all(joined(client, "notes")() for client in clients))
    told = list[str]()
    for client in clients:
        link(client).connection.outbox.quiet = True
        client.receive = lambda message: told.append(message["position"])  # type: ignore[method-assign]
    before, heart = stage.token, asyncio.create_task(stage.server.registry.beat())
    await stage.until(lambda: told)
    assert len(told) == BEATS
    await stage.commit()
    since = len(told)
    await stage.until(lambda: len(told) > since + len(clients))
    heart.cancel()
    assert told[0] == before
    assert set(told[since:]) == {stage.token}


async def test_a_live_client_whose_position_is_withheld_hears_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, told = stage.client(), list[Any]()
    client.subscribe(["notes"], None)
    await stage.until(joined(client, "notes"))
    monkeypatch.setattr(app.model.position, "TOKEN_LIMIT", 1)
    await stage.commit()
    assert stage.server.broadcaster.point.token is None
    client.receive = told.append  # type: ignore[method-assign, assignment]
    for _ in range(3):
        await stage.server.registry._round()
    assert told[-2:] == [{"type": "pong"}] * 2
    assert not [message for message in told if "position" in message]


async def test_the_answer_to_a_ping_and_to_what_is_no_json(stage: Stage) -> None:
    client = stage.client()
    answers: list[Any] = []
    client.receive = answers.append  # type: ignore[method-assign, assignment]
    for text in (json.dumps({"type": "ping", "id": "x"}), "{", json.dumps({"type": "nope", "id": 7})):
        await link(client).connection.receive(text)
    told = [a for a in answers if a["type"] != "welcome"]
    assert told[0] == {"type": "pong", "id": "x"}
    assert [(a["code"], a.get("field"), a.get("id")) for a in told[1:]] == [
        ("bad_request", None, None),
        ("bad_request", "type", 7),
    ]
