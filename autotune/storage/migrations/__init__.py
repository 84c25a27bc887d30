"""Alembic migrations of our tables; `autotune.storage.schema` runs them."""
