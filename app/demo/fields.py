"""What the demo page may write: the tables, their fields, and what a request's body must be.

Invariant: whatever the body is, the answer is columns that PostgreSQL takes, or a BadRequest that names the field.
"""

import json
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from app.model.errors import BadRequest

TEXT: Final = 2000  # characters of a text field


@dataclass(frozen=True)
class Table:
    """A table that the page may write: its fields with their types, those that an INSERT needs first."""

    name: str
    fields: dict[str, type]
    needed: tuple[str, ...]


TABLES: Final = {
    "posts": Table("posts", {"author_id": int, "title": str, "body": str}, ("author_id", "title")),
    "notifications": Table(
        "notifications", {"user_id": int, "kind": str, "body": str, "read": bool}, ("user_id", "body")
    ),
}


async def read(request: web.Request, table: Table) -> dict[str, object]:
    """The columns to write. Raises BadRequest, which names the field."""
    if request.content_type != "application/json":
        raise BadRequest("the body is JSON (Content-Type: application/json)")
    try:
        body = json.loads(await request.text())
    except (ValueError, RecursionError) as problem:
        raise BadRequest(f"not JSON: {problem}") from problem
    if not isinstance(body, dict):
        raise BadRequest("the body is a JSON object")
    columns: dict[str, object] = {}
    for name, value in body.items():
        kind = table.fields.get(name)
        if kind is None:
            known = ", ".join(table.fields)
            raise BadRequest(f"{table.name} has no field {name!r} here; there are {known}", field=name)
        checked = _checked(name, kind, value)
        if name == "read":
            columns["read_at"] = "now" if checked else None
        else:
            columns[name] = checked
    return columns


def _checked(name: str, kind: type, value: object) -> object:
    # bool is an int in Python, and not in JSON.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {int: "a whole number", str: "a text", bool: "true or false"}[kind]
        raise BadRequest(f"{name!r} is {wanted}", field=name)
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise BadRequest(f"{name!r} is beyond the range of bigint", field=name)
    if isinstance(value, str) and (len(value) > TEXT or "\0" in value):
        raise BadRequest(f"{name!r} has at most {TEXT} characters, and none of them is NUL", field=name)
    if isinstance(value, str):
        # Half a surrogate pair is JSON and no Unicode text.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
