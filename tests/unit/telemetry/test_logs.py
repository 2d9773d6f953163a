"""The log: one line a fact, in two forms, and no secret in any."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from app.model import observations as observe
from app.model.observations import Observation, fan
from app.model.settings import LogFormat
from app.telemetry.logs import LEVELS, Logs

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl"


def written(*facts: Observation, form: LogFormat = "json", level: str = "info") -> str:
    stream = io.StringIO()
    logs = Logs(form, level, server_id="s-1", stream=stream)
    for fact in facts:
        logs(fact)
    return stream.getvalue()


def lines(*facts: Observation, level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in written(*facts, level=level).splitlines()]


@pytest.fixture
def library_lines() -> Iterator[tuple[Logs, io.StringIO]]:
    """Logs installed beneath the standard library's logging, and taken away again."""
    root, stream = logging.getLogger(), io.StringIO()
    kept, level = root.handlers[:], root.level
    logs = Logs("json", stream=stream)
    logs.install()
    yield logs, stream
    logging.captureWarnings(False)
    root.handlers, root.level = kept, level


def test_every_fact_has_a_level_or_is_left_to_the_metrics() -> None:
    assert set(LEVELS) == observe.FACTS


def test_a_fact_is_one_json_line_with_its_fields_the_server_and_the_time() -> None:
    (line,) = lines(observe.Served("http://127.0.0.1:3000/", "0.1.0"))
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "served", "level": "info", "server": "s-1", "url": "http://127.0.0.1:3000/", "version": "0.1.0",
    }  # fmt: skip


def test_what_happens_per_client_is_debug_only() -> None:
    reset = observe.Reset("expired", 2)
    assert lines(reset) == []
    assert lines(reset, level="debug")[0]["event"] == "reset"
    assert lines(observe.MessagesSent("changes", "posts", 5), level="debug") == []


def test_the_notification_queue_is_an_alarm_only_when_it_fills() -> None:
    assert lines(observe.QueueUsage(0.01)) == []
    assert lines(observe.QueueUsage(0.2))[0]["level"] == "warning"


def test_an_error_that_nobody_foresaw_comes_with_its_traceback_on_one_line() -> None:
    try:
        raise RuntimeError("went wrong at postgresql://u:hunter2@h/d")
    except RuntimeError as error:
        (line,) = lines(observe.Failed("hub", error))
    assert line["what"] == "hub"
    assert "test_logs.py" in line["exception"]
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "text",
    [
        "connection to postgresql://user:hunter2@db/app failed",
        "connection to postgresql://user:hun@ter/hunter2@db/app failed",
        "password=hunter2 host=db",
        "password='hunter2 hunter2' host=db",
        "GET /realtime/ws?token=hunter2&x=1",
        "Authorization: Bearer hunter2",
        f"token is {JWT}",
    ],
)
def test_no_secret_reaches_a_line(form: LogFormat, text: str) -> None:
    line = written(observe.DatabaseLost(text), form=form)
    assert "***" in line
    assert "hunter2" not in line
    assert JWT not in line


def test_a_fact_whose_name_says_secret_is_hidden_whatever_it_is() -> None:
    stream = io.StringIO()
    Logs("json", stream=stream).write(logging.INFO, "settings", jwt_secret="hunter2", cookies={"a": "hunter2"})
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_break_in_a_value_makes_no_second_line(form: LogFormat) -> None:
    text = written(observe.DatabaseLost('gone\n{"event":"forged"}\r\x1b[2J\u2028'), form=form)
    assert len(text.splitlines()) == 1 or text.count("\n") == 1
    assert "\x1b[2J" not in text


def test_lines_of_libraries_come_out_in_the_same_form(library_lines: tuple[Logs, io.StringIO]) -> None:
    _, stream = library_lines
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling %s", "request\nforged")
    logging.getLogger("asyncio").debug("noise")
    logging.getLogger("aiohttp.access").info("GET /")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
    error, warning = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (error["event"], error["logger"], error["level"]) == (
        "Error handling request\nforged",
        "aiohttp.server",
        "error",
    )
    assert "ValueError: bad" in error["exception"]
    assert "soon gone" in warning["event"]


def test_a_stderr_that_is_gone_never_stops_the_server() -> None:
    stream = io.StringIO()
    logs = Logs("json", stream=stream)
    stream.close()
    logs(observe.Led())


def test_a_fan_tells_every_observer_in_order() -> None:
    told: list[tuple[str, Observation]] = []
    fact = observe.Led()
    fan(lambda o: told.append(("a", o)), lambda o: told.append(("b", o)))(fact)
    assert told == [("a", fact), ("b", fact)]
