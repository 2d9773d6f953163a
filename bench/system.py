"""What the system itself says of processes: CPU time and memory, and the machine's own description.

CPU time is a process's POSIX clock: nanoseconds, all threads, those that ended too. (The tick counts of /proc are
sampled a hundred times a second.)
"""

import os
import platform
import resource
import subprocess
import time
from pathlib import Path

import psutil

TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)


def family_cpu(pid: int) -> float:
    """Seconds of CPU of a process and its children, those that have ended included."""
    ended = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[13:15]
    total = cpu(pid) + sum(map(int, ended)) / TICK
    for child in psutil.Process(pid).children():
        try:
            total += cpu(child.pid)
        except OSError:  # it ended meanwhile
            continue
    return total


def rss(pid: int) -> int:
    """Resident memory in bytes."""
    return int(psutil.Process(pid).memory_info().rss)


def raise_file_limit() -> int:
    """As many open files as we may have, for this process and its children; returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (65536, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            break
        except (ValueError, OSError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def machine(files: int) -> dict[str, str]:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    return {
        "processor": f"{os.cpu_count()} × {model}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "open files": f"at most {files:,} a process",
    }


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
