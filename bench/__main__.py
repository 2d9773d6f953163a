"""The command line.

`python -m bench`: everything, and docs/benchmarks.md from it. `python -m bench fanout delay`: these parts, on the
terminal. `python -m bench quick`: the ratios alone; exit code 1 when one is beyond its bound. `python -m bench page`:
the page again, from the last whole run.
"""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bench import aims, report, system, tools
from bench.blocks import plain
from bench.fanout import SHAPES
from bench.stage import Stage, say
from bench.writers import BULK, Case

RESULT = tools.KEPT.parent / "bench.json"
DOCS = tools.HERE.parent / "docs"
QUICK: Mapping[str, Mapping[str, Any]] = {
    "writers": {
        "cases": (Case("INSERT", 8, 5), Case("INSERT", 1, 2, rows=BULK)),
        "variants": ("untriggered", "floor", "capture"),
    },
    "fanout": {"shapes": SHAPES[:2], "peers": ("floor",), "rounds": 3, "own": False},
    "replay": {"changes": 20_000, "rounds": 2, "storm_rounds": 0},
    "beside": {"clients": 0, "together": (1, 20), "rows": 20_000, "rounds": 3, "tables": 0, "holders": 0},
    "memory": {"clients": 4000, "idle": 1, "cases": 1},
}
EVERYTHING: Mapping[str, Mapping[str, Any]] = {name: {} for name in report.PARTS}


async def measure(plan: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Runs the parts one after the other; one that fails is noted and the others go on."""
    files, began = system.raise_file_limit(), time.monotonic()
    parts: dict[str, Any] = {}
    failed: dict[str, str] = {}
    stage = Stage()
    try:
        version = stage.cluster.execute("SHOW server_version")[0][0]
        for name, parameters in plan.items():
            stage.tidy()
            say(f"{name} ({time.monotonic() - began:.0f} s)")
            try:
                parts[name] = await report.PARTS[name][1].measure(stage, **parameters)
            except (AssertionError, RuntimeError, TimeoutError, OSError) as problem:
                failed[name] = f"{type(problem).__name__}: {problem}"[:400]
                say(f"  failed: {failed[name]}")
    finally:
        stage.close()
    about = system.machine(files) | {
        "PostgreSQL": str(version),
        "this project": system.commit(),
        "day": f"{datetime.now(UTC):%Y-%m-%d}",
        "length": f"{time.monotonic() - began:.0f} s",
    }
    return {"about": about | tools.versions(), "parts": parts, "failed": failed}


def main(arguments: Sequence[str]) -> int:
    if arguments == ["page"]:
        report.write(json.loads(RESULT.read_text(encoding="utf-8")), DOCS)
        return 0
    quick = list(arguments) == ["quick"]
    unknown = [] if quick else [name for name in arguments if name not in report.PARTS]
    if unknown:
        say(f"unknown: {', '.join(unknown)}; there are {', '.join(report.PARTS)}, quick, page")
        return 2
    try:
        tools.compiled("swarm")
    except tools.Missing as problem:
        say(str(problem))
        return 2
    plan = QUICK if quick else {name: {} for name in arguments} or EVERYTHING
    run = asyncio.run(measure(plan))
    if quick:
        return _verdict(run)
    say("\n" + report.terminal(run))
    if arguments:
        return bool(run["failed"])
    say(plain(aims.table(run["parts"])))
    RESULT.write_text(json.dumps(run), encoding="utf-8")
    report.write(run, DOCS)
    say(f"docs/benchmarks.md is written; {run['about']['length']}")
    return bool(run["failed"])


def _verdict(run: Mapping[str, Any]) -> int:
    say("\n" + plain(aims.table(run["parts"], aims.BOUNDS)))
    broken = aims.broken(run["parts"])
    for line in broken:
        say(f"beyond its bound: {line}")
    say(f"{run['about']['length']}")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
