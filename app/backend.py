"""What a server follows, opened: the database, and the bus that the settings name.

A new bus is one file in `app/bus/`, one case of `open_bus`, and its scheme in app.model.settings.BUSES, which lists
what SOBRANIE_BUS may name. `open_bus` imports a bus only when the setting names it, so that nobody needs the client
library of a bus that he does not use.
"""

from datetime import timedelta
from functools import partial
from typing import Final

from app.model.errors import SettingsError
from app.model.observations import Observer
from app.model.settings import Settings
from app.postgres.connect import connect
from app.postgres.event_log import PostgresEventLog
from app.postgres.leader import Leader
from app.postgres.partitions import Retention
from app.postgres.policies import PostgresPolicies
from app.stream.ports import Backend, Bus

FUSE_TIMES: Final = 4  # the limit of the event log, where nothing else is set


def open_backend(settings: Settings, observe: Observer) -> Backend:
    """PostgreSQL at DATABASE_URL. Connects to nothing yet. Raises SettingsError."""
    url = settings.database_url
    assert url is not None
    event_log = PostgresEventLog(
        url, observe, rows_max=settings.rows_max, rows_bytes=settings.rows_bytes, rows_budget=settings.rows_budget
    )
    bus = open_bus(settings, observe)
    retention = Retention(
        timedelta(seconds=settings.retention),
        settings.event_log_bytes,
        settings.fuse_bytes or FUSE_TIMES * settings.event_log_bytes,
        settings.ballast_bytes,
    )
    return Backend(
        event_log=event_log,
        tables=event_log.catalog,
        rows=event_log,
        policies=PostgresPolicies(event_log.reader, lambda: connect(url, name="rights")),
        bus=bus,
        lead=partial(Leader, url, retention, observe=observe),
        # The PostgreSQL bus is what LISTENs. With another bus a server needs no notification, and this is always true.
        listening=lambda: bus.ready,
    )


def open_bus(settings: Settings, observe: Observer) -> Bus:
    """The bus that SOBRANIE_BUS names by its scheme. Raises SettingsError."""
    match settings.bus.partition(":")[0]:
        case "postgres":
            from app.postgres.bus import PostgresBus

            url = settings.database_url
            assert url is not None
            return PostgresBus(lambda purpose: connect(url, name=purpose), settings.server_id, observe)
        case scheme:
            raise SettingsError(f"SOBRANIE_BUS: there is no bus {scheme}: in this version; unset it, or set postgres:")
