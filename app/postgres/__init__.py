"""The edge to PostgreSQL."""
