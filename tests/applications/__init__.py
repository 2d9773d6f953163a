"""Applications of others, run as they are with all their tables watched: `make applications`."""
