"""A front-end of PostgreSQL whose clients' connections move: see docs/postgres.md."""
