"""What can be observed of the process."""

from dataclasses import dataclass
from typing import Literal

from app.model.observations.base import Observation


@dataclass(frozen=True, slots=True)
class Served(Observation):
    """The server accepts connections at `url`."""

    url: str
    version: str


@dataclass(frozen=True, slots=True)
class FanOut(Observation):
    """How bytes get to many clients: by `io_uring`, or by a `send` for each. `reason` is why io_uring can't be used."""

    by: Literal["io_uring", "send"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stopped(Observation):
    """The server has ended in order; `seconds` since it was asked to."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerStarted(Observation):
    """One of several servers on one port."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerEnded(Observation):
    """A worker ended that nobody had asked to end. It is started again. `code` is its exit code."""

    worker: str
    pid: int
    code: int


@dataclass(frozen=True, slots=True)
class WorkerNotStarted(Observation):
    """The system would not start a worker; it is tried again."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerHeard(Observation):
    """A worker answers its keeper for the first time: from now on it is killed if it falls silent."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerHung(Observation):
    """A worker is killed. It did not answer, or did not end when it was asked to, for so many seconds."""

    worker: str
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Noted(Observation):
    """Something that an operator should know once."""

    note: str


@dataclass(frozen=True, slots=True)
class Failed(Observation):
    """An error that nobody foresaw, in the part `what`; the server goes on. A bug, and counted."""

    what: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Timeout(Observation):
    """Something took too long and was given up: `what` is one of a few fixed names."""

    what: str
