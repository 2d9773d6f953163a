"""Who a client shows itself to be on a connection that is open, and the connections that its user has.

Invariants
- A token that is refused leaves the one before in force. A client that has shown none yet is sent away.
- A connection is counted once for its user, and no more when it has gone.
"""

from typing import Protocol

from app.clients.door import Guest
from app.clients.registry import Registry
from app.core import wire
from app.core.session import Session
from app.model.claims import Identity
from app.model.errors import CloseCode, RateLimited, Unauthorized


class Client(Guest, Protocol):
    """A connection, as authentication sees it. `counted` says that its user has one connection more for it."""

    registry: Registry
    session: Session
    counted: bool

    def __hash__(self) -> int: ...

    def become(self, identity: Identity) -> None: ...

    def end(self, code: CloseCode, reason: str) -> None: ...


def count(client: Client, user: str | None) -> None:
    """Count the connection for its user, where one is known. Raises RateLimited where he has too many."""
    if user is not None and not client.counted:
        client.registry.limits.enter(user)
        client.counted = True


async def authenticate(client: Client, token: str, id: wire.JsonId) -> None:
    """Take the client for who the token says. A token that is refused is answered.

    Raises RateLimited where tokens come too often, and Unavailable where the key can't be had now."""
    await client.registry.limits.take("auth", client)
    door = client.registry.door
    try:
        identity = await door.identify(token, "message")
        if client.identity.user not in (None, identity.user):
            raise door.refuse("message", "subject", "a connection stays with one user: connect anew for another")
    except Unauthorized as problem:
        client.outbox.refuse(problem, id)
        if not client.known:
            client.end(CloseCode.UNAUTHORIZED, problem.message)
        return
    if client.session.over:
        return
    try:
        count(client, identity.user)
    except RateLimited as problem:
        client.outbox.refuse(problem, id)
        client.end(CloseCode.TOO_MANY, problem.message)
        return
    client.become(identity)
    door.arrive(client)
    client.outbox.send(wire.authenticated(id, identity.user, identity.expires))


def leave(client: Client) -> None:
    """The connection has ended."""
    client.registry.door.leave(client)
    client.registry.limits.forget(client)
    if client.counted and client.identity.user is not None:
        client.registry.limits.leave(client.identity.user)
