"""`make conformance`: the WebSocket cases of Autobahn's testsuite against the product's web edge, none failed.

The fuzzing client is autobahntestsuite from PyPI, which is Python 2: it is installed, with what it needs, into
.data/autobahn by a Python 2.7 of this machine (PYTHON2, or one on the PATH or among pyenv's). Cases of compression
(12, 13), which the product does not offer, are left out. `cases="1.* 7.*"` runs some of the others. The reports stay in
.data/autobahn.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from app.model.observations import Failed
from tests.conformance.autobahn import echo

ROOT: Final = Path(__file__).parents[3]
HOME: Final = ROOT / ".data" / "autobahn"
LOCK: Final = Path(__file__).parent / "requirements.lock"
GOOD: Final = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
ALL: Final = 301  # cases without those of compression
FUZZ: Final = """
import site, sys
site.addsitedir(sys.argv[1]); sys.path.insert(0, sys.argv[1])
sys.argv[:2] = ["wstest"]
from autobahntestsuite.wstest import run
run()
"""


def python2() -> str:
    """A Python 2.7. Ends the program with what to do where there is none."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [os.environ.get("PYTHON2"), *map(shutil.which, ("python2.7", "python2"))]
    for candidate in (*found, *map(str, versions.glob("2.7*/bin/python2.7"))):
        if candidate is not None:
            said = subprocess.run([candidate, "-V"], capture_output=True, text=True)
            if said.returncode == 0 and "2.7" in said.stdout + said.stderr:
                return candidate
    sys.exit("conformance: Autobahn's fuzzing client needs a Python 2.7: install one, or set PYTHON2 to it")


def install(python: str) -> Path:
    """Where the fuzzing client is; put there unless it is already."""
    there = HOME / "py27"
    done = there / "installed"
    if not done.exists() or done.read_bytes() != LOCK.read_bytes():
        shutil.rmtree(there, ignore_errors=True)
        options = [
            "--quiet",
            "--no-warn-script-location",
            "--disable-pip-version-check",
            "--require-hashes",
            "--no-deps",
        ]
        command = [python, "-m", "pip", "install", *options, "--target", str(there), "-r", str(LOCK)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
        done.write_bytes(LOCK.read_bytes())
    return there


async def fuzz(python: str, client: Path, cases: list[str]) -> tuple[int, list[Failed]]:
    """Run the cases: the fuzzing client's exit code, and the edge's own failures."""
    failures: list[Failed] = []
    runner = web.AppRunner(echo.application(failures), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = {"agent": "edge", "url": f"ws://127.0.0.1:{runner.addresses[0][1]}/realtime/ws"}
    spec = {"outdir": str(HOME / "report"), "servers": [server], "cases": cases, "exclude-cases": ["12.*", "13.*"]}
    (HOME / "spec.json").write_text(json.dumps(spec | {"exclude-agent-cases": {}}))
    process = await asyncio.create_subprocess_exec(
        python, "-c", FUZZ, str(client), "-m", "fuzzingclient", "-s", str(HOME / "spec.json"), cwd=HOME
    )
    code = await process.wait()
    await runner.cleanup()
    return code, failures


def judge() -> tuple[int, list[str]]:
    """How many cases there were, and those that failed."""
    report: dict[str, dict[str, Any]] = json.loads((HOME / "report" / "index.json").read_text())["edge"]
    failed = [
        f"{case}: {said['behavior']}, close {said['behaviorClose']} ({HOME / 'report' / said['reportfile']})"
        for case, said in report.items()
        if not {said["behavior"], said["behaviorClose"]} <= GOOD
    ]
    return len(report), failed


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main(cases: list[str]) -> int:
    HOME.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(HOME / "report", ignore_errors=True)
    python = python2()
    client = install(python)
    with echo.lifted():
        code, failures = asyncio.run(fuzz(python, client, cases or ["*"]))
    count, failed = judge()
    for line in (*failed, *(f"the edge failed: {failure.error!r}" for failure in failures)):
        say(line)
    say(f"conformance: {count} cases, {len(failed)} failed")
    missing = not cases and count < ALL
    if missing:
        say(f"conformance: there should have been {ALL} cases")
    return int(bool(code or failed or failures or missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
