"""What can be observed of who may see what."""

from dataclasses import dataclass

from app.model.observations.base import Observation


@dataclass(frozen=True, slots=True)
class PoliciesRead(Observation):
    """The rules by which rights are judged were loaded: so many policies, and revocations that have not ended."""

    policies: int
    revocations: int


@dataclass(frozen=True, slots=True)
class PolicyUnreadable(Observation):
    """A policy can't be read, and so it allows nothing. One that is written by SQL is refused; this one came otherwise
    (a restore, a trigger that was off)."""

    policy: str
    problem: str


@dataclass(frozen=True, slots=True)
class SubscribeRefused(Observation):
    """Somebody has no right to a channel, or lost it. `reason` is `forbidden`, `revoked`, `may_subscribe` or
    `unavailable`; `why` has what each policy says, which names claims but never their values."""

    reason: str
    channel: str
    action: str
    why: str
