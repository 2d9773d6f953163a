"""What is sent to whom: pure state machines, with no I/O and no event loop."""
