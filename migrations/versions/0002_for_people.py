"""What the page, the loop back to training and the choice of models need."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

from worker.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_readings()
    _add_series_of_objects()
    _add_indexes_of_metrics()
    _replace_check("object", "kind", "kind IN ('report', 'picture', 'key-objects')")


def downgrade() -> None:
    _remove_readings()
    op.drop_index(op.f("ix_object_series_instance_uid"), "object")
    op.drop_column("object", "series_instance_uid")
    op.drop_index(op.f("ix_series_status_reason"), table_name="series")
    op.drop_index(op.f("ix_delivery_destination_commitment"), table_name="delivery")
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


def _add_indexes_of_metrics() -> None:
    refused, uncommitted = sa.text("status = 'refused'"), sa.text("commitment IN ('due', 'requested')")
    op.create_index(
        op.f("ix_series_status_reason"), "series", ["status", "reason"], sqlite_where=refused, postgresql_where=refused
    )
    op.create_index(
        op.f("ix_delivery_destination_commitment"),
        "delivery",
        ["destination", "commitment"],
        sqlite_where=uncommitted,
        postgresql_where=uncommitted,
    )


def _add_series_of_objects() -> None:
    """The series of each object, as `worker.dicom.produced_series_uid` has named it since the first release."""
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
    """As worker.dicom.derive_uid: a revision changes with nothing."""
    return f"2.25.{uuid.uuid5(uuid.UUID('6f1c0d5e-6d3b-5b7a-9d0e-0c2f4c1a8f77'), chr(31).join(parts)).int}"


def _replace_check(table: str, name: str, condition: str, *others: tuple[str, str]) -> None:
    """Give a table another CHECK. `others` (name, condition) stay: a table that SQLite makes anew loses all of them."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table(table) as batch:
        if not on_sqlite:
            batch.drop_constraint(op.f(f"ck_{table}_{name}"), type_="check")
        for one, meaning in [(name, condition), *(others if on_sqlite else ())]:
            batch.create_check_constraint(op.f(f"ck_{table}_{one}"), meaning)
