"""What is sent to whom, in which order and in which bytes: pure code, with no I/O and no event loop."""
