"""Who may have which channel, by the rules of now.

The rules are the database's as of a moment at or after the server's position. The broadcaster's epoch counts what may
change them, exactly at the batch that has it: rules that were loaded in an earlier epoch are loaded anew before anybody
is judged by them.

Invariants
- Nobody is judged by rules that are older than the server's position.
- What can't be judged is not allowed: where there are no rules, and where the database's own function gives no answer.
- One load is under way at a time. Somebody who is to be refused is judged once more by rules that were loaded after he
  asked, because a backend may have granted the right a moment ago. That makes one load a second at most.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from app.core.rights import REVOKED, Reason, Rules, Verdict
from app.model.channel import Address
from app.model.claims import Identity
from app.model.errors import DatabaseAway, Forbidden, Unavailable
from app.model.observations import Observer, PoliciesRead, PolicyUnreadable, SubscribeRefused
from app.model.rights import Action
from app.stream.broadcaster import Broadcaster
from app.stream.opinions import Opinions
from app.stream.ports import PolicyReader, Tables
from app.stream.spelling import Spellings

LOAD_SECONDS: Final = 1.0  # between two loads for somebody who is to be refused
AWAY: Final = "who may have what can't be asked at the moment; try again"


class Refusal(NamedTuple):
    address: Address
    action: Action
    verdict: Verdict

    @property
    def error(self) -> Forbidden:
        if self.action == "subscribe":
            return Forbidden(f"no right to {str(self.address)!r}", channel=str(self.address))
        return Forbidden(f"no right to {self.action} of {str(self.address)!r}", channel=str(self.address))


class Rights(Protocol):
    """What a connection asks. Neither method says yes where it can't be known."""

    async def check(self, identity: Identity, addresses: Iterable[Address], *actions: Action) -> None:
        """Raises Forbidden, which names the channel, where the client may not do all of that with each of them, and
        Unavailable where that can't be known."""
        ...

    async def lost(self, identity: Identity, addresses: Iterable[Address], *actions: Action) -> list[Forbidden]:
        """The refusals of those that the client may not have any more. Raises DatabaseAway, Unavailable."""
        ...


class Unjudged:
    """Everybody may have everything."""

    async def check(self, identity: Identity, addresses: Iterable[Address], *actions: Action) -> None:
        """See Rights."""

    async def lost(self, identity: Identity, addresses: Iterable[Address], *actions: Action) -> list[Forbidden]:
        """See Rights."""
        return []


