"""Readings, the states of models, and the series of produced objects."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

from worker.db.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_series_of_objects()
    _add_indexes_of_metrics()
    _add_readings()
    _replace_check("object", "kind", "kind IN ('report', 'picture', 'key-objects')")
    _add_model_states()


def downgrade() -> None:
    op.drop_index(op.f("ix_object_series_instance_uid"), "object")
    op.drop_column("object", "series_instance_uid")
    op.drop_index(op.f("ix_series_status_reason"), table_name="series")
    op.drop_index(op.f("ix_delivery_destination_commitment"), table_name="delivery")
    _remove_model_states()
    _remove_readings()
    op.execute("DELETE FROM delivery WHERE object_id IN (SELECT id FROM object WHERE kind = 'key-objects')")
    op.execute("DELETE FROM object WHERE kind = 'key-objects'")
    _replace_check("object", "kind", "kind IN ('report', 'picture')")


def _add_readings() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "reading",
        sa.Column("id", number, nullable=False),
        sa.Column("series_id", number, nullable=False),
        sa.Column("number", number, nullable=False),
        sa.Column("result_id", number, nullable=True),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("slices", sa.JSON(), nullable=False),
        sa.Column("comment", sa.String(length=1024), nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_reading_series_id_series")),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_reading_result_id_result")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reading")),
        sa.UniqueConstraint("series_id", "number", name=op.f("uq_reading_series_id_number")),
    )
    op.create_index(op.f("ix_reading_created_at"), "reading", ["created_at"])
    op.add_column("slice_result", sa.Column("distance", sa.Double(), nullable=True))
    _replace_check("token", "role", "role IN ('read', 'annotate', 'operate')")


def _remove_readings() -> None:
    op.execute("UPDATE token SET role = 'read' WHERE role = 'annotate'")
    _replace_check("token", "role", "role IN ('read', 'operate')")
    op.drop_column("slice_result", "distance")
    op.drop_table("reading")


def _add_model_states() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("model", sa.Column("state", sa.String(length=16), nullable=False, server_default="retired"))
    op.add_column("model", sa.Column("state_at", UtcDateTime(), nullable=True))
    op.add_column("model", sa.Column("state_by", sa.String(length=64), nullable=False, server_default="configuration"))
    op.execute("UPDATE model SET state_at = added_at")
    with op.batch_alter_table("model") as batch:
        batch.alter_column("state_at", nullable=False)
        batch.alter_column("state", server_default=None)
        batch.alter_column("state_by", server_default=None)
        states = "state IN ('added', 'shadow', 'active', 'retired', 'removed')"
        batch.create_check_constraint(op.f("ck_model_state"), states)
    op.add_column("job", sa.Column("shadow", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "model_choice",
        sa.Column("id", number, nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("made_by", sa.String(length=64), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.Column("undone_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_choice")),
    )
    op.create_table(
        "model_load",
        sa.Column("model_id", number, nullable=False),
        sa.Column("host", sa.String(length=128), nullable=False),
        sa.Column("process", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.String(length=1024), nullable=True),
        sa.Column("deaths", number, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("state IN ('loading', 'loaded', 'failed')", name=op.f("ck_model_load_state")),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_model_load_model_id_model")),
        sa.PrimaryKeyConstraint("model_id", "host", name=op.f("pk_model_load")),
    )
    op.create_table(
        "shadow_result",
        sa.Column("job_id", number, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("probabilities", sa.JSON(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.String(length=1024), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("status IN ('classified', 'not-assessed')", name=op.f("ck_shadow_result_status")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_shadow_result_job_id_job")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_shadow_result")),
    )


def _remove_model_states() -> None:
    for table in ("shadow_result", "model_load", "model_choice"):
        op.drop_table(table)
    # A job in shadow has no result of the kind that revision 0001 knows.
    op.execute("DELETE FROM job WHERE shadow")
    op.drop_column("job", "shadow")
    with op.batch_alter_table("model") as batch:
        batch.drop_constraint(op.f("ck_model_state"), type_="check")
        for name in ("state", "state_at", "state_by"):
            batch.drop_column(name)


def _add_series_of_objects() -> None:
    """The series of each object, named as `worker.dicom.standard.produced_series_uid` always has."""
    op.add_column("object", sa.Column("series_instance_uid", sa.String(length=64), nullable=False, server_default=""))
    bind = op.get_bind()
    sources = (
        "SELECT object.id, object.kind, series.series_instance_uid, model.sha256 FROM object "
        "JOIN result ON result.id = object.result_id JOIN series ON series.id = result.series_id "
        "JOIN model ON model.id = result.model_id WHERE object.id > :last ORDER BY object.id LIMIT 10000"
    )
    change, last = sa.text("UPDATE object SET series_instance_uid = :uid WHERE id = :id"), 0
    while rows := bind.execute(sa.text(sources), {"last": last}).all():
        bind.execute(change, [{"id": row[0], "uid": _derived(f"{row[1]}-series", row[2], row[3])} for row in rows])
        last = rows[-1][0]
    with op.batch_alter_table("object") as batch:
        batch.alter_column("series_instance_uid", server_default=None)
    op.create_index(op.f("ix_object_series_instance_uid"), "object", ["series_instance_uid"])


def _derived(*parts: str) -> str:
    """Like worker.dicom.standard.derive_uid, copied because a revision must never change."""
    return f"2.25.{uuid.uuid5(uuid.UUID('6f1c0d5e-6d3b-5b7a-9d0e-0c2f4c1a8f77'), chr(31).join(parts)).int}"


def _replace_check(table: str, name: str, condition: str, *others: tuple[str, str]) -> None:
    """Give a table another CHECK. `others` (name, condition) stay: a table that SQLite recreates loses its checks."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table(table) as batch:
        if not on_sqlite:
            batch.drop_constraint(op.f(f"ck_{table}_{name}"), type_="check")
        for check, meaning in [(name, condition), *(others if on_sqlite else ())]:
            batch.create_check_constraint(op.f(f"ck_{table}_{check}"), meaning)


def _add_indexes_of_metrics() -> None:
    refused, uncommitted = sa.text("status = 'refused'"), sa.text("commitment IN ('due', 'requested')")
    op.create_index(
        op.f("ix_series_status_reason"), "series", ["status", "reason"], sqlite_where=refused, postgresql_where=refused
    )
    op.create_index(
        op.f("ix_delivery_destination_commitment"), "delivery", ["destination", "commitment"],
        sqlite_where=uncommitted, postgresql_where=uncommitted,
    )  # fmt: skip
