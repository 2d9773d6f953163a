"""What pins released SQL: a file that a release has is never edited. Whoever installed it would have another one.

Releases are git's tags v*. A new form of a family is a new file beside it (`capture_v2.sql`), as the head of
sql/triggers/event_log.sql says.
"""

import subprocess
from pathlib import Path

FILES = "sql/triggers"


class Unknown(Exception):
    """Nothing can be said here, and why."""


def changed(root: Path) -> list[str]:
    """What differs in the worktree from a release, a line each. Raises Unknown where no release is known."""
    tags = _git(root, "tag", "--list", "v*").split()
    if not tags:
        shallow = _git(root, "rev-parse", "--is-shallow-repository").strip() == "true"
        raise Unknown(
            "a shallow clone has no tags: git fetch --unshallow --tags" if shallow else "no release: git has no tag v*"
        )
    return sorted({line for tag in tags for line in _since(root, tag)})


def _since(root: Path, tag: str) -> list[str]:
    found = []
    for entry in _git(root, "ls-tree", "-r", "-z", tag, "--", FILES).split("\0"):
        about, _, name = entry.partition("\t")
        if not name.endswith(".sql"):
            continue
        if not (root / name).exists():
            found.append(f"{name} is gone, and {tag} has it")
        elif _git(root, "hash-object", "--", name).strip() != about.split()[2]:
            found.append(f"{name} is not what {tag} has: leave it, and put the new form into a file of its own, _v2")
    return found


def _git(root: Path, *arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise Unknown("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise Unknown(f"this is no repository of git's: {error.stderr.strip()}") from None
