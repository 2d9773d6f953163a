"""A real Chromium without a window, driven over the DevTools protocol.

Invariant: its profile is a temporary directory, and the process ends with the context.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from harness.facts import eventually

NAMES = ("chromium", "chromium-browser", "google-chrome")


def browser_program() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    def __init__(self) -> None:
        self.errors: list[str] = []
        self._profile = Path(tempfile.mkdtemp(prefix="sobranie-chromium-"))
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        program = browser_program()
        assert program is not None
        flags = [
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-port=0",
            "--window-size=1280,1000",
            f"--user-data-dir={self._profile}",
        ]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        self._process = await asyncio.create_subprocess_exec(
            program, *flags, "about:blank", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        port_file = self._profile / "DevToolsActivePort"
        await eventually(lambda: port_file.exists() and len(port_file.read_text().split()) == 2, 30, "Chromium is up")
        port = port_file.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        return self

    async def _read(self) -> None:
        async for frame in self._socket:
            message = frame.json()
            waiting = self._waiting.pop(message.get("id", 0), None)
            if waiting is not None:
                waiting.set_result(message)
            elif message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(str(message["params"])[:500])

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        message = await asyncio.wait_for(answer, 30)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await eventually(
            lambda: self.run(f"document.readyState === 'complete' && location.href.startsWith('{url}')"),
            20,
            f"{url} loaded",
        )

    async def run(self, script: str) -> Any:
        """The value of an expression (a promise is awaited)."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def sees(self, script: str, what: str, timeout: float = 15.0) -> Any:
        return await eventually(lambda: self.run(script), timeout, what, every=0.05)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._reader
        await self._session.close()
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)
