"""What the demo page may write: the tables, their fields, and what a request's body must be.

Invariant: whatever the body is, the answer is columns that PostgreSQL takes, or a BadRequest that names the field.
"""

import json
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from app.model.errors import BadRequest

TEXT: Final = 2000  # characters of a text field
BIGINT: Final = range(-(1 << 63), 1 << 63)
_DIGITS: Final = 25  # of a whole number; more are beyond bigint whatever they are, and Python reads no more than 4,300
_WANTED: Final = {int: "a whole number, such as 42", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class Field:
    """A field's type, and its name as the page shows it."""

    kind: type
    label: str


@dataclass(frozen=True)
class Table:
    """A table that the page may write: its fields with their types, those that an INSERT needs first."""

    name: str
    fields: dict[str, Field]
    needed: tuple[str, ...]


TABLES: Final = {
    "posts": Table(
        "posts",
        {"author_id": Field(int, "Author"), "title": Field(str, "Title"), "body": Field(str, "Text")},
        ("author_id", "title"),
    ),
    "notifications": Table(
        "notifications",
        {
            "user_id": Field(int, "User"),
            "kind": Field(str, "Kind"),
            "body": Field(str, "Text"),
            "read": Field(bool, "Read"),
        },
        ("user_id", "body"),
    ),
}


async def read(request: web.Request, table: Table) -> dict[str, object]:
    """The columns to write. Raises BadRequest, which names the field."""
    if request.content_type != "application/json":
        raise BadRequest("the body is JSON (Content-Type: application/json)")
    try:
        body = json.loads(await request.text(), parse_int=_integer)
    except (ValueError, RecursionError) as problem:
        raise BadRequest(f"not JSON: {problem}") from problem
    if not isinstance(body, dict):
        raise BadRequest("the body is a JSON object")
    columns: dict[str, object] = {}
    for name, value in body.items():
        field = table.fields.get(name)
        if field is None:
            known = ", ".join(table.fields)
            raise BadRequest(f"{table.name} has no field {name!r} here; there are {known}", field=name)
        checked = _checked(name, field, value)
        if name == "read":
            columns["read_at"] = "now" if checked else None
        else:
            columns[name] = checked
    return columns


def _integer(digits: str) -> int:
    return int(digits[:_DIGITS])


def _checked(name: str, field: Field, value: object) -> object:
    # bool is an int in Python, and not in JSON.
    if not isinstance(value, field.kind) or (field.kind is int and isinstance(value, bool)):
        raise BadRequest(f"{field.label} must be {_WANTED[field.kind]}", field=name)
    if isinstance(value, int) and value not in BIGINT:
        raise BadRequest(f"{field.label} must be within bigint, {BIGINT[0]} to {BIGINT[-1]}", field=name)
    if isinstance(value, str) and len(value) > TEXT:
        raise BadRequest(f"{field.label} may have {TEXT} characters; it has {len(value)}", field=name)
    if isinstance(value, str) and "\0" in value:
        raise BadRequest(f"{field.label} may not contain the character NUL", field=name)
    if isinstance(value, str):
        # Half a surrogate pair is JSON and no Unicode text.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
