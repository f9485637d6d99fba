"""The index: one object that holds the database connections and all queries."""

import os

from oslo_config import cfg

from gnocchi.indexer.archive_policies import (
    GET_POLICY_FAST,
    LIST_POLICIES_BY_ID,
    LIST_POLICIES_FAST,
    ArchivePolicies,
)
from gnocchi.indexer.commits import Commits, list_commit_statements
from gnocchi.indexer.life_cycle import LifeCycle
from gnocchi.indexer.many_metrics import ManyMetrics
from gnocchi.indexer.metrics import GET_METRIC, GET_RESOURCE_METRIC, INSERT_METRIC, prepare_list_by_id
from gnocchi.indexer.named_metrics import NamedMetrics
from gnocchi.indexer.packs import (
    COUNT_SACKS,
    LIST_CATALOGUE,
    LIST_CATALOGUE_OF_FEW,
    LIST_SACKS,
    LOWS,
    SACKS_READ,
    SELECTS_OF_CONTENTS,
    Packs,
    prepare_get_catalogue,
    prepare_of_sacks,
)
from gnocchi.indexer.resource_types import ResourceTypes
from gnocchi.indexer.resources import GET_RESOURCE, LIST_METRIC_IDS
from gnocchi.indexer.statistics import INSERT_STATISTICS, UPDATE_STATISTICS, Statistics

#: Options of section [indexer].
OPTS = [
    cfg.StrOpt("url", secret=True, required=True, default=os.environ.get("GNOCCHI_INDEXER_URL"),
               help="URL of the index database: sqlite:////path/of/a/file, postgresql://user:password@host/database "
                    "or mysql+pymysql://user:password@host/database. The environment variable GNOCCHI_INDEXER_URL "
                    "sets its default."),
]

#: Options of section [database], which deployments share with other services.
DATABASE_OPTS = [
    cfg.IntOpt("max_pool_size", min=1, default=5,
               help="Connections to the index database that each process keeps open."),
    cfg.IntOpt("max_overflow", min=-1, default=50,
               help="Connections that each process may open beyond max_pool_size under load and closes again; "
                    "-1 means no limit."),
    cfg.IntOpt("pool_timeout", min=0,
               help="Seconds to wait for a connection when all are in use; unset: 30."),
    cfg.IntOpt("connection_recycle_time", min=-1, default=3600,
               help="Seconds after which a connection is replaced at its next use, so that the server does not "
                    "close it for being idle; -1 means never."),
]


class Indexer(ArchivePolicies, Commits, LifeCycle, ManyMetrics, NamedMetrics, Packs, ResourceTypes, Statistics):
    """See `Connections` for how it is made; its methods are grouped by noun in one module each.

    May be made while the database is away.  Threads share one; a child process calls `after_fork`.
    """

    def prepare(self) -> None:
        """Make the statements of frequent requests and commits, for all indexes of this process; connect to nothing."""
        catalogues = [prepare_get_catalogue(granularities, lows) for granularities in (None, 1) for lows in LOWS]
        contents = [prepare_of_sacks(*select, SACKS_READ[-1]) for select in SELECTS_OF_CONTENTS]
        catalogues += [*LIST_CATALOGUE.values(), *LIST_CATALOGUE_OF_FEW.values()]
        for statement in (prepare_list_by_id(self.dialect), LIST_POLICIES_BY_ID, GET_METRIC, GET_RESOURCE_METRIC,
                          INSERT_METRIC, GET_RESOURCE, LIST_METRIC_IDS,
                          GET_POLICY_FAST, LIST_POLICIES_FAST, COUNT_SACKS, LIST_SACKS, UPDATE_STATISTICS,
                          INSERT_STATISTICS, *catalogues, *contents, *list_commit_statements(self.dialect)):
            statement.compile(self.engine.dialect)
