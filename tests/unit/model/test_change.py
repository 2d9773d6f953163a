"""Changes as JSON: the row's bytes untouched, keys as they stand in the row, ids that are never used twice."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.change import Change, Form, Table, text_json, value_json

AT = int(datetime(2026, 11, 23, 6, 30, tzinfo=UTC).timestamp()) * 1_000_000 + 123_456
TABLE = Table(
    1, 7, "sales", 'or"ders', ("tenant", "id"), (("status",),), ("tenant", "id", "status"), ("text",) * 3, "sns", 9
)


def change(op: str, new: str | None, old: str | None, table: Table = TABLE, **rest: Any) -> Change:
    def values(row: str | None) -> tuple[str, ...] | None:
        return tuple(str(json.loads(row)[c]) for c in table.columns) if row is not None else None

    def data(row: str | None) -> bytes | None:
        return row.encode() if row is not None else None

    return Change(5, 2, 77, table, op, 1, None, AT, values(new), values(old), data(new), data(old), **rest)


def told(made: Change, form: Form = Form.WHOLE) -> Any:
    return json.loads(b"{%s}" % made.body(form))


ROW = '{"tenant":"a,b","id":90071992547409931,"status":"open"}'
NEXT = '{"tenant":"a,b","id":90071992547409931,"status":"done"}'


def test_an_update_is_whole_left_or_entered() -> None:
    made = change("U", NEXT, ROW)
    head = {"schema": "sales", "table": 'or"ders', "id": "5.2-1795415400123456", "tx": "77"}
    row = {"row": "a%2Cb,90071992547409931", "key": {"tenant": "a,b", "id": 90071992547409931}}
    at = {"at": "2026-11-23T06:30:00.123456+00:00"}
    new, old = json.loads(NEXT), json.loads(ROW)
    assert told(made) == head | row | at | {"action": "UPDATE", "data": new, "old": old}
    assert told(made, Form.LEAVE) == head | row | at | {"action": "DELETE", "data": None, "old": old}
    assert told(made, Form.ENTER) == head | row | at | {"action": "INSERT", "data": new, "old": None}


def test_the_bytes_of_a_row_are_those_of_the_database() -> None:
    assert b'"data":' + NEXT.encode() in change("U", NEXT, ROW).body()


def test_a_key_that_changes_is_the_new_one_and_the_old_one_where_the_row_leaves() -> None:
    moved = change("U", NEXT.replace("a,b", "c"), ROW)
    assert told(moved)["key"]["tenant"] == "c"
    assert told(moved, Form.LEAVE)["key"]["tenant"] == "a,b"
    assert told(moved, Form.ENTER)["row"] == "c,90071992547409931"


def test_without_a_primary_key_and_for_truncate_key_and_row_are_null() -> None:
    keyless = Table(1, 7, "public", "t", (), (), (), (), "", 9)
    for made in (change("I", ROW, None, keyless), change("T", None, None)):
        assert told(made)["key"] is None
        assert told(made)["row"] is None


def test_ids_of_halves_differ() -> None:
    assert len({change("D", None, ROW, half=half).id for half in ("", "d", "i")}) == 3


@given(st.text())
def test_text_is_json_in_valid_utf8_whatever_it_holds(text: str) -> None:
    assert json.loads(text_json(text).decode("utf-8")) == text


@pytest.mark.parametrize(
    ("kind", "text", "row", "expected"),
    [
        ("n", "1.50", None, b"1.50"),
        ("n", "-1e+20", None, b"-1e+20"),
        ("n", "NaN", None, b'"NaN"'),
        ("n", "-Infinity", None, b'"-Infinity"'),
        ("b", "true", None, b"true"),
        ("s", "tr\"ue\n", None, b'"tr\\"ue\\n"'),
        ("t", "2026-11-23 06:30:00.5+00", None, b'"2026-11-23T06:30:00.5+00:00"'),
        ("t", "2026-11-23 06:30:00", None, b'"2026-11-23T06:30:00"'),
        ("t", "infinity", None, b'"infinity"'),
        ("o", "{1.10,1e400}", b'{"x": {"k":[7]} , "k":[1.10,1e400],"z":1}', b"[1.10,1e400]"),
        ("o", "t", b'{"x":' + b"[" * 9000 + b"]" * 9000 + b',"k":[1]}', b'"t"'),
        ("o", "t", b'{"x":1}', b'"t"'),
    ],
)  # fmt: skip
def test_a_key_looks_as_it_does_in_the_row(kind: str, text: str, row: bytes | None, expected: bytes) -> None:
    assert value_json(kind, text, "k", row) == expected
