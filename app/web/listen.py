"""Addresses to listen on: what is wrong with one, in words that say what to do, and a port that is held for others."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from app.model.errors import StartError


@contextmanager
def hold_port(host: str, port: int, setting: str) -> Iterator[int]:
    """The port (0: any that is free), held and not listened on, for processes that share it with SO_REUSEPORT.

    Raises StartError where somebody has it, even if that one would share it.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        with _bind(family, host, port, socket.SO_REUSEADDR) as probe:
            port = probe.getsockname()[1]
        holder = _bind(family, host, port, socket.SO_REUSEPORT)
    except OSError as problem:
        raise StartError(why(problem, host, port, setting)) from problem
    with holder:
        yield port


def _bind(family: int, host: str, port: int, option: int) -> socket.socket:
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


def why(problem: OSError, host: str, port: int, setting: str) -> str:
    """Why nobody can listen there, and what to do."""
    if problem.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop who uses it, or set {setting} to another port"
    if problem.errno == errno.EACCES:
        return f"port {port} on {host} may not be opened by this user: set {setting} to a port above 1023"
    if isinstance(problem, socket.gaierror) or problem.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: set SOBRANIE_HOST"
    return f"can't listen on {host}, port {port}: {problem.strerror or problem}"
