"""Changes of one small table, made by hand."""

import json

from app.model.change import Change, Table

TABLE = Table(1, 7, "public", "t", ("id",), (("a",), ("b",)), ("id", "a", "b"), ("int",) * 3, "nnn", 9)
AT = 1_767_225_600_000_000
Row = tuple[int, int | None, int]


def change(number: int, op: str, new: Row | None = None, old: Row | None = None) -> Change:
    def data(row: Row | None) -> bytes | None:
        return json.dumps(dict(zip("iab", row, strict=True))).encode() if row is not None else None

    def values(row: Row | None) -> tuple[str | None, ...] | None:
        return tuple(str(v) if v is not None else None for v in row) if row is not None else None

    return Change(number, 1, 150, TABLE, op, 1, None, AT, values(new), values(old), data(new), data(old))
