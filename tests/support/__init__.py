"""What the tests stand on: a real PostgreSQL, real server processes, real clients, and a judge of what they saw."""
