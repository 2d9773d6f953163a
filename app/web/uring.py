"""Many sends in one system call, by io_uring, where the kernel has it and lets us (docs/decisions/0009).

Linux's interface is spoken directly (io_uring_setup(2), io_uring_enter(2), <linux/io_uring.h>): there is no kept
library for Python, and what is needed of it is one operation. Everything is done when a call returns: sockets do not
block, so each send ends at once, with what the kernel took or with an error.

Invariants
- The kernel is handed no memory beyond a call.
- Each call asks the sockets for their file descriptors. A closed socket's is -1, so nothing is sent to another
  connection that got an old number.
"""

import ctypes
import errno
import mmap
import os
import struct
import sys
from array import array
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Final

from app.core.audience import Socket, one_by_one

SETUP: Final = 425  # system calls, which have these numbers on every architecture
ENTER: Final = 426
ENTRIES: Final = 1024  # sends in one call
FEW: Final = 32  # with fewer sockets than this, io_uring costs more than it saves
TRIES: Final = 100  # where the kernel is short of something

_SEND: Final = 26  # IORING_OP_SEND
_GET_EVENTS: Final = 1
_SQES: Final = 0x10000000  # IORING_OFF_SQES
_SINGLE_MMAP: Final = 1
_NODROP: Final = 2
_FLAGS: Final = 0x40 | 0x4000  # MSG_DONTWAIT, MSG_NOSIGNAL
_SQE: Final = 64  # bytes of a submission, and
_CQE: Final = 16  # of a completion
_AGAIN: Final = (errno.EINTR, errno.EAGAIN, errno.EBUSY)


class UringSender:
    """One io_uring, for one thread. Raises OSError where the kernel has none for us.

    It has many attributes because they are the places and views of the memory that the kernel shares (io_uring_setup).
    """

    def __init__(self, entries: int = ENTRIES) -> None:
        if sys.byteorder != "little" or struct.calcsize("P") != 8:
            raise OSError(errno.ENOSYS, "io_uring is spoken on 64-bit little-endian machines only")
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._broken: bytes | None = None
        parameters = ctypes.create_string_buffer(120)
        self._fd = self._system(SETUP, entries, parameters)
        with ExitStack() as undo:
            undo.callback(os.close, self._fd)
            self._map(parameters.raw)
            undo.pop_all()

    def _map(self, parameters: bytes) -> None:
        submissions, completions, _, _, _, features = struct.unpack_from("6I", parameters)
        if not features & _SINGLE_MMAP or not features & _NODROP:
            raise OSError(errno.ENOSYS, "io_uring of this kernel is too old")
        self._sq_head, self._sq_tail, _, _, _, _, sq_array = (o // 4 for o in struct.unpack_from("7I", parameters, 40))
        cq = struct.unpack_from("6I", parameters, 80)
        self._cq_head, self._cq_tail, self._cqes = cq[0] // 4, cq[1] // 4, cq[5] // 4
        self._submissions, self._completions, self._array = submissions, completions, sq_array
        size = max(sq_array * 4 + submissions * 4, cq[5] + completions * _CQE)
        # The views keep the maps, and the maps are the kernel's as long as there are views.
        ring = memoryview(mmap.mmap(self._fd, -(-size // 4) * 4, flags=mmap.MAP_SHARED))
        self._ring, self._results = ring.cast("I"), ring.cast("i")
        sqes = memoryview(mmap.mmap(self._fd, submissions * _SQE, flags=mmap.MAP_SHARED, offset=_SQES))
        self._words, self._fds, self._longs = sqes.cast("I"), sqes.cast("i"), sqes.cast("Q")
        self._numbers = array("I", range(submissions))
        for n in range(submissions):  # what is the same for all sends, for ever
            self._words[n * 16] = _SEND
            self._words[n * 16 + 7] = _FLAGS
            self._longs[n * 8 + 4] = n  # comes back with its result

    def _system(self, number: int, *arguments: object) -> int:
        """Raises OSError."""
        result = int(self._call(ctypes.c_long(number), *arguments))
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result

    def burst(self, sockets: Collection[Socket], data: bytes) -> list[tuple[Socket, int]]:
        """As `app.core.audience.one_by_one`."""
        if len(sockets) < FEW:
            return one_by_one(sockets, data)
        short, rest, size = list[tuple[Socket, int]](), iter(sockets), len(data)
        while some := list(islice(rest, self._submissions)):
            if self._broken is not None:
                short += one_by_one(some, data)
                continue
            results = self._send([socket.fileno() for socket in some], data)
            if results.count(size) < len(some):
                short += [(socket, max(sent, 0)) for socket, sent in zip(some, results, strict=True) if sent != size]
        return short

    def _send(self, fds: Sequence[int], data: bytes) -> list[int]:
        """What the kernel took of `data` for each, or a negative error."""
        count = len(fds)
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
        assert address is not None
        self._fds[1 : count * 16 : 16] = array("i", fds)
        self._longs[2 : count * 8 : 8] = array("Q", (address,)) * count
        self._words[6 : count * 16 : 16] = array("I", (len(data),)) * count
        self._queue(count)
        self._enter(count, data)
        return self._reap(count)

    def _queue(self, count: int) -> None:
        tail = self._ring[self._sq_tail]
        at = tail % self._submissions
        first = min(count, self._submissions - at)
        self._ring[self._array + at : self._array + at + first] = self._numbers[:first]
        self._ring[self._array : self._array + count - first] = self._numbers[first:count]
        self._ring[self._sq_tail] = (tail + count) & 0xFFFFFFFF

    def _enter(self, count: int, data: bytes) -> None:
        """Have the kernel take and complete all that is queued. Where it will not, what is left is taken back, and the
        ring is not used again."""
        tries = TRIES
        try:
            while (waiting := count - self._completed()) > 0:
                left = (self._ring[self._sq_tail] - self._ring[self._sq_head]) & 0xFFFFFFFF
                try:
                    self._system(ENTER, self._fd, left, waiting, _GET_EVENTS, None, ctypes.c_size_t(0))
                except OSError as error:
                    tries -= error.errno != errno.EINTR
                    if error.errno not in _AGAIN or not tries:
                        self._give_up(data)
                        return
        except BaseException:
            self._give_up(data)
            raise

    def _give_up(self, data: bytes) -> None:
        self._broken = data  # what the kernel may still look at stays where it is
        self._ring[self._sq_tail] = self._ring[self._sq_head]

    def _completed(self) -> int:
        return int(self._ring[self._cq_tail] - self._ring[self._cq_head]) & 0xFFFFFFFF

    def _reap(self, count: int) -> list[int]:
        """The results in the order of the submissions."""
        found, head = self._completed(), self._ring[self._cq_head]
        at = head % self._completions
        first = min(found, self._completions - at)
        low, high, wrapped = self._cqes + at * 4, self._cqes + (at + first) * 4, self._cqes + (found - first) * 4
        numbers = self._results[low:high:4].tolist() + self._results[self._cqes : wrapped : 4].tolist()
        taken = self._results[low + 2 : high : 4].tolist() + self._results[self._cqes + 2 : wrapped : 4].tolist()
        self._ring[self._cq_head] = (head + found) & 0xFFFFFFFF
        if numbers == list(range(count)):
            return taken
        results = [-errno.EIO] * count
        for number, sent in zip(numbers, taken, strict=True):
            results[number] = sent
        return results