class Judged:
    """By policies. `grants` and `role` are those of app.core.rights.Rules."""

    def __init__(
        self,
        broadcaster: Broadcaster,
        tables: Tables,
        reader: PolicyReader,
        observe: Observer,
        *,
        grants: bool = False,
        role: Sequence[str] = ("role",),
    ) -> None:
        self._broadcaster = broadcaster
        self._tables = tables
        self._reader = reader
        self._observe = observe
        self._grants = grants
        self._role = tuple(role)
        self._rules = Rules()
        self._epoch: int | None = None  # of the broadcaster, in which the rules were loaded
        self._loading = asyncio.Lock()
        self._began = -LOAD_SECONDS  # the monotonic clock, when the newest load began
        self._again: asyncio.Task[None] | None = None
        self._opinions: Opinions | None = None  # of the database's own function, where it has one
        self._spellings = Spellings(tables)

    async def check(self, identity: Identity, addresses: Iterable[Address], *actions: Action) -> None:
        """See Rights."""
        addresses = list(addresses)
        try:
            refusals = await self._refusals(identity, addresses, actions, 0.0)
            if refusals:
                await self._load_again()
                refusals = await self._refusals(identity, addresses, actions, self._began)
        except DatabaseAway as error:
            self._tell("unavailable", addresses[0], actions[0], ())
            raise Unavailable(AWAY) from error
        except Unavailable:
            self._tell("unavailable", addresses[0], actions[0], ())
            raise
        for refusal in refusals[:1]:
            self._tell_refused(refusal)
            raise refusal.error

    async def lost(self, identity: Identity, addresses: Iterable[Address], *actions: Action) -> list[Forbidden]:
        """See Rights."""
        refusals = await self._refusals(identity, list(addresses), actions, 0.0)
        for refusal in refusals:
            self._tell_refused(refusal)
        return [refusal.error for refusal in refusals]

    # Judging.

    async def _refusals(
        self, identity: Identity, addresses: list[Address], actions: tuple[Action, ...], since: float
    ) -> list[Refusal]:
        """One for each address that the client may not have, by the rules of now, and by opinions that were given after
        `since` (the monotonic clock)."""
        found: list[Refusal] = []
        for address in addresses:
            for action in actions:
                verdict = await self._judge(identity, address, action, since)
                if not verdict.allowed:
                    found.append(Refusal(address, action, verdict))
                    break
        return found

    async def _judge(self, identity: Identity, address: Address, action: Action, since: float) -> Verdict:
        rules = await self._current()
        verdict = rules.judge(identity, address, action)
        if not verdict.allowed and rules.to_spell(identity, address):
            verdict = rules.judge(identity, address, action, await self._spellings.of(rules, identity, address))
        if self._opinions is None or action not in ("subscribe", "snapshot") or rules.revoked(identity):
            return verdict
        opinion = await self._opinions.ask(identity, str(address), since)
        if opinion is None:
            return verdict
        why = None if opinion else "it says no"
        return Verdict(opinion, (*verdict.reasons, Reason("realtime.may_subscribe", why)))

    # Loading.

    async def _current(self) -> Rules:
        """Rules that are not older than the server's position. Raises DatabaseAway."""
        while self._epoch != self._broadcaster.epoch:
            async with self._loading:
                if self._epoch != self._broadcaster.epoch:
                    await self._load()
        return self._rules

    async def _load_again(self) -> None:
        """Load the rules once more. Those who ask at the same time share a load. Raises DatabaseAway."""
        if self._again is None:
            self._again = asyncio.create_task(self._load_later())
            self._again.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._again)

    async def _load_later(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._began + LOAD_SECONDS - time.monotonic()))
            await self._loading.acquire()
        finally:
            self._again = None  # who asks from now on may want what this load does not see
        try:
            await self._load()
        finally:
            self._loading.release()

    async def _load(self) -> None:
        self._began = time.monotonic()
        epoch, here = self._broadcaster.epoch, self._broadcaster.point.snapshot
        read = await self._reader.policies()
        if not read.position.contains(here):
            raise DatabaseAway("another primary answers, whose policies are not those of the stream")
        self._rules = Rules(read.policies, read.revocations, grants=self._grants, role=self._role)
        if self._epoch != epoch or not read.asks:
            self._opinions = None
        if read.asks and self._opinions is None:
            self._opinions = Opinions(self._reader.may_subscribe)
        self._epoch = epoch
        self._spellings = Spellings(self._tables)
        self._observe(PoliciesRead(len(read.policies), len(read.revocations)))
        for policy, problem in self._rules.unreadable.items():
            self._observe(PolicyUnreadable(policy, problem))

    # Telling.

    def _tell_refused(self, refusal: Refusal) -> None:
        reasons = refusal.verdict.reasons
        last = reasons[-1] if reasons else Reason("", None)
        reason = "revoked" if last.why_not == REVOKED else "forbidden"
        if last.policy == "realtime.may_subscribe":
            reason = "may_subscribe"
        self._tell(reason, refusal.address, refusal.action, reasons)

    def _tell(self, reason: str, address: Address, action: Action, reasons: Sequence[Reason]) -> None:
        why = "; ".join(f"{r.policy}: {r.why_not}" if r.policy else str(r.why_not) for r in reasons)
        self._observe(SubscribeRefused(reason, str(address), action, why or "no policy is about this channel"))
