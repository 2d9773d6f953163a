"""Which signals end the process in order: one list for the command line, a server and the keeper of several."""

import signal
from collections.abc import Iterator


def ending_signals() -> Iterator[signal.Signals]:
    """SIGINT and SIGTERM, and SIGHUP (the terminal has gone), unless that is ignored, as under nohup."""
    yield signal.SIGINT
    yield signal.SIGTERM
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP
