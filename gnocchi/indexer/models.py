"""The tables of the index.

Integers named granularity, first and last are nanoseconds; times are naive UTC.  Where an object
lies is always the three columns key, offset and length (`SectionRef`).
"""

import sqlalchemy as sa

from gnocchi.indexer.types import JSON, SEARCHABLE_JSON, SERIAL, TIMESTAMP, UUID, ProjectOf, text

#: Longest names and ids that the columns take, in characters; `checks.check_text` refuses longer ones.
NAME_LENGTH = 255
UNIT_LENGTH = 31
ORIGINAL_RESOURCE_ID_LENGTH = 289
OBJECT_KEY_LENGTH = 255

ACTIVE = "active"
DELETE = "delete"

metadata = sa.MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
})


def _name(column: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(column, text(NAME_LENGTH), nullable=nullable)


def _project_of_creator() -> sa.Column[str]:
    """What is looked for in lists for those who see what their project has made."""
    return sa.Column("creator_project", text(NAME_LENGTH), sa.Computed(ProjectOf(sa.column("creator")), persisted=True),
                     nullable=True)


# Rows and keys of storage name a policy by id: its name may be deleted and made anew.
archive_policy = sa.Table(
    "archive_policy", metadata,
    sa.Column("id", UUID, primary_key=True),
    _name("name"),
    sa.Column("back_window", sa.Integer, nullable=False),
    # [{"granularity": ns, "timespan": ns or null, "points": int or null}, ...] in the order given
    sa.Column("definition", JSON, nullable=False),
    sa.Column("aggregation_methods", JSON, nullable=False),
    sa.UniqueConstraint("name"))

archive_policy_rule = sa.Table(
    "archive_policy_rule", metadata,
    sa.Column("name", text(NAME_LENGTH), primary_key=True),
    sa.Column("archive_policy_id", UUID, sa.ForeignKey("archive_policy.id", ondelete="RESTRICT"), nullable=False),
    _name("metric_pattern"),
    sa.Index(None, "archive_policy_id"))

resource_type = sa.Table(
    "resource_type", metadata,
    sa.Column("name", text(NAME_LENGTH), primary_key=True),
    sa.Column("attributes", JSON, nullable=False),
    sa.Column("state", text(16), nullable=False),
    sa.Column("updated_at", TIMESTAMP, nullable=False))


def _resource_columns() -> list[sa.Column]:
    """The columns that a resource and its old revisions share."""
    return [
        sa.Column("type", text(NAME_LENGTH), sa.ForeignKey("resource_type.name", ondelete="RESTRICT"), nullable=False),
        _name("creator", nullable=True),
        _name("user_id", nullable=True),
        _name("project_id", nullable=True),
        sa.Column("original_resource_id", text(ORIGINAL_RESOURCE_ID_LENGTH), nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=False),
        sa.Column("revision_start", TIMESTAMP, nullable=False),
        sa.Column("ended_at", TIMESTAMP, nullable=True),
        # Attributes of the type; nulls are left out, uuids and datetimes are text of fixed width.
        sa.Column("attributes", SEARCHABLE_JSON, nullable=False),
    ]


resource = sa.Table(
    "resource", metadata,
    sa.Column("id", UUID, primary_key=True),
    *_resource_columns(),
    _project_of_creator(),
    sa.CheckConstraint("started_at <= ended_at", name="started_before_ended"),
    # The default order of lists, of all types and of one.
    sa.Index("ix_resource_revision_start", "revision_start", "started_at", "id"),
    sa.Index("ix_resource_type", "type", "revision_start", "started_at", "id"),
    sa.Index(None, "creator"),
    sa.Index(None, "creator_project"),
    sa.Index(None, "user_id"),
    sa.Index(None, "project_id"),
    sa.Index(None, "original_resource_id"),
    sa.Index(None, "ended_at"),
    sa.Index("ix_resource_attributes", "attributes", postgresql_using="gin",
             postgresql_ops={"attributes": "jsonb_path_ops"}).ddl_if(dialect="postgresql"))

resource_history = sa.Table(
    "resource_history", metadata,
    sa.Column("revision", SERIAL, primary_key=True, autoincrement=True),
    sa.Column("id", UUID, sa.ForeignKey("resource.id", ondelete="CASCADE"), nullable=False),
    *_resource_columns(),
    sa.Column("revision_end", TIMESTAMP, nullable=False),
    sa.CheckConstraint("started_at <= ended_at", name="started_before_ended"),
    sa.Index("ix_resource_history_id", "id", "revision"),
    sa.Index("ix_resource_history_type", "type", "revision_start", "started_at", "id"),
    sqlite_autoincrement=True,          # a revision number in a client's marker is never given again
    )

metric = sa.Table(
    "metric", metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("archive_policy_id", UUID, sa.ForeignKey("archive_policy.id", ondelete="RESTRICT"), nullable=False),
    _name("creator", nullable=True),
    _name("name", nullable=True),
    sa.Column("unit", text(UNIT_LENGTH), nullable=True),
    sa.Column("resource_id", UUID, sa.ForeignKey("resource.id", ondelete="SET NULL"), nullable=True),
    sa.Column("status", text(8), nullable=False),
    sa.Column("created_at", TIMESTAMP, nullable=False),
    sa.Column("needs_raw_data_truncation", sa.Boolean, nullable=False),
    sa.Column("last_measure_timestamp", TIMESTAMP, nullable=True),
    _project_of_creator(),
    sa.UniqueConstraint("resource_id", "name"),
    sa.Index("ix_metric_status", "status", "id", sqlite_where=sa.text("status = 'delete'"),
             postgresql_where=sa.text("status = 'delete'")),
    sa.Index("ix_metric_needs_raw_data_truncation", "needs_raw_data_truncation", "id",
             sqlite_where=sa.text("needs_raw_data_truncation = 1"),
             postgresql_where=sa.text("needs_raw_data_truncation")),
    sa.Index("ix_metric_archive_policy_id", "archive_policy_id", "id"),
    sa.Index("ix_metric_creator", "creator", "id"),
    sa.Index("ix_metric_creator_project", "creator_project", "id"),
    sa.Index("ix_metric_name", "name", "id"),
    sqlite_with_rowid=False,            # rows lie in the order of ids: one search per id, not two
    )

sack = sa.Table(
    "sack", metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("checkpoint", JSON, nullable=False))


def _object_key(column: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(column, text(OBJECT_KEY_LENGTH), nullable=nullable, index=True)


# Every row of pack and block is written by the transaction that raised the sequence of its sack.
pack = sa.Table(
    "pack", metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("sack", sa.Integer, nullable=False, index=True),
    sa.Column("policy_id", UUID, nullable=False),
    sa.Column("bits", sa.Integer, nullable=False),
    sa.Column("low", sa.BigInteger, nullable=False),
    _object_key("base_key", nullable=True),
    sa.Column("base_offset", sa.BigInteger, nullable=True),
    sa.Column("base_length", sa.BigInteger, nullable=True),
    _object_key("delta_key", nullable=True),
    sa.Column("delta_offset", sa.BigInteger, nullable=True),
    sa.Column("delta_length", sa.BigInteger, nullable=True),
    sa.Column("metrics", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    # `low` before `bits`: the pack of one metric is found by a few possible values of `low`.
    sa.UniqueConstraint("policy_id", "low", "bits"))

block = sa.Table(
    "block", metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("pack_id", UUID, sa.ForeignKey("pack.id", ondelete="CASCADE"), nullable=False),
    _object_key("object_key"),
    sa.Column("offset", sa.BigInteger, nullable=False, quote=True),     # reserved by MariaDB, not by MySQL
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("granularity", sa.BigInteger, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Index("ix_block_pack_id", "pack_id", "granularity", "last"))

# Measures of a pack that could not be processed; pack_id is no foreign key, since a pack may be split meanwhile.
parked = sa.Table(
    "parked", metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("sack", sa.Integer, nullable=False, index=True),
    sa.Column("pack_id", UUID, nullable=True, index=True),
    sa.Column("policy_id", UUID, nullable=False),
    _object_key("object_key"),
    sa.Column("offset", sa.BigInteger, nullable=False, quote=True),     # reserved by MariaDB, not by MySQL
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("measures", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("parked_at", TIMESTAMP, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False))

# What processes tell of themselves, for /v1/status.
statistics = sa.Table(
    "statistics", metadata,
    sa.Column("process", text(NAME_LENGTH), primary_key=True),
    sa.Column("service", text(16), nullable=False),
    sa.Column("counters", JSON, nullable=False),
    sa.Column("updated_at", TIMESTAMP, nullable=False, index=True))

# Objects that lost a reference; deleted after a grace period if nothing names them by then.
garbage = sa.Table(
    "garbage", metadata,
    sa.Column("object_key", text(OBJECT_KEY_LENGTH), primary_key=True),
    sa.Column("since", TIMESTAMP, nullable=False, index=True))
