"""The clients of one server: their connections, and how each is fed."""
