"""Alembic's environment: the caller hands over its connection, so that URL and settings live in one place."""

from __future__ import annotations

from alembic import context

from worker.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter a table in place
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
