"""Who may have which channel: policies, compiled once, and each judgement with its reasons.

Invariants
- What no rule allows is forbidden. Rules only allow, so one that can't be read takes nothing from the others.
- A missing, null or empty claim matches nothing.
- A right to a table's channel is a right to its routed channels. A right to the channels of one route is none to those
  of another.
- A revoked token has no right at all, not even what anybody has.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from app.core.claims import at, contains, texts
from app.core.patterns import Anything, Claim, Grants, Pattern, RoomPattern, TablePattern, Value, parse
from app.model.channel import Address, RoomAddress, TableAddress, encode
from app.model.channel import parse as parse_channel
from app.model.claims import Identity
from app.model.errors import BadChannel
from app.model.rights import Action, Revocation

REVOKED: Final = "the token is revoked"
# The spelling of a claim's text as a value of a column; None where it is no value of its type.
Spell = Callable[[str, str], str | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """A row of realtime.policies. `roles` None is anybody, anonymous clients too."""

    name: str
    channel: str
    roles: tuple[str, ...] | None = None
    claims: Mapping[str, object] = field(default_factory=dict)
    may: tuple[str, ...] = ("subscribe", "snapshot")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a policy lets somebody (None), or why not. `policy` is empty where no policy was looked at."""

    policy: str
    why_not: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons` has each rule that was looked at. The last is the one that allows, where one does."""

    allowed: bool
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    policy: Policy
    pattern: Pattern


def as_it_is(column: str, text: str) -> str | None:
    return text


class Rules:
    """All that is allowed. `grants` says whether tokens may name their channels themselves, `role` is the path of the
    claim that bears a token's roles. `unreadable` are the policies that can't be read, by name, and why."""

    def __init__(
        self,
        policies: Iterable[Policy] = (),
        revocations: Iterable[Revocation] = (),
        *,
        grants: bool = False,
        role: Sequence[str] = ("role",),
    ) -> None:
        self.unreadable: dict[str, str] = {}
        self._grants = grants
        self._role = tuple(role)
        self._all: list[_Rule] = []
        self._routes: defaultdict[tuple[str, str, tuple[str, ...]], list[_Rule]] = defaultdict(list)
        self._anywhere: list[_Rule] = []  # those on rooms, and those whose channels are the token's
        for policy in policies:
            self._compile(policy)
        self._revoked: defaultdict[str | None, list[Revocation]] = defaultdict(list)  # by user
        for revocation in revocations:
            self._revoked[revocation.sub].append(revocation)

    def _compile(self, policy: Policy) -> None:
        try:
            rule = _Rule(policy, parse(policy.channel))
        except ValueError as problem:
            self.unreadable[policy.name] = str(problem)
            return
        self._all.append(rule)
        if isinstance(rule.pattern, TablePattern):
            self._routes[rule.pattern.schema, rule.pattern.table, rule.pattern.route].append(rule)
        else:
            self._anywhere.append(rule)

    def __len__(self) -> int:
        return len(self._all)

    def revoked(self, identity: Identity) -> bool:
        theirs = chain(self._revoked.get(identity.user, ()), self._revoked.get(None, ()))
        return any(revocation.concerns(identity) for revocation in theirs)

    def judge(self, identity: Identity, address: Address, action: Action, spell: Spell = as_it_is) -> Verdict:
        """Whether a client may do that with a channel, whose values are spelled as their types spell them."""
        return self._verdict(self._rules_of(address), identity, address, action, spell)

    def explain(self, identity: Identity, address: Address, action: Action, spell: Spell = as_it_is) -> Verdict:
        """The same with every rule there is, also where an earlier one allows."""
        found = [Reason(r.policy.name, self._why_not(r, identity, address, action, spell)) for r in self._all]
        found += [Reason(name, f"it can't be read: {problem}") for name, problem in self.unreadable.items()]
        if self.revoked(identity):
            return Verdict(False, (Reason("", REVOKED), *found))
        return Verdict(any(reason.why_not is None for reason in found), tuple(found))

    def to_spell(self, identity: Identity, address: Address) -> set[tuple[str, str]]:
        """The claims' texts, each with its column, that might be another spelling of a value of this channel."""
        if not isinstance(address, TableAddress):
            return set()
        return {
            (column, text)
            for rule in self._of_route(address, address.route)
            if isinstance(rule.pattern, TablePattern)
            for column, asked, value in zip(address.route, rule.pattern.values, address.values, strict=True)
            if isinstance(asked, Claim)
            for text in texts(at(identity.claims, asked.path))
            if text != value
        }

    def _rules_of(self, address: Address) -> Iterator[_Rule]:
        if isinstance(address, TableAddress):
            yield from self._of_route(address, ())
            if address.route:
                yield from self._of_route(address, address.route)
        yield from self._anywhere

    def _of_route(self, address: TableAddress, route: tuple[str, ...]) -> Sequence[_Rule]:
        return self._routes.get((address.schema, address.table, route), ())

    def _verdict(
        self, rules: Iterable[_Rule], identity: Identity, address: Address, action: Action, spell: Spell
    ) -> Verdict:
        if self.revoked(identity):
            return Verdict(False, (Reason("", REVOKED),))
        reasons: list[Reason] = []
        for rule in rules:
            reasons.append(Reason(rule.policy.name, self._why_not(rule, identity, address, action, spell)))
            if reasons[-1].why_not is None:
                return Verdict(True, tuple(reasons))
        return Verdict(False, tuple(reasons))

    def _why_not(self, rule: _Rule, identity: Identity, address: Address, action: Action, spell: Spell) -> str | None:
        policy, pattern = rule.policy, rule.pattern
        if action not in policy.may:
            return f"it allows {', '.join(policy.may)}, and not {action}"
        if policy.roles is not None and (why := self._why_not_role(policy.roles, identity)):
            return why
        if not contains(identity.claims, policy.claims):
            missing = [name for name, value in policy.claims.items() if not contains(identity.claims, {name: value})]
            return f"the claims {', '.join(map(repr, missing))} are not as it wants them"
        match pattern:
            case TablePattern():
                return _why_not_table(pattern, identity, address, spell)
            case RoomPattern():
                return _why_not_room(pattern, identity, address)
            case Grants():
                return _why_not_granted(pattern, identity, address) if self._grants else "no token may grant channels"

    def _why_not_role(self, roles: tuple[str, ...], identity: Identity) -> str | None:
        if identity.user is None:
            return "it wants a token"
        if "*" in roles or not set(texts(at(identity.claims, self._role))).isdisjoint(roles):
            return None
        return f"the claim {'.'.join(self._role)!r} is none of {', '.join(roles)}"


def _why_not_table(pattern: TablePattern, identity: Identity, address: Address, spell: Spell) -> str | None:
    if not isinstance(address, TableAddress) or (pattern.schema, pattern.table) != (address.schema, address.table):
        return "it is about other channels"
    if not pattern.route:
        return None
    if pattern.route != address.route:
        return f"it is about the route {','.join(pattern.route)}"
    for column, asked, value in zip(pattern.route, pattern.values, address.values, strict=True):
        if isinstance(asked, str):
            if asked != value:
                return f"it wants another value of {column}"
        elif isinstance(asked, Claim):
            found = texts(at(identity.claims, asked.path))
            if value not in found and value not in (spell(column, text) for text in found):
                return f"the claim {str(asked)!r} is {'another value' if found else 'missing or empty'}"
    return None


def _why_not_room(pattern: RoomPattern, identity: Identity, address: Address) -> str | None:
    if not isinstance(address, RoomAddress):
        return "it is about rooms"
    names = address.name.split("/")
    if len(names) != len(pattern.segments):
        return "the room's name has another number of segments"
    for segment, name in zip(pattern.segments, names, strict=True):
        claim = next((piece for piece in segment if isinstance(piece, Claim)), None)
        values = texts(at(identity.claims, claim.path)) if claim is not None else [""]
        if not values:
            return f"the claim {str(claim)!r} is missing or empty"
        if not any(_fits(segment, encode(value), name) for value in values):
            return f"the room's name has not {name!r} there"
    return None


def _fits(segment: Sequence[Value], claim: str, name: str) -> bool:
    """Whether a part of a room's name is what the segment says, with this value of its claim."""
    pieces = [claim if isinstance(piece, Claim) else piece for piece in segment]
    star = next((n for n, piece in enumerate(pieces) if isinstance(piece, Anything)), None)
    if star is None:
        return "".join(map(str, pieces)) == name
    before, after = "".join(map(str, pieces[:star])), "".join(map(str, pieces[star + 1 :]))
    middle = name[len(before) : len(name) - len(after)]
    anything = pieces[star]
    assert isinstance(anything, Anything)
    if not middle or len(name) < len(before) + len(after) or (anything.but and anything.but in middle):
        return False
    return name.startswith(before) and name.endswith(after)


def _why_not_granted(pattern: Grants, identity: Identity, address: Address) -> str | None:
    names = texts(at(identity.claims, pattern.claim.path))
    for name in names:
        try:
            granted = parse_channel(name)
        except BadChannel:
            continue
        if granted == address or (_is_table(granted) and _table_of(granted) == _table_of(address)):
            return None
    return f"the claim {str(pattern.claim)!r} {'has not this channel' if names else 'is missing or empty'}"


def _is_table(address: Address) -> bool:
    return isinstance(address, TableAddress) and not address.route


def _table_of(address: Address) -> tuple[str, str] | None:
    return (address.schema, address.table) if isinstance(address, TableAddress) else None
