"""Published keys, fetched over real HTTP from a provider that is slow, huge, wrong, gone, or has new keys."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

import app.access.jwks
from app.access.jwks import Jwks, _fresh_seconds
from app.access.verifier import Verifier
from app.model.errors import Unauthorized, Unavailable
from app.model.observations import JwksFailed, JwksFetched, Observation
from app.model.settings import Settings
from harness.facts import eventually
from tests.support.forge import SECRET, good, jwk, signed
from tests.support.provider import Provider, providing

OLD, NEW = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def token(private: ec.EllipticCurvePrivateKey, kid: str) -> str:
    return jwt.encode(good(aud="us"), private, algorithm="ES256", headers={"kid": kid})


class World:
    """A verifier that fetches from `provider`. `now` is the clock of its fetches."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.seen: list[Observation] = []
        self.gone: list[frozenset[str]] = []
        self.now = 1000.0
        settings = Settings(jwks_url=provider.url, jwt_audience="us", jwt_secrets=(SECRET,))
        self.verifier = Verifier(settings, self.seen.append, self.gone.append)
        assert self.verifier.jwks is not None
        self.jwks: Jwks = self.verifier.jwks
        self.jwks._clock = lambda: self.now

    async def fetch(self) -> None:
        """The next fetch that is due."""
        self.now += app.access.jwks.MOST_SECONDS
        await self.jwks._fetch_once()

    async def user(self, private: ec.EllipticCurvePrivateKey, kid: str) -> str | None:
        return (await self.verifier.identify(token(private, kid))).user

    def failures(self) -> list[str]:
        return [o.reason for o in self.seen if isinstance(o, JwksFailed)]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with providing() as provider:
        provider.publish(jwk(OLD, "ES256", kid="old"))
        made = World(provider)
        yield made
        await made.jwks.close()


async def test_keys_are_fetched_and_hold(world: World) -> None:
    await world.fetch()
    assert await world.user(OLD, "old") == "42"
    assert [o for o in world.seen if isinstance(o, JwksFetched)] == [JwksFetched(1)]
    assert not world.jwks.failing
    assert world.provider.asked == 1


async def test_a_token_under_a_new_key_is_taken_at_once_and_a_thousand_of_them_are_one_fetch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.access.jwks.PATIENCE", 60)
    await world.fetch()
    world.now += app.access.jwks.SPACING
    world.provider.publish(jwk(OLD, "ES256", kid="old"), jwk(NEW, "ES256", kid="new"))
    assert await asyncio.gather(*(world.user(NEW, "new") for _ in range(1000))) == ["42"] * 1000
    assert world.provider.asked == 2


async def test_a_flood_of_unknown_keys_is_one_fetch_in_half_a_minute(world: World) -> None:
    await world.fetch()
    for n in range(100):
        world.now += 1
        with pytest.raises(Unauthorized):
            await world.user(NEW, f"unknown-{n}")
    assert world.provider.asked <= 1 + 100 / app.access.jwks.SPACING + 1


async def test_an_unknown_key_is_unavailable_while_the_provider_does_not_answer_and_the_secret_still_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.access.jwks.PATIENCE", 0.05)
    world.provider.held = asyncio.Event()
    with pytest.raises(Unavailable):
        await world.user(OLD, "old")
    assert (await world.verifier.identify(signed(aud="us"))).user == "42"
    world.provider.held.set()
    await eventually(lambda: not world.jwks.failing, 5, "the fetch has come to its end")
    assert await world.user(OLD, "old") == "42"
    assert world.provider.asked == 1


async def test_a_new_key_that_comes_late_is_unavailable_and_not_unknown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.fetch()
    world.now += app.access.jwks.SPACING
    world.provider.publish(jwk(NEW, "ES256", kid="new"))
    world.provider.held = asyncio.Event()
    monkeypatch.setattr("app.access.jwks.PATIENCE", 0.05)
    with pytest.raises(Unavailable):
        await world.user(NEW, "new")
    monkeypatch.setattr("app.access.jwks.PATIENCE", 60)
    world.provider.held.set()
    assert await world.user(NEW, "new") == "42"


