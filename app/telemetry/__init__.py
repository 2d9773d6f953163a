"""Two readings of the observations: logs and metrics."""
