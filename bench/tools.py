"""The tools of the load: C programs compiled on the spot, and where peers are found.

Everything that is made or fetched lies in .data/bench. Whoever needs a tool that is missing gets `Missing`, with what
to install; the run goes on without.
"""

import shutil
import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE.parent / ".data" / "bench"
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
PACKAGES = ("bun", "elysia")


class Missing(Exception):
    """Something that is not on this machine; says what to install."""


@cache
def compiled(name: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Missing("a C compiler is needed for the load (Debian: apt-get install gcc libc6-dev)")
    KEPT.mkdir(parents=True, exist_ok=True)
    program = KEPT / name
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(HERE / "load" / f"{name}.c")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(f"{name}.c does not compile: {done.stderr[-2000:]}")
    return str(program)


@cache
def bun() -> str:
    """Bun, with Elysia beside it: from the npm registry, once, into .data/bench."""
    program = KEPT / "node_modules" / ".bin" / "bun"
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("npm is needed to fetch Bun and Elysia")
        KEPT.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "install", "--no-fund", "--no-audit", "--prefix", str(KEPT), *PACKAGES],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode or not program.exists():
            raise Missing(f"npm could not install {' and '.join(PACKAGES)}: {done.stderr[-300:]}")
    if subprocess.run([str(program), "--version"], capture_output=True, check=False).returncode:
        raise Missing("Bun does not run here")
    return str(program)


@cache
def nginx() -> str:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or not NCHAN.exists():
        raise Missing("nchan is not installed (Debian: apt-get install libnginx-mod-nchan)")
    return program


def versions() -> dict[str, str]:
    """Of the peers that are here."""
    found = {}
    for name, finder, arguments in (("Bun", bun, ["--version"]), ("nginx with nchan", nginx, ["-v"])):
        try:
            done = subprocess.run([finder(), *arguments], capture_output=True, text=True, check=False)
        except Missing as problem:
            found[name] = f"not here ({problem})"
        else:
            found[name] = (done.stdout or done.stderr).strip().rpartition("/")[2]
    return found
