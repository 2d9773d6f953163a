"""The commands of docs/access.md, from nothing to a channel that only staff sees, pasted into a shell one by one."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from harness.cluster import ROOT, clean_environment, free_port
from harness.database import Database
from harness.facts import eventually, holds

PROGRAMS = ("bash", "psql", "curl", "openssl")
pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in PROGRAMS), reason=f"needs {', '.join(PROGRAMS)}"
)
STEPS = 8


def steps() -> list[str]:
    """The blocks of the tutorial, in order."""
    text = (ROOT / "docs" / "access.md").read_text()
    section = text.partition("## A staff-only channel in ten minutes\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


class Terminal:
    """Runs what is pasted, in one directory. What goes on for long is ended with the test."""

    def __init__(self, directory: Path, database_url: str, port: int) -> None:
        self.directory = directory
        self.port = port
        programs = directory / "bin"
        programs.mkdir()
        command = programs / "sobranie"
        command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m app "$@"\n')
        command.chmod(0o755)
        path = f"{programs}:{os.environ['PATH']}"
        self.environment = clean_environment(DATABASE_URL=database_url, SOBRANIE_PORT=str(port), PATH=path)
        self._running: list[asyncio.subprocess.Process] = []

    async def begin(self, step: str, name: str) -> Path:
        """Run it in the background; the file that has what it says."""
        said = self.directory / f"{name}.txt"
        with said.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                "bash", "-euc", f"export SOBRANIE_JWT_SECRET=$(cat jwt-secret 2>/dev/null || true)\n{self._here(step)}",
                cwd=self.directory, env=self.environment, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self._running.append(process)
        return said

    async def run(self, step: str, name: str) -> str:
        said = await self.begin(step, name)
        code = await asyncio.wait_for(self._running.pop().wait(), 120)
        assert code == 0, said.read_text()
        return said.read_text()

    def _here(self, step: str) -> str:
        return step.replace("127.0.0.1:3000", f"127.0.0.1:{self.port}")

    async def close(self) -> None:
        for process in self._running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()


@pytest.fixture
async def terminal(empty_database: Database, tmp_path: Path) -> AsyncIterator[Terminal]:
    made = Terminal(tmp_path, empty_database.url, free_port())
    yield made
    await made.close()


def says(file: Path, text: str) -> Callable[[], bool]:
    return lambda: text in file.read_text()


async def test_the_tutorial_does_what_it_says(terminal: Terminal) -> None:
    found = steps()
    assert len(found) == STEPS
    key, table, why, serve, ann, bob, write, revoke = found
    await terminal.run(key, "key")
    await terminal.run(table, "table")
    verdicts = await terminal.run(why, "why")
    assert [line for line in verdicts.splitlines() if line.startswith("subscribe")] == [
        "subscribe: allowed",
        "subscribe: refused",
    ]
    assert "staff sees invoices: the claim 'role' is none of staff" in verdicts
    server = await terminal.begin(serve, "serve")
    await eventually(says(server, "127.0.0.1"), 60, "the server serves")
    await eventually(says(server, "served"), 60, "the server serves")
    follows = await terminal.begin(ann, "ann")
    await eventually(says(follows, '"type":"subscribed"'), 60, "Ann follows")
    assert '"code":"forbidden"' in await terminal.run(bob, "bob")
    await terminal.run(write, "write")
    await eventually(says(follows, "19.90"), 30, "Ann has the invoice")
    await terminal.run(revoke, "revoke")
    await eventually(says(follows, '"code":"forbidden"'), 30, "Ann is told that it is over")
    await terminal.run(write, "write")
    await holds(lambda: follows.read_text().count("19.90") == 1, 1.0, "nothing of it is sent to Ann")
