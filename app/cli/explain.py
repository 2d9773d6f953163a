"""The answer of `why`: what the rules say of a channel, and what each policy has to do with it.

Invariant: the rules are the server's own (app.core.rights), so what is said here is what a server would do.
"""

import argparse
from collections.abc import Iterator
from typing import Final

from app.backend import open_backend
from app.cli.token import read_claims
from app.core.rights import REVOKED, Rules, Spell
from app.model.channel import Address, parse
from app.model.claims import ANONYMOUS, Identity
from app.model.errors import ClientError, DatabaseAway, SettingsError, StartError, Unavailable
from app.model.rights import Action
from app.model.settings import Settings
from app.server import open_door
from app.stream.opinions import Opinions
from app.stream.ports import PolicyRead, PolicyReader
from app.stream.spelling import Spellings

ACTIONS: Final[tuple[Action, ...]] = ("subscribe", "snapshot")


async def explain(settings: Settings, asked: argparse.Namespace) -> list[str]:
    """The lines of the answer. Raises SettingsError for what can't be asked, and StartError."""
    try:
        address = parse(asked.channel)
        identity = await _identity(settings, asked)
    except ClientError as problem:
        raise SettingsError(problem.message) from None
    backend = open_backend(settings, lambda _: None)
    try:
        read = await backend.policies.policies()
        rules = Rules(read.policies, read.revocations)
        spell = await Spellings(backend.tables).of(rules, identity, address)
        opinion = await _opinion(read, backend.policies, identity, address)
        return [line for action in ACTIONS for line in _lines(rules, identity, address, action, spell, opinion)]
    except DatabaseAway as error:
        raise StartError(f"the database can't be reached: {error}") from error
    finally:
        await backend.policies.close()
        await backend.event_log.close()


async def _opinion(read: PolicyRead, reader: PolicyReader, identity: Identity, address: Address) -> str | None:
    """What realtime.may_subscribe says, in words; None where there is no such function, or it has no opinion."""
    if not read.asks:
        return None
    try:
        said = await Opinions(reader.may_subscribe).ask(identity, str(address), 0.0)
    except Unavailable as problem:
        return f"unavailable ({problem.message})"
    return None if said is None else "allowed" if said else "refused"


def _lines(
    rules: Rules, identity: Identity, address: Address, action: Action, spell: Spell, opinion: str | None
) -> Iterator[str]:
    verdict = rules.explain(identity, address, action, spell)
    revoked = any(reason.why_not == REVOKED for reason in verdict.reasons)
    said = "allowed" if verdict.allowed else "refused"
    yield f"{action}: {opinion if opinion is not None and not revoked else said}"
    for reason in verdict.reasons:
        yield f"  {reason.policy}: {reason.why_not or 'allows it'}" if reason.policy else f"  {reason.why_not}"
    if not verdict.reasons:
        yield "  there is no policy"
    if opinion is not None:
        yield f"  realtime.may_subscribe: {opinion}, whatever the policies say"


async def _identity(settings: Settings, asked: argparse.Namespace) -> Identity:
    """Who asks. Raises Unauthorized and Unavailable."""
    if asked.token is not None:
        return await open_door(settings, lambda _: None).identify(asked.token, "message")
    if asked.sub is None:
        return ANONYMOUS
    return Identity(user=asked.sub, claims=read_claims(asked.claim) | {"sub": asked.sub})
