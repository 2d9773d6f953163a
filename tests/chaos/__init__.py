"""Everything that can fail, failing at random for as long as one likes, judged: `make chaos minutes=N seed=S`."""
