"""The product's own migrations. Never imported by `app`."""
