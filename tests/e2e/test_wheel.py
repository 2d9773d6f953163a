"""The wheel: built, installed outside of the checkout, and used by its command alone.

Invariant: nothing of the checkout is reached. The environment has its own Python, the product from the wheel, and only
the packages that the product depends on are borrowed from the environment of the tests.
"""

import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import __version__
from harness.cluster import ROOT, clean_environment
from harness.database import Database
from harness.facts import eventually
from harness.server import Server
from tests.support.clients import WebSocketClient

LISTED = """
import app, pathlib
from app.cli.migrate import home
print(pathlib.Path(app.__file__).parent)
print(home())
"""


def command(*arguments: str | Path, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(a) for a in arguments], cwd=cwd, env=clean_environment(**env), capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def wheel() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sobranie-wheel-") as name:
        built = command(
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index",
            "--wheel-dir", name, ROOT, cwd=Path(name),
        )  # fmt: skip
        assert built.returncode == 0, built.stdout + built.stderr
        (made,) = Path(name).glob("*.whl")
        yield made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Path]:
    """The directory of a fresh environment that has the wheel."""
    with tempfile.TemporaryDirectory(prefix="sobranie-installed-") as name:
        place = Path(name)
        venv.create(place, with_pip=False)
        python = place / "bin" / "python"
        done = command(
            sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel,
            cwd=place,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        packages = command(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).stdout
        (Path(packages.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        yield place


def test_the_wheel_has_every_file_of_the_product_and_nothing_else(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    own = {name for name in tracked if name.startswith("app/")}
    schema = {name for name in tracked if name.startswith(("migrations/", "sql/triggers/")) or name == "alembic.ini"}
    assert inside == own | {f"app/schema/{name}" for name in schema}
    assert __version__ in wheel.name


def test_the_command_comes_from_the_wheel_and_says_its_version(installed: Path) -> None:
    done = command(installed / "bin" / "sobranie", "--version", cwd=installed)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")
    for place in command(installed / "bin" / "python", "-c", LISTED, cwd=installed).stdout.split():
        assert Path(place).is_relative_to(installed)


def installed_server(installed: Path, url: str, cwd: Path, **environment: str) -> Server:
    server = Server(url, "wheel", None, **environment)
    server.program, server.cwd = (str(installed / "bin" / "sobranie"),), cwd
    return server


async def test_the_wheel_migrates_and_serves(installed: Path, empty_database: Database, tmp_path: Path) -> None:
    program, url = installed / "bin" / "sobranie", empty_database.url
    done = command(program, "migrate", cwd=tmp_path, DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    assert await empty_database.value("SELECT to_regclass('public.posts') IS NOT NULL")
    async with installed_server(installed, url, tmp_path) as server, WebSocketClient(server.url) as client:
        await client.subscribe("posts")
        await empty_database.execute("INSERT INTO posts (author_id, title) VALUES (7, 'from the wheel')")
        (change,) = await client.changes(1)
        assert change["data"]["title"] == "from the wheel"
    assert list(tmp_path.iterdir()) == []


async def test_workers_of_an_installed_server_are_its_own(installed: Path, database: Database, tmp_path: Path) -> None:
    """Whatever lies in the directory that it is started in."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("raise SystemExit('somebody else')")
    async with installed_server(installed, database.url, tmp_path, SOBRANIE_WORKERS="2") as server:
        await eventually(lambda: lives(server, 2), 20, "two workers")


async def lives(server: Server, count: int) -> bool:
    return await server.metric("sobranie_worker_up") == count


def test_an_installed_server_starts_the_embedded_database_where_it_is_started(installed: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sobranie-here-") as name:
        here = Path(name)
        done = command(installed / "bin" / "sobranie", "migrate", cwd=here, SOBRANIE_DATA="kept")
        assert done.returncode == 0, done.stderr
        assert (here / "kept" / "postgres" / "PG_VERSION").exists()
        assert not (here / "kept" / "postgres" / "postmaster.pid").exists()
