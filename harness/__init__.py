"""What tests and benchmarks run the product with: a PostgreSQL, a database, a server, waiting for facts, pictures."""
