"""The log: one reading of app.model.observations, on stderr, as JSON lines or for a person's eyes.

Invariants
- No secret and no client's data reaches a line.
- One fact is one line.
- What happens to each client is at level debug, and the metrics count it: a thousand reconnects don't flood the log
  that an incident is read in.
- The lines of libraries (aiohttp, asyncio, warnings) come out in the same form.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from dataclasses import fields
from typing import Any, Final, TextIO

import structlog

from app.model import observations as observe
from app.model.database_url import redact_url
from app.model.observations import Observation
from app.model.settings import LogFormat

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

# The level of each fact; None is for the metrics alone.
LEVELS: Final[dict[type[Observation], int | None]] = {
    observe.Served: INFO,
    observe.FanOut: INFO,
    observe.Stopped: INFO,
    observe.WorkerStarted: INFO,
    observe.WorkerEnded: ERROR,
    observe.WorkerNotStarted: ERROR,
    observe.WorkerHeard: DEBUG,
    observe.WorkerHung: ERROR,
    observe.Noted: WARNING,
    observe.Failed: ERROR,
    observe.Timeout: WARNING,
    observe.ConnectionOpened: DEBUG,
    observe.ConnectionClosed: DEBUG,
    observe.ConnectionFailed: DEBUG,
    observe.SocketCut: DEBUG,
    observe.Full: WARNING,
    observe.Crowded: WARNING,
    observe.Limited: DEBUG,
    observe.PageRefused: WARNING,
    observe.Authenticated: DEBUG,
    observe.JwksFetched: DEBUG,
    observe.JwksFailed: WARNING,
    observe.MessagesReceived: None,
    observe.Refused: DEBUG,
    observe.MessagesSent: None,
    observe.Delivered: None,
    observe.Lagging: DEBUG,
    observe.Replayed: DEBUG,
    observe.ReplayRead: DEBUG,
    observe.Reset: DEBUG,
    observe.DatabaseLost: ERROR,
    observe.Flowing: INFO,
    observe.NotFlowing: ERROR,
    observe.ConnectFailed: WARNING,
    observe.DatabaseBack: INFO,
    observe.Led: INFO,
    observe.Resigned: INFO,
    observe.LeaderEnded: WARNING,
    observe.Gate: DEBUG,
    observe.BatchRead: DEBUG,
    observe.Unreadable: ERROR,
    observe.SafetyPollFound: ERROR,
    observe.IncarnationChanged: WARNING,
    observe.HistoryBytes: None,
    observe.EventLogState: None,
    observe.EventLogTurned: INFO,
    observe.EventLogTurnBlocked: WARNING,
    observe.EventLogTurnFree: INFO,
    observe.FuseOpened: ERROR,
    observe.FuseHealed: WARNING,
    observe.QueueUsage: None,
    observe.StrangerAtLock: WARNING,
    observe.Strangers: None,
    observe.TableRedefined: INFO,
    observe.TableOffAir: INFO,
    observe.WatchProblem: WARNING,
    observe.PoliciesRead: DEBUG,
    observe.PolicyUnreadable: WARNING,
    observe.SubscribeRefused: DEBUG,
}
# From here on a session that sleeps in a transaction after LISTEN is worth an alarm: a full queue fails every NOTIFY.
QUEUE_ALARM: Final = 0.1

_SECRET_NAME: Final = re.compile(r"passw|secret|token|authorization|cookie|api_?key", re.IGNORECASE)
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_PAIR: Final = re.compile(r"\b((?:ssl)?password|token|access_token|secret)=('[^']*'|[^\s&\"',;)]+)", re.IGNORECASE)
_BEARER: Final = re.compile(r"\b(bearer\s+)\S+|\beyJ[\w-]+\.[\w-]+\.[\w-]*", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Logs:
    """An observer that writes. `stream` is stderr as it is at the time of each line."""

    def __init__(
        self, form: LogFormat, level: str = "info", *, server_id: str = "", stream: TextIO | None = None
    ) -> None:
        self._level = logging.getLevelNamesMapping()[level.upper()]
        self._logger = structlog.wrap_logger(
            _Lines(stream),
            processors=_processors(form),
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
            cache_logger_on_first_use=True,
        )
        if form == "json" and server_id:
            self._logger = self._logger.bind(server=server_id)

    def __call__(self, observation: Observation) -> None:
        level = LEVELS[type(observation)]
        if isinstance(observation, observe.QueueUsage) and observation.ratio >= QUEUE_ALARM:
            level = WARNING
        if isinstance(observation, observe.JwksFetched) and observation.left_out:
            level = INFO
        if level is None or level < self._level:
            return
        self.write(level, _name(type(observation)), **_facts(observation))

    def write(self, level: int, event: str, **facts: object) -> None:
        """One line. `event` is a fixed phrase; what varies is a fact."""
        self._logger.log(level, event, **facts)

    def install(self) -> None:
        """Send the lines of every library here, and Python's warnings; loop debug and access logs stay out."""
        root = logging.getLogger()
        root.handlers = [_Forward(self)]
        root.setLevel(max(self._level, INFO))
        logging.getLogger("aiohttp.access").setLevel(WARNING)
        logging.captureWarnings(True)


class _Lines:
    """Writes each line with one call, so that the lines of several threads never mix. A stderr that can't be written
    never stops the server."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = log = msg


class _Forward(logging.Handler):
    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            facts: dict[str, object] = {"logger": record.name}
            if record.exc_info:
                facts["exc_info"] = record.exc_info
            self._logs.write(record.levelno, record.getMessage(), **facts)
        except Exception:  # noqa: BLE001 (as in logging itself: a line that can't be written is no error of its caller)
            self.handleError(record)


def redact(text: str) -> str:
    """`text` without passwords in URLs and settings, and without tokens."""
    text = _URL.sub(lambda match: redact_url(match[0]), text)
    text = _PAIR.sub(r"\1=***", text)
    return _BEARER.sub(lambda match: f"{match[1] or ''}***", text)


def _name(kind: type[Observation]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def _facts(observation: Observation) -> dict[str, object]:
    facts: dict[str, object] = {f.name: getattr(observation, f.name) for f in fields(observation)}  # type: ignore[arg-type]
    error = facts.get("error")
    if isinstance(error, BaseException):
        facts |= {"error": f"{type(error).__name__}: {error}", "exc_info": error}
    return facts


def _processors(form: LogFormat) -> list[structlog.typing.Processor]:
    last: list[structlog.typing.Processor]
    if form == "json":
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="at")
        last = [structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
    else:
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="timestamp")
        plain = structlog.dev.plain_traceback
        last = [_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [structlog.processors.add_log_level, stamp, structlog.processors.format_exc_info, _redacted, *last]


def _redacted(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _SECRET_NAME.search(name):
            event[name] = "***"
        elif isinstance(value, str):
            event[name] = redact(value)
        elif not isinstance(value, (int, float, type(None))):
            event[name] = redact(str(value))
    return event


def _one_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters in the words of a library's line. The facts are quoted by the renderer."""
    event["event"] = _CONTROL.sub(lambda match: repr(match[0])[1:-1], str(event["event"]))
    return event