async def slow(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


async def huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with suppress(ConnectionResetError):
        while True:
            await response.write(b" " * 65536)
    return response


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"keys":[')
    assert request.transport is not None
    request.transport.close()
    return response


def says(body: bytes, status: int = 200, **headers: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (slow, "did not answer"),
        (drip, "did not answer"),
        (huge, "more than 256 KiB"),
        (cut, "ClientPayloadError"),
        (says(b"", 302, Location="/other"), "answered 302"),
        (says(b"", 307, Location="file:///etc/passwd"), "answered 307"),
        (says(b"no", 500), "answered 500"),
        (says(b"", 204), "answered 204"),
        (says(b"<html>sign in</html>"), "no JWK set"),
        (says(b'{"error":"x"}'), "no JWK set"),
        (says(b"\xff\xfe"), "no JWK set"),
        (says(b"[" * 200_000), "no JWK set"),
        (says(gzip.compress(b" " * (1 << 24)), Content_Encoding="gzip"), "no JWK set"),
    ],
    ids=(
        "slow",
        "drips",
        "huge",
        "cut",
        "redirects",
        "redirects to a file",
        "fails",
        "empty",
        "HTML",
        "other JSON",
        "no UTF-8",
        "nested",
        "a gzip bomb",
    ),
)
async def test_a_failed_fetch_keeps_the_keys_and_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: Any, why: str
) -> None:
    monkeypatch.setattr("app.access.jwks.TIMEOUT", 0.3)
    await world.fetch()
    world.provider.answer = answer
    await world.fetch()
    assert why in world.failures()[0]
    assert world.jwks.failing
    assert await world.user(OLD, "old") == "42"
    assert world.gone == []
    assert world.provider.elsewhere == 0
    world.provider.publish(jwk(OLD, "ES256", kid="old"))
    await world.fetch()
    assert not world.jwks.failing


async def test_a_provider_that_is_gone_keeps_the_keys_and_nothing_of_its_url_is_told(world: World) -> None:
    await world.fetch()
    world.jwks._url = "http://127.0.0.1:1/keys?secret=hush"
    await world.fetch()
    assert world.failures()[0].startswith("no connection")
    assert "hush" not in world.failures()[0]
    assert await world.user(OLD, "old") == "42"


async def test_a_key_that_a_fetch_no_longer_has_is_told_and_holds_no_more(world: World) -> None:
    await world.fetch()
    before = (await world.verifier.identify(token(OLD, "old"))).key
    world.provider.publish(jwk(OLD, "ES256", kid="old"), jwk(NEW, "ES256", kid="new"))
    await world.fetch()
    assert world.gone == []
    assert (await world.verifier.identify(token(OLD, "old"))).key == before, "it is the same key"
    world.provider.publish(jwk(NEW, "ES256", kid="new"))
    await world.fetch()
    assert world.gone == [frozenset({before})]
    with pytest.raises(Unauthorized):
        await world.user(OLD, "old")
    world.provider.publish(jwk(OLD, "ES256", kid="new"))
    await world.fetch()
    assert len(world.gone) == 2, "another key under the same kid"
    assert await world.user(OLD, "new") == "42"


async def test_a_published_secret_is_left_out_and_told(world: World) -> None:
    world.provider.publish({"kty": "oct", "kid": "o", "k": "c2VjcmV0"}, jwk(OLD, "ES256", kid="old"))
    await world.fetch()
    told = [o.left_out for o in world.seen if isinstance(o, JwksFetched)]
    assert "secret" in told[0]
    assert "c2VjcmV0" not in told[0]
    assert await world.user(OLD, "old") == "42"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 300),
        ("max-age=0", 300),
        ("public, max-age=900, immutable", 900),
        ("MAX-AGE=99999999", 3600),
        ("s-maxage=900", 300),
        ("max-age=-5", 300),
        ("max-age=9999999999999999999999", 300),
    ],
)
def test_max_age_is_heard_within_bounds(header: str, seconds: float) -> None:
    assert _fresh_seconds(header) == seconds


async def test_keys_are_fetched_again_when_they_are_old_and_after_a_failure_when_it_may(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.provider.publish(jwk(OLD, "ES256", kid="old"), max_age=900)
    await world.jwks._fetch_once()
    assert world.jwks._next == world.now + 900
    world.provider.say(b"", 500)
    await world.fetch()
    assert world.jwks._next == world.now + app.access.jwks.SPACING
    running = asyncio.create_task(world.jwks.run())
    world.provider.publish(jwk(OLD, "ES256", kid="old"))
    monkeypatch.setattr("app.access.jwks.SPACING", 0.0)
    await eventually(lambda: not world.jwks.failing, 5, "the task that fetches has fetched")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
