"""The stream of one server: batches, history, replays."""
