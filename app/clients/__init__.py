"""The clients of one server: the connection of each, how channels join it, how it is fed, and the registry of all."""
