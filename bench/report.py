"""The page docs/benchmarks.md and its pictures, from what a run has left in .data/bench.json.

Invariant: every figure on the page comes from that file; nothing is written by hand but the words around it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import aims, beside, delay, fanout, growth, memory, replay, writers
from bench.blocks import Bars, Block, Lines, markdown, plain
from bench.svg import chart

Data = dict[str, Any]
FOLDER = "benchmarks"  # of the pictures, beside the page
INTRODUCTION = (
    "Made by `make bench`, which runs everything below in one go, side by side and by turns, on loopback: PostgreSQL "
    "with `fsync` on, servers, writers and all clients share the machine. Ratios of one run hold on other machines; "
    "absolute figures don't. Medians, with the lowest and the highest in brackets."
)
PARTS = {
    "writers": ("Writers", writers),
    "delay": ("Delay", delay),
    "fanout": ("Fan-out", fanout),
    "memory": ("Idle connections", memory),
    "replay": ("Replay", replay),
    "growth": ("Growth", growth),
    "beside": ("Beside bulk work", beside),
}


def page(run: Data) -> str:
    """The whole page in Markdown."""
    lines = [
        "# Benchmarks",
        "",
        INTRODUCTION,
        "",
        *(f"- {name}: {value}" for name, value in run["about"].items()),
        "",
        "## Aims",
        "",
        markdown(aims.table(run["parts"]), FOLDER),
    ]
    missed = aims.missed(run["parts"])
    if missed is not None:
        lines += ["", markdown(missed, FOLDER)]
    for name, (title, _) in PARTS.items():
        lines += ["", f"## {title}"]
        if name in run["failed"]:
            lines += ["", f"Not measured: {run['failed'][name]}"]
        for block in _blocks(run, name):
            lines += ["", markdown(block, FOLDER)]
    return "\n".join(lines) + "\n"


def pictures(run: Data) -> dict[str, str]:
    """SVG by the name of the file."""
    blocks = (block for name in PARTS for block in _blocks(run, name))
    return {f"{block.name}.svg": chart(block) for block in blocks if isinstance(block, Bars | Lines)}


def terminal(run: Data) -> str:
    return "\n".join(filter(None, (plain(block) for name in PARTS for block in _blocks(run, name))))


def write(run: Data, docs: Path) -> None:
    (docs / FOLDER).mkdir(exist_ok=True)
    (docs / "benchmarks.md").write_text(page(run), encoding="utf-8")
    for name, picture in pictures(run).items():
        (docs / FOLDER / name).write_text(picture, encoding="utf-8")


def _blocks(run: Data, name: str) -> Iterator[Block]:
    if name in run["parts"]:
        yield from PARTS[name][1].show(run["parts"][name])
