"""What a server asks of Python, the C library and the system. Each is called once, when everything has been made.

Figures are for CPython 3.11 on glibc, two cores (docs/benchmarks.md has what a client takes).
"""

import ctypes
import gc
import resource
from contextlib import suppress
from typing import Final

_TRIM, _MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
LARGE: Final = 1 << 20  # bytes


def collect_rarely() -> None:
    """Have Python's garbage collector run rarely. The history is many small objects without cycles, and to walk them
    again and again cost a seventh of the reading.

    At most a quarter of a million young objects are walked at once. A million, while clients connect, was a pause of a
    tenth of a second for all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 5, 200)


def give_back() -> None:
    """Have large blocks go back to the system when they are freed. By itself glibc maps larger and larger ones into its
    heap, where one small survivor keeps them: rounds of slow clients and rows of 20 MB left 3 GB behind."""
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MAP, LARGE)
        mallopt(_TRIM, 4 * LARGE)


def raise_file_limit() -> None:
    """Allow as many open files as the system permits. Each client takes one; with none left nobody is answered, not
    even /livez."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # "unlimited" is more than some systems allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
