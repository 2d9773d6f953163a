"""A whole PostgreSQL beside the server, for trying things out. Nothing that is used in production imports it."""
