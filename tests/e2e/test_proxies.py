"""Behind real proxies, set up by the very blocks of docs/proxies.md: what passes, how soon, and what an EventSource
gets while the server is away. A proxy that is not installed here is passed over."""

import asyncio
import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientResponse, ClientSession

from harness.cluster import ROOT, free_port
from harness.database import Database
from harness.facts import eventually, holds
from harness.server import Server, Servers

PAGE = (ROOT / "docs" / "proxies.md").read_text()
NAME = "app.example.com"
SOON = 0.15  # seconds: without `option http-no-delay` HAProxy takes 0.2 for each event


@dataclass
class Proxy:
    """`config` makes a whole file of the docs' block; `command` runs it, given that file's path and its directory."""

    name: str
    program: str
    config: Callable[[str, Path, int], str]
    command: Callable[[str, str], list[str]]
    comes_back: bool = True  # whether it can answer an EventSource with 200 while no server is there


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, language
    return found[1]


def nginx(block: str, directory: Path, port: int) -> str:
    return f"""daemon off; pid {directory}/pid; error_log stderr; events {{}}
        http {{ access_log off; {block.replace("listen 80", f"listen 127.0.0.1:{port}")} }}"""


def haproxy(text: str, directory: Path, port: int) -> str:
    (directory / "come-back.http").write_bytes(block("http").replace("\n", "\r\n").encode())
    text = text.replace("bind :80", f"bind 127.0.0.1:{port}").replace("/etc/haproxy/errors", str(directory))
    return f"global\n  maxconn 100\n{text}"


def lighttpd(block: str, directory: Path, port: int) -> str:
    head = f'server.bind = "127.0.0.1"\nserver.port = {port}\nserver.document-root = "{directory}"\n'
    return f"{head}server.max-read-idle = 2\n{block}"


def apache(block: str, directory: Path, port: int) -> str:
    return f"""ServerRoot /usr/lib/apache2
        ServerName localhost
        Listen 127.0.0.1:{port}
        PidFile {directory}/pid
        ErrorLog {directory}/error.log
        LoadModule mpm_event_module modules/mod_mpm_event.so
        LoadModule authz_core_module modules/mod_authz_core.so
        {block}"""


def caddy(block: str, _: Path, port: int) -> str:
    return "{\n admin off\n auto_https off\n}\n" + block.replace(":80 {", f":{port} {{")


FILTERS = "type.googleapis.com/envoy.extensions.filters"


def envoy(block: str, _: Path, port: int) -> str:
    return f"""static_resources:
      listeners:
        - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
          filter_chains:
            - filters:
              - name: envoy.filters.network.http_connection_manager
                typed_config:
                  "@type": {FILTERS}.network.http_connection_manager.v3.HttpConnectionManager
                  stat_prefix: web
                  http_filters:
                    - name: envoy.filters.http.router
                      typed_config:
                        "@type": {FILTERS}.http.router.v3.Router
                  {block.replace(chr(10), chr(10) + " " * 18)}
      clusters:
        - name: sobranie
          type: STATIC
          load_assignment:
            cluster_name: sobranie
            endpoints:
              - lb_endpoints:
                  - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: SERVER }} }} }}
"""


PROXIES = [
    Proxy("nginx", "nginx", nginx, lambda f, d: ["-c", f, "-p", d]),
    Proxy("haproxy", "haproxy", haproxy, lambda f, _: ["-db", "-f", f]),
    Proxy("lighttpd", "lighttpd", lighttpd, lambda f, _: ["-D", "-f", f], comes_back=False),
    Proxy("apache", "apache2", apache, lambda f, _: ["-DFOREGROUND", "-f", f], comes_back=False),
    Proxy("yaml", "envoy", envoy, lambda f, _: ["-c", f, "--base-id", str(free_port()), "--log-level", "warn"]),
    Proxy("caddy", "caddy", caddy, lambda f, _: ["run", "--adapter", "caddyfile", "--config", f]),
]


