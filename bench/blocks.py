"""What a part of the benchmarks shows: text, tables and charts, and how each is written in Markdown. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Bars:
    """Groups of bars, each (label, value, low, high); `name` is the file's."""

    name: str
    title: str
    groups: Mapping[str, Sequence[tuple[str, float, float, float]]]


@dataclass(frozen=True)
class Lines:
    """Series of (x, y), both logarithmic; `name` is the file's."""

    name: str
    title: str
    across: str
    series: Mapping[str, Sequence[tuple[float, float]]]


Block = Text | Table | Bars | Lines
Chart = Bars | Lines


def markdown(block: Block, folder: str) -> str:
    """`folder` is where the pictures are, as the page sees it."""
    match block:
        case Text(text):
            return text
        case Table(title, columns, rows):
            lines = [f"**{title}**", ""] if title else []
            lines += [_row(columns), _row("---" for _ in columns), *(_row(row) for row in rows)]
            return "\n".join(lines)
        case Bars(name, title) | Lines(name, title):
            return f"![{title}]({folder}/{name}.svg)"


def plain(block: Block) -> str:
    """For a terminal: a table with even columns; pictures are left out."""
    if isinstance(block, Text | Bars | Lines):
        return ""
    rows = [[cell.replace("*", "") for cell in row] for row in (block.columns, *block.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(block.columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([block.title, *("  " + line for line in lines), ""])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
