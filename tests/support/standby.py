"""Copies of a cluster: a streaming standby that can be promoted, a clone of the data directory, a dump and its restore.

Invariants: a standby is a real one (pg_basebackup, streaming), in a directory and on a port of its own; `fall_behind`
cuts replication for good, so what is written afterwards is a tail that the standby does not have.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.cluster import Cluster
from harness.facts import eventually

NAME = "standby"


@contextmanager
def standby(primary: Cluster, *, synchronous: bool = False) -> Iterator[Cluster]:
    """A standby that streams from `primary`; where `synchronous`, commits there wait until it has them on disk."""
    made = Cluster(base=primary, cluster_name=NAME)
    try:
        if synchronous:
            configure(primary, "synchronous_standby_names", NAME)
        yield made
    finally:
        made.close()


def configure(cluster: Cluster, name: str, value: str) -> None:
    cluster._ddl(f"ALTER SYSTEM SET {name} = '{value}'")
    cluster.execute("SELECT pg_reload_conf()")


async def caught_up(primary: Cluster, copy: Cluster) -> None:
    """Waits until the standby has replayed everything that the primary has written."""
    ((upto,),) = primary.execute("SELECT pg_current_wal_insert_lsn()::text")
    lag = f"SELECT pg_last_wal_replay_lsn() >= '{upto}'"
    await eventually(lambda: copy.execute(lag)[0][0], 30, f"the standby is at {upto}")


async def fall_behind(primary: Cluster, copy: Cluster) -> None:
    """Cuts replication: the standby gets nothing that is written from now on."""
    configure(copy, "primary_conninfo", "")
    cut = "SELECT count(*) = 0 FROM pg_stat_replication"
    await eventually(lambda: primary.execute(cut)[0][0], 30, "replication is cut")


async def shut_down(primary: Cluster, copy: Cluster) -> None:
    """A clean switchover's first half: the primary ends when the standby has everything."""
    await caught_up(primary, copy)
    primary.stop("fast")


def promote(copy: Cluster) -> None:
    copy.run("pg_ctl", "-D", str(copy.data), "-w", "promote")


def either(database: str, *clusters: Cluster) -> str:
    """A URL that leads to whichever of the clusters is the primary."""
    hosts = ",".join("127.0.0.1" for _ in clusters)
    ports = ",".join(str(cluster.port) for cluster in clusters)
    return f"postgresql://postgres@/{database}?host={hosts}&port={ports}&target_session_attrs=read-write"


class Clone(Cluster):
    """A copy of the data directory of a cluster that is stopped (or was killed), started on its own."""

    def __init__(self, base: Cluster) -> None:
        self._base = base
        super().__init__(base=base)

    def run(self, program: str, *args: str) -> str:
        if program != "pg_basebackup":
            return super().run(program, *args)
        subprocess.run(["cp", "-a", str(self._base.data), str(self.data)], check=True)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        return ""


@contextmanager
def clone(base: Cluster) -> Iterator[Cluster]:
    made = Clone(base)
    try:
        yield made
    finally:
        made.close()


def dump(cluster: Cluster, database: str) -> Path:
    """The database in a file (pg_dump's custom format)."""
    path = cluster.dir / f"{database}.dump"
    cluster.run("pg_dump", "-Fc", "-f", str(path), "-d", cluster.url(database))
    return path


def restore(cluster: Cluster, database: str, path: Path, *options: str) -> None:
    """`pg_restore`; the file may be another cluster's."""
    own = cluster.dir / "restored.dump"
    if path != own:
        shutil.copy(path, own)
        if os.geteuid() == 0:
            shutil.chown(own, "nobody")
    cluster.run("pg_restore", *options, "-d", cluster.url(database), str(own))
