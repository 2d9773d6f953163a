"""What `make run` serves: a key of its own, and a page on which two users are signed in, each with his own rows."""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil
import pytest

from harness.cluster import ROOT, clean_environment, free_port
from harness.facts import eventually
from tests.support.browser import Browser, browser_program

INSERT = """fetch("/demo/notifications", {{ method: "POST", headers: {{ "Content-Type": "application/json" }},
  body: JSON.stringify({{ user_id: {user}, kind: "note", body: "{body}" }}) }}).then((answer) => answer.status)"""
BOXES = "JSON.stringify([...document.querySelectorAll('#users .user')].map((box) => box.innerText))"


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="sobranie-demo-"))
    made.chmod(0o711)
    yield made
    with suppress(OSError, ValueError, IndexError, psutil.Error):
        psutil.Process(int((made / "postgres" / "postmaster.pid").read_text().split()[0])).kill()
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
async def url(directory: Path) -> AsyncIterator[str]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "serve", cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True,
        env=clean_environment(SOBRANIE_DATA=str(directory), SOBRANIE_PORT=str(port)),
    )  # fmt: skip
    here = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        assert process.returncode is None
        with suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as http, http.get(here + "/readyz") as answer:
                return answer.status == 200
        return False

    await eventually(ready, 90, "the server is ready", every=0.2)
    yield here
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_token_of_the_command_line_holds_beside_it_and_strangers_are_served_too(
    url: str, directory: Path
) -> None:
    command = [sys.executable, "-m", "app", "token", "--sub", "42", "--ttl", "5m"]
    env = clean_environment(SOBRANIE_DATA=str(directory))
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for headers, status in (
        ({"Authorization": f"Bearer {done.stdout.strip()}"}, 200),
        ({"Authorization": f"Bearer {done.stdout.strip()}x"}, 401),
        ({}, 200),
    ):
        target = f"{url}/realtime/events?channel=posts"
        async with aiohttp.ClientSession() as http, http.get(target, headers=headers) as answer:
            assert answer.status == status


@pytest.mark.skipif(browser_program() is None, reason="no Chromium here (apt-get install chromium)")
async def test_two_users_are_signed_in_and_each_sees_his_own_notifications(url: str) -> None:
    async with Browser() as browser:
        await browser.open(url + "/")
        await browser.sees(f"JSON.parse({BOXES}).filter((said) => said.includes('live')).length === 2", "two users")
        assert await browser.run(INSERT.format(user=42, body="for forty-two")) == 201
        assert await browser.run(INSERT.format(user=7, body="for seven")) == 201
        await browser.sees(f"/for forty-two/.test({BOXES}) && /for seven/.test({BOXES})", "a row in each box")
        boxes = json.loads(await browser.run(BOXES))
        assert ["for forty-two" in box for box in boxes] == [True, False]
        assert ["for seven" in box for box in boxes] == [False, True]
        await browser.sees(
            "/for seven/.test(document.querySelector('#notifications-rows').innerText)", "the page's own"
        )
        await browser.run("document.querySelector('#users .user button').click()")
        revoked = time.time()
        await browser.sees(f"/ended: .*no right to/.test(JSON.parse({BOXES})[0])", "the revoked one has ended")
        assert await browser.run(INSERT.format(user=42, body="a secret")) == 201
        assert await browser.run(INSERT.format(user=7, body="no secret")) == 201
        await browser.sees(f"/no secret/.test({BOXES})", "the other goes on")
        assert "a secret" not in await browser.run(BOXES)
        # A token is issued in a whole second: that of the revocation is over.
        await eventually(lambda: time.time() - revoked > 1.1, 5, "a second has passed")
        await browser.run("document.querySelector('#users .user button').click()")
        await browser.sees(f"JSON.parse({BOXES})[0].includes('live')", "signed in again")
        assert browser.errors == []
