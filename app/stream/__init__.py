"""The stream of one server: it follows the leader, applies batches, keeps them, replays them, and looks up what clients
name. `ports.py` says what it needs of the edges."""
