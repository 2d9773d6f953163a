"""The order inside one transaction: nested statements, as the statement triggers log them, become what happened.

A model executes statements on a table, with triggers that run further statements; each is logged when it ends, inner
before outer, with its depth and (where the table has marks) what was drawn before it. Judged by a naive client that
takes away the old key and sets the new one, change by change, and by the chain of each row's old and new.
"""

import json
import time
from collections.abc import Sequence
from itertools import count, permutations
from random import Random
from typing import Any

import pytest

from app.core.order import ordered, transaction
from app.model.change import Change, Table

TABLE = Table(1, 7, "public", "t", ("id",), (), ("id",), ("bigint",), "n", 9)
OTHER = Table(2, 8, "public", "u", ("id",), (), ("id",), ("bigint",), "n", 9)
AT = 1_767_225_600_000_000
Row = dict[str, int]


def event(
    number: int,
    op: str,
    new: Row | None = None,
    old: Row | None = None,
    *,
    n: int = 1,
    depth: int = 1,
    mark: int | None = None,
    table: Table = TABLE,
) -> Change:
    def data(row: Row | None) -> bytes | None:
        return json.dumps(row).encode() if row is not None else None

    def values(row: Row | None) -> tuple[str, ...] | None:
        return (str(row["id"]),) if row is not None else None

    return Change(number, n, 1, table, op, depth, mark, AT, values(new), values(old), data(new), data(old))


def replayed(rows: dict[int, Row], changes: Sequence[Change]) -> dict[int, Row]:
    """What a naive client has in the end."""
    table = dict(rows)
    for change in changes:
        if change.op == "T":
            table.clear()
        if change.old is not None:
            table.pop(json.loads(change.old)["id"], None)
        if change.new is not None:
            new = json.loads(change.new)
            table[new["id"]] = new
    return table


def assert_chains(rows: dict[int, Row], changes: Sequence[Change]) -> None:
    """Each row's `old` is what was there before it, halves included."""
    there = {key: json.dumps(row).encode() for key, row in rows.items()}
    for change in changes:
        if change.old is not None:
            assert there.pop(json.loads(change.old)["id"], None) == change.old, change
        if change.new is not None:
            key = json.loads(change.new)["id"]
            assert key not in there, change
            there[key] = change.new


class Execution:
    """Runs random statements, and statements inside them, as AFTER triggers would."""

    def __init__(self, random: Random, *, marked: bool, keys_move: bool) -> None:
        self.random, self.marked, self.keys_move = random, marked, keys_move
        self.rows: dict[int, Row] = {n: {"id": n, "v": n if marked else -n} for n in range(1, 5)}
        self.before = dict(self.rows)
        self.log: list[Change] = []
        self.truth: list[Change] = []
        self._tick = count(1)

    def statement(self, depth: int = 1) -> None:
        mark = next(self._tick) if self.marked else None
        pairs = self._pairs(depth)
        for old, _ in pairs:
            if old is not None:
                del self.rows[old["id"]]
        for _, new in pairs:
            if new is not None:
                self.rows[new["id"]] = new
        place = len(self.truth)
        while depth < 4 and self.random.random() < 0.45:
            self.statement(depth + 1)
        number = next(self._tick)
        made = [
            event(number, "I" if o is None else "D" if w is None else "U", w, o, n=n, depth=depth, mark=mark)
            for n, (o, w) in enumerate(pairs, 1)
        ]
        self.log += made
        self.truth[place:place] = made

    def _pairs(self, depth: int) -> list[tuple[Row | None, Row | None]]:
        """Without marks nothing tells a row that its own trigger deletes from one that makes room for its like, so
        there what is nested only updates."""
        kinds = "IUUUUDK" if self.keys_move else "U" if depth > 1 else "IUUUUD"
        kind = self.random.choice(kinds)
        chosen = self.random.sample(sorted(self.rows), min(len(self.rows), self.random.randint(1, 3)))
        if kind == "I" or not chosen:
            key = self.random.choice([k for k in range(1, 12) if k not in self.rows])
            return [(None, self._row(key))]
        if kind == "D":
            return [(self.rows[chosen[0]], None)]
        if kind == "K":
            keys = self.random.choice(list(permutations(chosen)))
            return [(self.rows[a], {**self.rows[a], "id": b}) for a, b in zip(chosen, keys, strict=True) if a != b]
        return [(self.rows[key], self._row(key)) for key in chosen]

    def _row(self, key: int) -> Row:
        return {"id": key, "v": next(self._tick)}


def shuffled(random: Random, events: Sequence[Change]) -> list[Change]:
    return random.sample(list(events), len(events))


@pytest.mark.parametrize("seed", range(150))
@pytest.mark.parametrize(("marked", "keys_move"), [(True, True), (False, False)], ids=["marks", "chains alone"])
def test_nested_statements_end_in_the_true_rows_by_an_unbroken_chain(seed: int, marked: bool, keys_move: bool) -> None:
    random = Random(seed)
    run = Execution(random, marked=marked, keys_move=keys_move)
    for _ in range(random.randint(1, 4)):
        run.statement()
    changes, schema = ordered(shuffled(random, run.log))
    assert not schema
    assert_chains(run.before, changes)
    assert replayed(run.before, changes) == run.rows
    assert len({c.id for c in changes}) == len(changes)
    if run.log:
        assert transaction(run.log).last == max(e.number for e in run.log)


