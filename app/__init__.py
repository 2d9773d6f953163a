"""Sobranie Realtime: every committed change of a PostgreSQL database, live, in order, exactly once."""

__version__ = "0.1.0"
