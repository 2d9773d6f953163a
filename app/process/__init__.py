"""The process itself: its workers, its resources, the signals that end it."""