def test_the_scenario_of_the_model_is_not_the_order_of_the_log() -> None:
    """What the mending is for: without it most runs of the model end wrong."""
    wrong = 0
    for seed in range(150):
        run = Execution(Random(seed), marked=False, keys_move=False)
        run.statement()
        run.statement()
        wrong += replayed(run.before, run.log) != run.rows
    assert wrong > 20


A, B, C = {"id": 1, "v": 1}, {"id": 1, "v": 2}, {"id": 1, "v": 3}


@pytest.mark.parametrize(
    ("before", "log"),
    [
        ([A], [event(1, "U", C, B, depth=2), event(2, "U", B, A)]),
        ([], [event(1, "U", B, A, depth=2), event(2, "I", A)]),
        ([A], [event(1, "U", C, B, depth=2), event(2, "U", B, A), event(3, "D", None, C)]),
        # Deleted, inserted anew, and brought back by a trigger to just what it was: a circle.
        ([A], [event(1, "D", None, A), event(2, "U", A, B, depth=2), event(3, "I", B)]),
        ([A], [event(1, "D", None, A, depth=2), event(2, "U", A, B, depth=2), event(3, "I", B)]),
        ([], [event(1, "U", A, B, depth=2), event(2, "I", B), event(3, "D", None, A)]),
        # A BEFORE INSERT trigger that makes room.
        ([A], [event(1, "D", None, A, depth=2, mark=2), event(2, "I", B, mark=1)]),
        # There and back again, twice: only the marks can tell.
        (
            [A],
            [
                event(1, "U", A, B, depth=2, mark=2),
                event(2, "U", B, A, mark=1),
                event(3, "U", A, B, depth=2, mark=4),
                event(4, "U", B, A, mark=3),
            ],
        ),
        ([], [event(1, "D", None, A, depth=2, mark=2), event(2, "I", A, mark=1)]),
    ],
)  # fmt: skip
def test_known_nests(before: list[Row], log: list[Change]) -> None:
    changes, _ = ordered(log)
    assert_chains({row["id"]: row for row in before}, changes)
    assert len(changes) == len(log)


def rows(*keys: int) -> list[Row]:
    return [{"id": key, "v": 10 * n} for n, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rows(1, 2), rows(2, 1)),
        (rows(1, 2, 3), rows(2, 3, 1)),
        (rows(1, 2, 3, 4), rows(2, 3, 4, 5)),
        (rows(4, 3, 2, 1), rows(5, 4, 3, 2)),
        (rows(1, 2, 3), rows(2, 1, 3)),
    ],
    ids=["swap", "cycle", "plus one", "plus one, from above", "swap beside one that stays"],
)
def test_keys_that_change_hands_in_one_statement(old: list[Row], new: list[Row]) -> None:
    new = [row | {"w": 1} for row in new]
    log = [event(5, "U", w, o, n=n) for n, (o, w) in enumerate(zip(old, new, strict=True), 1)]
    changes, _ = ordered(log)
    before = {row["id"]: row for row in old}
    assert_chains(before, changes)
    assert replayed(before, changes) == {row["id"]: row for row in new}
    assert len({c.id for c in changes}) == len(changes)
    for change in changes:
        assert (change.half == "") == (change.op == "U")


def test_a_key_that_is_used_again() -> None:
    log = [event(1, "D", None, A), event(2, "I", B), event(3, "D", None, B), event(4, "I", C)]
    changes, _ = ordered(reversed(log))
    assert changes == log


def test_a_million_keys_plus_one_take_linear_time() -> None:
    log = [event(1, "U", {"id": n + 1, "v": n}, {"id": n, "v": n}, n=n) for n in range(1, 20_001)]
    began = time.process_time()
    changes, _ = ordered(log)
    assert time.process_time() - began < 3
    assert [c.op for c in changes] == ["D"] * 20_000 + ["I"] * 20_000


def test_partitions_emptied_by_their_parents_truncate_are_part_of_it() -> None:
    changes, schema = ordered([event(1, "T"), event(2, "R"), event(3, "R"), event(4, "I", A)])
    assert [c.op for c in changes] == ["T", "I"]
    assert schema == []


@pytest.mark.parametrize(
    ("log", "tables"),
    [
        ([event(1, "R")], [TABLE]),
        ([event(1, "T", table=OTHER), event(2, "R")], [TABLE]),
        ([event(1, "T"), event(2, "I", A), event(3, "R")], [TABLE]),
        ([event(1, "G"), event(2, "R", table=OTHER), event(3, "R")], [TABLE, OTHER]),
    ],
)
def test_partitions_changed_behind_the_parents_back_and_generations_are_a_reset(log: Any, tables: list[Table]) -> None:
    changes, schema = ordered(log)
    assert schema == tables
    assert not {"G", "R"} & {c.op for c in changes}


def test_tables_without_a_key_keep_the_order_of_the_log() -> None:
    keyless = Table(1, 7, "public", "t", (), (), (), (), "", 9)
    log = [event(1, "U", C, B, depth=2, table=keyless), event(2, "U", B, A, table=keyless)]
    assert ordered(log) == (log, [])
