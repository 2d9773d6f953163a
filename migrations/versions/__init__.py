"""One file a revision; what a released one says is never changed."""
