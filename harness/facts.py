"""Waiting for facts.

The only place in the tests with a sleep: everything else waits for something that must become true, with a deadline,
and says what did not become true when it expires.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

POLL_SECONDS = 0.01
T = TypeVar("T")


@overload
async def eventually(
    fact: Callable[[], Awaitable[T]], timeout: float = ..., what: str = ..., every: float = ...
) -> T: ...
@overload
async def eventually(fact: Callable[[], T], timeout: float = ..., what: str = ..., every: float = ...) -> T: ...
async def eventually(
    fact: Callable[[], Awaitable[T]] | Callable[[], T],
    timeout: float = 10.0,
    what: str = "",
    every: float = POLL_SECONDS,
) -> T:
    """The first truthy value of `fact`, asked again and again for at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = fact()
        value: T = (await answer) if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or inspect.getsource(fact).strip()} (last: {value!r})")
        await asyncio.sleep(every)


async def holds(fact: Callable[[], Awaitable[object] | object], seconds: float, what: str = "") -> None:
    """Fails as soon as `fact` is not true within the next `seconds`: for promises that something does not happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = fact()
        value = await answer if inspect.isawaitable(answer) else answer
        assert value, f"held for less than {seconds} s: {what or inspect.getsource(fact).strip()}"
        await asyncio.sleep(POLL_SECONDS)


def soon(fact: Callable[[], object], timeout: float = 10.0, what: str = "") -> None:
    """`eventually`, for those who have no event loop."""
    deadline = time.monotonic() + timeout
    while not fact():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or inspect.getsource(fact).strip()}"
        time.sleep(POLL_SECONDS)


async def turn() -> None:
    """Let everybody else who is ready have a turn of the event loop: no time passes."""
    await asyncio.sleep(0)


async def pause(seconds: float) -> None:
    """A writer's or a client's own pace (never a way to wait for something)."""
    await asyncio.sleep(seconds)
