"""Tokens against the real process: all ways in, keys that change, and not one secret in what it says."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from harness.database import Database
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support.forge import SECRET, good, jwk, pem, signed
from tests.support.provider import providing

OLD, NEW, FILED = (ed25519.Ed25519PrivateKey.generate() for _ in range(3))


def made(private: ed25519.Ed25519PrivateKey, kid: str, **claims: Any) -> str:
    return jwt.encode(good(aud="us", **claims), private, algorithm="EdDSA", headers={"kid": kid})


async def ask(server: Server, message: dict[str, Any], *before: dict[str, Any], **headers: str) -> dict[str, Any]:
    """The last message before the answer to `message` ends it, on a connection of its own; `close` is its code."""
    async with aiohttp.ClientSession() as http, http.ws_connect(server.url + "/realtime/ws", headers=headers) as ws:
        for said in (*before, message | {"id": 9}):
            await ws.send_json(said)
        answer: dict[str, Any] = {}
        async for frame in ws:
            answer = json.loads(frame.data)
            if answer.get("id") == 9:
                break
        return answer


async def events(server: Server, query: str = "", **headers: str) -> tuple[int, str]:
    url = f"{server.url}/realtime/events?channel=posts{query}"
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        said = (await answer.content.read(4096)).decode()
        return answer.status, said


SUBSCRIBE = {"type": "subscribe", "channels": ["posts"]}


async def test_keys_of_all_kinds_let_in_and_those_that_are_gone_let_nobody_stay(
    database: Database, servers: Servers, tmp_path: Path
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(pem(FILED))
    async with providing() as provider:
        provider.publish(jwk(OLD, "EdDSA", kid="old"))
        server = await servers.start(
            SOBRANIE_JWKS_URL=provider.url,
            SOBRANIE_JWT_AUDIENCE="us",
            SOBRANIE_JWT_SECRET=SECRET,
            SOBRANIE_JWT_PUBLIC_KEY=str(file),
        )
        for token in (made(OLD, "old"), made(FILED, "any"), signed(aud="us")):
            answer = await ask(server, SUBSCRIBE, {"type": "auth", "token": token})
            assert answer["type"] == "subscribed"
        assert (await ask(server, {"type": "auth", "token": made(NEW, "new")}))["code"] == "unauthorized"
        assert provider.asked == 1, "one fetch in half a minute"
        assert await server.metric('sobranie_jwks_fetches_total{result="ok"}') == 1
        assert await server.metric("sobranie_jwks_age_seconds") > 0
        assert await server.metric('sobranie_auth_total{method="message",reason="",result="accepted"}') == 3
        assert await server.metric('sobranie_auth_total{method="message",reason="signature",result="refused"}') >= 1


async def test_not_one_secret_or_token_is_said_anywhere(database: Database, servers: Servers) -> None:
    async with providing() as provider:
        provider.say(b"<html>")
        server = await servers.start(
            SOBRANIE_LOG_LEVEL="debug",
            SOBRANIE_JWT_SECRET=f"{SECRET},{SECRET[::-1]}",
            SOBRANIE_JWKS_URL=f"{provider.url}?key=url-hush",
            SOBRANIE_JWT_AUDIENCE="us",
            SOBRANIE_COOKIE="session",
            SOBRANIE_TOKEN_IN_URL="1",
        )
        tokens = [
            signed(aud="us"),
            signed(aud="us", role="claim-hush"),
            signed(aud="them", role="claim-hush"),
            signed(aud="us", ttl=-60),
            signed(aud="us", ttl=-9000),
            signed(secret="another " + SECRET),
            made(NEW, "kid-hush"),
            "eyJ.token-hush.x",
            "token-hush",
        ]
        said: list[object] = []
        for token in tokens:
            said.append(await ask(server, SUBSCRIBE, {"type": "auth", "token": token}))
            said.append(await ask(server, SUBSCRIBE, Authorization=f"Bearer {token}"))
            said.append(await ask(server, SUBSCRIBE, Cookie=f"session={token}", Origin=server.url))
            said.append(await events(server, Authorization=f"Bearer {token}"))
            said.append(await events(server, Authorization=f"Basic {token}"))
            said.append(await events(server, Cookie=f"session={token}"))
            said.append(await events(server, f"&token={token}"))
            said.append(await ask(server, {"type": "auth", "token": [token]}))
        assert any("subscribed" in str(answer) for answer in said)
        await eventually(lambda: server.output().count('"authenticated"') > 30, 10, "the log has them")
        said += [await server.get("/metrics"), await server.get("/readyz"), await server.get("/livez")]
        everything = server.output() + str(said)
    assert "jwks_failed" in everything
    for secret in (SECRET, SECRET[::-1], "url-hush", "claim-hush", "kid-hush", "token-hush", *tokens):
        assert secret not in everything
    for token in tokens:
        for part in token.split("."):
            assert len(part) < 10 or part not in everything


@pytest.mark.parametrize("workers", ["2"])
async def test_workers_have_the_same_keys(database: Database, servers: Servers, workers: str) -> None:
    server = await servers.start(SOBRANIE_JWT_SECRET=SECRET, SOBRANIE_WORKERS=workers)
    for _ in range(6):
        assert (await ask(server, SUBSCRIBE, {"type": "auth", "token": signed()}))["type"] == "subscribed"
    assert (await ask(server, SUBSCRIBE))["code"] == "unauthorized"


async def test_a_refresh_that_loses_a_right_ends_the_channel_there_and_leaves_the_others(
    database: Database, servers: Servers
) -> None:
    await database.execute(
        "INSERT INTO realtime.policies (name, channel, roles) VALUES ('staff', 'notifications', '{staff}')"
    )
    server = await servers.start(SOBRANIE_JWT_SECRET=SECRET)
    async with aiohttp.ClientSession() as http, http.ws_connect(server.url + "/realtime/ws") as ws:

        async def until(kind: str) -> dict[str, Any]:
            while True:
                message: dict[str, Any] = await ws.receive_json(timeout=15)
                if message["type"] == kind:
                    return message

        await ws.send_json({"type": "auth", "token": signed("1", role="staff")})
        await ws.send_json({"type": "subscribe", "channels": ["posts", "notifications"]})
        await until("position")
        await database.execute("INSERT INTO notifications (user_id, body) VALUES (42, 'for staff')")
        assert (await until("changes"))["changes"][0]["data"]["body"] == "for staff"
        await ws.send_json({"type": "auth", "token": signed("1", role="guest")})
        assert (await until("authenticated"))["user"] == "1"
        refused = await until("error")
        assert (refused["code"], refused["channel"]) == ("forbidden", "notifications")
        assert (await until("unsubscribed"))["channels"] == ["notifications"]
        await database.execute("INSERT INTO notifications (user_id, body) VALUES (42, 'a secret')")
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'for everybody')")
        told = (await until("changes"))["changes"]
        assert [change["channel"] for change in told] == ["posts"]


async def test_an_event_stream_of_a_revoked_token_ends_its_channel_and_a_new_one_is_refused(
    database: Database, servers: Servers
) -> None:
    server = await servers.start(SOBRANIE_JWT_SECRET=SECRET)
    target = f"{server.url}/realtime/events?channel=notifications:user_id=42"
    headers = {"Authorization": f"Bearer {signed('42', jti='t1')}"}
    async with aiohttp.ClientSession() as http:
        async with http.get(target, headers=headers) as answer:
            said = b""
            while b'"type":"subscribed"' not in said:
                said += await answer.content.readany()
            await database.execute(
                "BEGIN; INSERT INTO realtime.revocations (jti, until) VALUES ('t1', now() + interval '1 hour');"
                "INSERT INTO notifications (user_id, body) VALUES (42, 'a secret'); COMMIT"
            )
            while b'"type":"unsubscribed"' not in said:
                said += await answer.content.readany()
            assert b'"code":"forbidden"' in said
            assert b"a secret" not in said
        async with http.get(target, headers=headers) as answer:
            assert answer.status == 403
            assert (await answer.json())["code"] == "forbidden"
        async with http.get(target, headers={"Authorization": f"Bearer {signed('42')}"}) as answer:
            assert answer.status == 200
