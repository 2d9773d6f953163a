"""The words of the product: pure values, with no I/O."""
