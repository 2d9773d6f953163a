"""PostgreSQL as the database that is served: its event log, its rows, its leader, its own bus."""
