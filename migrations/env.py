"""Alembic's environment: the caller passes its connection, so that Alembic needs neither URL nor settings."""

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
