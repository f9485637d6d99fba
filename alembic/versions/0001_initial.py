"""The tables of the first release of this engine."""

import sqlalchemy as sa
from alembic import op

from gnocchi.indexer.types import JSON, SEARCHABLE_JSON, SERIAL, TIMESTAMP, UUID, ProjectOf, table_options, text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAME = text(255)

#: In the order in which they can be made.
TABLES = ("archive_policy", "archive_policy_rule", "resource_type", "resource", "resource_history", "metric", "sack",
          "pack", "block", "parked", "garbage", "statistics")


def options():
    return table_options(op.get_bind().dialect)


def upgrade():
    if op.get_bind().dialect.name == "mysql":
        drop_leftovers()
    create_archive_policies()
    create_resources()
    create_metrics()
    create_catalogue()


def drop_leftovers():
    """Remove what an upgrade that was cut off has left: MySQL commits each CREATE TABLE by itself."""
    existing = set(sa.inspect(op.get_bind()).get_table_names())
    for table in reversed(TABLES):
        if table in existing:
            if op.get_bind().execute(sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)).first():
                raise RuntimeError(f"table {table} has rows, but the database has no revision")
            op.drop_table(table)


def create_archive_policies():
    op.create_table(
        "archive_policy",
        sa.Column("id", UUID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("back_window", sa.Integer, nullable=False),
        sa.Column("definition", JSON, nullable=False),
        sa.Column("aggregation_methods", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_archive_policy"),
        sa.UniqueConstraint("name", name="uq_archive_policy_name"),
        **options())
    op.create_table(
        "archive_policy_rule",
        sa.Column("name", NAME, nullable=False),
        sa.Column("archive_policy_id", UUID, nullable=False),
        sa.Column("metric_pattern", NAME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_archive_policy_rule"),
        sa.ForeignKeyConstraint(["archive_policy_id"], ["archive_policy.id"], ondelete="RESTRICT",
                                name="fk_archive_policy_rule_archive_policy_id_archive_policy"),
        **options())
    op.create_index("ix_archive_policy_rule_archive_policy_id", "archive_policy_rule", ["archive_policy_id"])


def resource_columns():
    return [
        sa.Column("type", NAME, nullable=False),
        sa.Column("creator", NAME, nullable=True),
        sa.Column("user_id", NAME, nullable=True),
        sa.Column("project_id", NAME, nullable=True),
        sa.Column("original_resource_id", text(289), nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=False),
        sa.Column("revision_start", TIMESTAMP, nullable=False),
        sa.Column("ended_at", TIMESTAMP, nullable=True),
        sa.Column("attributes", SEARCHABLE_JSON, nullable=False),
    ]


def project_of_creator():
    return sa.Column("creator_project", NAME, sa.Computed(ProjectOf(sa.column("creator")), persisted=True),
                     nullable=True)


def create_resources():
    op.create_table(
        "resource_type",
        sa.Column("name", NAME, nullable=False),
        sa.Column("attributes", JSON, nullable=False),
        sa.Column("state", text(16), nullable=False),
        sa.Column("updated_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_resource_type"),
        **options())
    op.create_table(
        "resource",
        sa.Column("id", UUID, nullable=False),
        *resource_columns(),
        project_of_creator(),
        sa.PrimaryKeyConstraint("id", name="pk_resource"),
        sa.ForeignKeyConstraint(["type"], ["resource_type.name"], ondelete="RESTRICT",
                                name="fk_resource_type_resource_type"),
        sa.CheckConstraint("started_at <= ended_at", name="ck_resource_started_before_ended"),
        **options())
    op.create_index("ix_resource_revision_start", "resource", ["revision_start", "started_at", "id"])
    op.create_index("ix_resource_type", "resource", ["type", "revision_start", "started_at", "id"])
    for column in ("creator", "creator_project", "user_id", "project_id", "original_resource_id", "ended_at"):
        op.create_index(f"ix_resource_{column}", "resource", [column])
    if op.get_bind().dialect.name == "postgresql":
        op.create_index("ix_resource_attributes", "resource", ["attributes"], postgresql_using="gin",
                        postgresql_ops={"attributes": "jsonb_path_ops"})
    op.create_table(
        "resource_history",
        sa.Column("revision", SERIAL, autoincrement=True, nullable=False),
        sa.Column("id", UUID, nullable=False),
        *resource_columns(),
        sa.Column("revision_end", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("revision", name="pk_resource_history"),
        sa.ForeignKeyConstraint(["id"], ["resource.id"], ondelete="CASCADE", name="fk_resource_history_id_resource"),
        sa.ForeignKeyConstraint(["type"], ["resource_type.name"], ondelete="RESTRICT",
                                name="fk_resource_history_type_resource_type"),
        sa.CheckConstraint("started_at <= ended_at", name="ck_resource_history_started_before_ended"),
        sqlite_autoincrement=True,
        **options())
    op.create_index("ix_resource_history_id", "resource_history", ["id", "revision"])
    op.create_index("ix_resource_history_type", "resource_history", ["type", "revision_start", "started_at", "id"])


def create_metrics():
    op.create_table(
        "metric",
        sa.Column("id", UUID, nullable=False),
        sa.Column("archive_policy_id", UUID, nullable=False),
        sa.Column("creator", NAME, nullable=True),
        sa.Column("name", NAME, nullable=True),
        sa.Column("unit", text(31), nullable=True),
        sa.Column("resource_id", UUID, nullable=True),
        sa.Column("status", text(8), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("needs_raw_data_truncation", sa.Boolean, nullable=False),
        sa.Column("last_measure_timestamp", TIMESTAMP, nullable=True),
        project_of_creator(),
        sa.PrimaryKeyConstraint("id", name="pk_metric"),
        sa.ForeignKeyConstraint(["archive_policy_id"], ["archive_policy.id"], ondelete="RESTRICT",
                                name="fk_metric_archive_policy_id_archive_policy"),
        sa.ForeignKeyConstraint(["resource_id"], ["resource.id"], ondelete="SET NULL",
                                name="fk_metric_resource_id_resource"),
        sa.UniqueConstraint("resource_id", "name", name="uq_metric_resource_id"),
        sqlite_with_rowid=False,
        **options())
    op.create_index("ix_metric_status", "metric", ["status", "id"], sqlite_where=sa.text("status = 'delete'"),
                    postgresql_where=sa.text("status = 'delete'"))
    op.create_index("ix_metric_needs_raw_data_truncation", "metric", ["needs_raw_data_truncation", "id"],
                    sqlite_where=sa.text("needs_raw_data_truncation = 1"),
                    postgresql_where=sa.text("needs_raw_data_truncation"))
    for column in ("archive_policy_id", "creator", "creator_project", "name"):
        op.create_index(f"ix_metric_{column}", "metric", [column, "id"])


def create_catalogue():
    op.create_table(
        "sack",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("checkpoint", JSON, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_sack"),
        **options())
    key = text(255)
    op.create_table(
        "pack",
        sa.Column("id", UUID, nullable=False),
        sa.Column("sack", sa.Integer, nullable=False),
        sa.Column("policy_id", UUID, nullable=False),
        sa.Column("bits", sa.Integer, nullable=False),
        sa.Column("low", sa.BigInteger, nullable=False),
        sa.Column("base_key", key, nullable=True),
        sa.Column("base_offset", sa.BigInteger, nullable=True),
        sa.Column("base_length", sa.BigInteger, nullable=True),
        sa.Column("delta_key", key, nullable=True),
        sa.Column("delta_offset", sa.BigInteger, nullable=True),
        sa.Column("delta_length", sa.BigInteger, nullable=True),
        sa.Column("metrics", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pack"),
        sa.UniqueConstraint("policy_id", "low", "bits", name="uq_pack_policy_id"),
        **options())
    op.create_table(
        "block",
        sa.Column("id", UUID, nullable=False),
        sa.Column("pack_id", UUID, nullable=False),
        sa.Column("object_key", key, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("granularity", sa.BigInteger, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_block"),
        sa.ForeignKeyConstraint(["pack_id"], ["pack.id"], ondelete="CASCADE", name="fk_block_pack_id_pack"),
        **options())
    op.create_index("ix_block_pack_id", "block", ["pack_id", "granularity", "last"])
    op.create_table(
        "parked",
        sa.Column("id", UUID, nullable=False),
        sa.Column("sack", sa.Integer, nullable=False),
        sa.Column("pack_id", UUID, nullable=True),
        sa.Column("policy_id", UUID, nullable=False),
        sa.Column("object_key", key, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("measures", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("parked_at", TIMESTAMP, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_parked"),
        **options())
    op.create_table(
        "garbage",
        sa.Column("object_key", key, nullable=False),
        sa.Column("since", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("object_key", name="pk_garbage"),
        **options())
    op.create_table(
        "statistics",
        sa.Column("process", NAME, nullable=False),
        sa.Column("service", text(16), nullable=False),
        sa.Column("counters", JSON, nullable=False),
        sa.Column("updated_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("process", name="pk_statistics"),
        **options())
    for table, column in (("pack", "sack"), ("pack", "base_key"), ("pack", "delta_key"), ("block", "object_key"),
                          ("parked", "sack"), ("parked", "pack_id"), ("parked", "object_key"), ("garbage", "since"),
                          ("statistics", "updated_at")):
        op.create_index(f"ix_{table}_{column}", table, [column])
