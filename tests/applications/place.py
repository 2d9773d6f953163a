"""Where the applications are installed: .data/applications, an environment of their own, with the pinned packages.

Invariant: it is made again whenever the lock file differs from the one that it was made of, so it is never half made.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from harness.cluster import ROOT, clean_environment

HOME: Final = ROOT / ".data" / "applications"
LOCK: Final = Path(__file__).parent / "requirements.lock"
ADVICE: Final = (
    "applications: the packages could not be installed. They come from a package index such as PyPI: it has to be "
    "reachable, or named to pip (PIP_INDEX_URL). What pip said is above."
)
PROGRAM_SECONDS: Final = 600


def python() -> Path:
    """The environment's Python; the packages are put there unless they are already. Ends the program where they can't
    be had."""
    there, done = HOME / "bin" / "python", HOME / "installed"
    if not done.exists() or done.read_bytes() != LOCK.read_bytes():
        shutil.rmtree(HOME, ignore_errors=True)
        venv.create(HOME, with_pip=False)
        pip = (sys.executable, "-m", "pip", "--python", str(there), "--disable-pip-version-check", "--no-input")
        installed = subprocess.run([*pip, "install", "--quiet", "--require-hashes", "-r", str(LOCK)])
        if installed.returncode != 0:
            sys.exit(ADVICE)
        done.write_bytes(LOCK.read_bytes())
    return there


def run(name: str, step: str, url: str) -> str:
    """One step of an application, `migrate` or `operate`, as a process of its own: its output."""
    command = [str(python()), "-m", f"tests.applications.{name}", step, url]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=PROGRAM_SECONDS
    )
    if done.returncode != 0:
        raise AssertionError(f"{name} {step} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-6000:]}")
    return done.stdout
