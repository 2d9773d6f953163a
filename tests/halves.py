"""Runs all tests in two halves at the same time: `python -m tests.halves`. `make test` does.

Most of the time a test waits for a clock, a socket or another process, so two halves take little more than the longer
one. Each has a PostgreSQL and ports of its own. What the second says is printed when the first has ended, each with
its summary. Invariant: every test belongs to exactly one half, a new directory to the second.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
FIRST = ("e2e", "faults")  # whole servers, clients, crashes


def main() -> int:
    others = sorted({path.parent for path in TESTS.glob("*/test_*.py")} - {TESTS / name for name in FIRST})
    with tempfile.TemporaryFile() as said:
        second = subprocess.Popen(command(*others), stdout=said, stderr=subprocess.STDOUT)
        try:
            first = subprocess.run(command(*(TESTS / name for name in FIRST)), check=False).returncode
            code = second.wait()
        finally:
            second.kill()
            said.seek(0)
            sys.stdout.flush()
            sys.stdout.buffer.write(said.read())
    return first or code


def command(*paths: Path) -> list[str]:
    return [sys.executable, "-m", "pytest", *(str(path.relative_to(Path.cwd())) for path in paths)]


if __name__ == "__main__":
    sys.exit(main())
