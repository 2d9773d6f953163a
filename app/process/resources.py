"""What a server asks of Python, the C library and the system for itself. Called once, when everything has been made.

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
    """The history is many small objects without cycles: walking them again and again cost a seventh of the reading.

    Of the young at most a quarter of a million are walked at once: a million, while clients stream in, was a pause of
    a tenth of a second for all.
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
    """As many as we may have: each client takes one, and without any left nobody is answered, /livez included."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # "unlimited" is more than some systems allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
