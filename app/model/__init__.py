"""The words of the product as values: positions, changes, channels, errors, settings, observations. No I/O."""
