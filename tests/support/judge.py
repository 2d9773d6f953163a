"""The verdict on what a client received, against the event log: nothing lost, nothing twice, nothing out of order.

Checked at *every* position that the client was given, not only at the end: what came since the one before must be
exactly what the event log says became visible between the two; and replaying it row by row must find each `old` in
place and end in exactly the rows of the table. Tables are multisets of whole rows here, so a key that changes, swaps or
moves on by one needs no special rule, and a table needs no key.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

from tests.support import token
from tests.support.stream import Change, Cut, Mark, Segment, Stream
from tests.support.token import Token
from tests.support.truth import NOTHING, Delivery, Truth, parse_channel, received

SHOWN = 5


@dataclass(frozen=True)
class Finding:
    kind: str
    channel: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} on {self.channel}: {self.detail}"


def judge(stream: Stream, truth: Truth, *, final: str | None = None) -> list[Finding]:
    """All that is wrong. `final`: a position that every channel still open must have reached, where the replayed rows
    must also equal `truth.tables`."""
    findings = [Finding("fault", "-", fault) for fault in stream.faults]
    for segment in stream.done:
        findings += _Bench(segment, truth).findings()
    for segment in stream.open.values():
        bench = _Bench(segment, truth)
        findings += bench.findings()
        if final is not None:
            findings += _at_the_end(bench, final)
    return findings


def report(findings: list[Finding]) -> str:
    kinds = Counter(finding.kind for finding in findings)
    return f"{len(findings)} findings {dict(kinds)}\n" + "\n".join(str(finding) for finding in findings[: SHOWN * 4])


class _Bench:
    """Walks one channel's record from position to position."""

    def __init__(self, segment: Segment, truth: Truth) -> None:
        self.segment, self.truth = segment, truth
        self.found: list[Finding] = []
        self.at = token.read(segment.start)
        self.unit: list[Change] = []
        self.cut = False
        self.state = truth.state_at(segment.channel, self.at)

    def findings(self) -> list[Finding]:
        for item in self.segment.items:
            if isinstance(item, Mark):
                self._close(token.read(item.position))
            elif isinstance(item, Cut):
                self.cut = bool(self.unit)
            else:
                self.unit.append(item)
                self._replay(received(item))
        self._left_open()
        return self.found

    def _note(self, kind: str, detail: str) -> None:
        self.found.append(Finding(kind, self.segment.channel, detail))

    def _close(self, upto: Token) -> None:
        if not upto.contains(self.at):
            self._note("backwards", f"{self.at} then {upto}")
            return
        expected = self.truth.expected(self.segment.channel, self.at, upto)
        got = by_transaction(self.unit)
        for xid in expected.keys() | got.keys():
            self._compare(xid, expected.get(xid, []), got.get(xid, []))
        if not self.cut:  # else the second server may have sent what was missing in another order
            self._check_whole(self.unit)
        self.at, self.unit, self.cut = upto, [], False

    def _compare(self, xid: int, expected: list[Delivery], got: list[Delivery]) -> None:
        want, have = Counter(d.content for d in expected), Counter(d.content for d in got)
        for content, count in (want - have).items():
            self._note("lost", f"{count} × {content} of transaction {xid}")
        for content, count in (have - want).items():
            self._note("extra", f"{count} × {content} of transaction {xid}, not due between {self.at} and now")
        if want == have and not in_order(expected, got):
            logged = [d.content for d in expected]
            self._note("order", f"transaction {xid}: {[d.content for d in got]}, logged {logged}")

    def _check_whole(self, unit: list[Change]) -> None:
        seen = [xid for xid, _ in groupby(change["tx"] for change in unit)]
        for xid, runs in Counter(seen).items():
            if runs > 1:
                self._note("order", f"transaction {xid} came in {runs} pieces")

    def _replay(self, change: Delivery) -> None:
        if change.action == "TRUNCATE":
            self.state.clear()
        if change.old != NOTHING:
            if self.state[change.old] <= 0:
                self._note("chain", f"{change.action}: no such row before it: {change.old}")
            self.state[change.old] -= 1
        if change.new != NOTHING:
            self.state[change.new] += 1

    def _left_open(self) -> None:
        """What came after the last position must at least exist in the event log."""
        for xid, got in by_transaction(self.unit).items():
            everything = Token(self.at.incarnation, xid + 1, frozenset(), True)
            due = self.truth.expected(self.segment.channel, self.at, everything).get(xid, [])
            if extra := Counter(d.content for d in got) - Counter(d.content for d in due):
                self._note("extra", f"{dict(extra)} of transaction {xid} after the last position")


def by_transaction(changes: list[Change]) -> dict[int, list[Delivery]]:
    found: dict[int, list[Delivery]] = {}
    for change in changes:
        found.setdefault(int(change["tx"]), []).append(received(change))
    return found


def in_order(expected: list[Delivery], got: list[Delivery]) -> bool:
    """Statement by statement; within one, DELETE halves before INSERT halves. Nested ones are left to the replay."""
    if any(d.nested for d in expected):
        return True
    start = 0
    for _, group in groupby(expected, key=lambda d: d.statement):
        due = list(group)
        part = got[start : start + len(due)]
        start += len(due)
        if Counter(d.content for d in due) != Counter(d.content for d in part):
            return False
        halves = {d.content for d in due if d.half}
        crossing = [d.action for d in part if d.content in halves]
        if crossing != sorted(crossing, key=lambda action: action != "DELETE"):
            return False
    return True


def _at_the_end(bench: _Bench, final: str) -> list[Finding]:
    segment = bench.segment
    marks = [item for item in segment.items if isinstance(item, Mark)]
    if not marks or not token.read(marks[-1].position).contains(token.read(final)):
        return [Finding("lost", segment.channel, f"never reached {final}, is at {marks[-1:]}")]
    table, route = parse_channel(segment.channel)
    rows, replayed = bench.truth.tables.get(table), +bench.state
    if rows is None or route or rows == replayed:
        return []
    return [Finding("replay", segment.channel, f"missing {_some(rows - replayed)}, too much {_some(replayed - rows)}")]


def _some(rows: Counter[str]) -> str:
    return f"{rows.total()} rows, such as {list(rows)[:SHOWN]}"