@asynccontextmanager
async def in_front_of(server: Server, proxy: Proxy, directory: Path) -> AsyncIterator[str]:
    """The proxy's URL, once it answers."""
    program = shutil.which(proxy.program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip(f"no {proxy.program} here")
    port, file = free_port(), directory / ("proxy.yaml" if proxy.program == "envoy" else "proxy.conf")
    there = block(proxy.name).replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")
    there = there.replace('"port" => 3000', f'"port" => {server.port}')
    file.write_text(proxy.config(there, directory, port).replace("SERVER", str(server.port)))
    directory.chmod(0o755)
    log = directory / "proxy.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            program, *proxy.command(str(file), str(directory)), stdout=out, stderr=out, env={"HOME": str(directory)}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        async with ClientSession() as http:

            async def up() -> bool:
                assert process.returncode is None, log.read_text()
                try:
                    async with http.get(f"{url}/realtime/client.js", headers={"Host": NAME}) as answer:
                        return answer.status == 200
                except OSError:
                    return False

            await eventually(up, 15, f"{proxy.name} answers: {log.read_text()}")
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture
async def server(servers: Servers) -> Server:
    return await servers.start(SOBRANIE_HOSTS=NAME)


@pytest.fixture(params=PROXIES, ids=lambda proxy: proxy.name)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    chosen: Proxy = request.param
    return chosen


def page(url: str) -> dict[str, str]:
    """What the browser of a page of the proxy's own name sends."""
    host = f"{NAME}:{url.rpartition(':')[2]}"
    return {"Host": host, "Origin": f"http://{host}"}


async def event(stream: ClientResponse, kind: str) -> None:
    while f'"type":"{kind}"' not in (await asyncio.wait_for(stream.content.readline(), 15)).decode():
        pass


async def test_changes_pass_at_once_over_both_transports(
    database: Database, server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    async with in_front_of(server, proxy, tmp_path) as url, ClientSession() as http:
        ws = await http.ws_connect(f"{url}/realtime/ws", headers=page(url))
        await ws.send_json({"type": "subscribe", "id": 1, "channels": ["posts"]})
        async with http.get(f"{url}/realtime/events?channel=posts", headers=page(url)) as stream:
            assert (stream.status, stream.content_type) == (200, "text/event-stream")
            await event(stream, "position")
            while json.loads((await ws.receive(timeout=15)).data)["type"] != "position":
                pass
            took = []
            for _ in range(5):
                began = time.monotonic()
                await database.execute("INSERT INTO posts (author_id) VALUES (1)")
                await event(stream, "changes")
                took.append(time.monotonic() - began)
                while json.loads((await ws.receive(timeout=15)).data)["type"] != "changes":
                    pass
            assert min(took) < SOON, took
        await ws.close()


async def test_a_websocket_on_which_only_the_server_speaks_stays(
    server: Server, tmp_path: Path, database: Database
) -> None:
    """lighttpd ends a connection on which the client was silent, here for 2 s: the answers to Pings are no silence."""
    lighttpd = next(proxy for proxy in PROXIES if proxy.name == "lighttpd")
    async with in_front_of(server, lighttpd, tmp_path) as url, ClientSession() as http:
        ws = await http.ws_connect(f"{url}/realtime/ws", headers=page(url))
        await ws.send_json({"type": "subscribe", "id": 1, "channels": ["posts"]})
        reading = asyncio.create_task(ws.receive())

        async def reads_on() -> bool:
            nonlocal reading
            if reading.done():
                assert isinstance(reading.result().data, str), reading.result()
                reading = asyncio.create_task(ws.receive())
            return not ws.closed

        await holds(reads_on, 5, "the connection stays")
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await ws.close()


async def test_while_the_server_is_away_an_event_source_is_told_to_come_back(
    server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    async with in_front_of(server, proxy, tmp_path) as url, ClientSession() as http:
        await server.stop()
        async with http.get(f"{url}/realtime/events?channel=posts", headers=page(url)) as answer:
            said = (await answer.text()).replace("\r\n", "\n")
            if proxy.comes_back:
                assert (answer.status, answer.content_type, said) == (200, "text/event-stream", "retry: 3000\n\n")
            else:
                assert answer.status >= 500  # as docs/proxies.md says
        await server.start()

        async def serves() -> bool:
            async with http.get(f"{url}/realtime/client.js", headers=page(url)) as answer:
                return answer.status == 200

        await eventually(serves, 10, f"{proxy.name} finds the server again")
