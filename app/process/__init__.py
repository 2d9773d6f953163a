"""The process: its workers, its resources, the signals that end it."""
