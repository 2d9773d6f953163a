"""The command line: one file a command. Each has `add`, which says how it is asked for, and `run`, its exit code."""
