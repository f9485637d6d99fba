"""`gnocchi-upgrade`, `gnocchi-change-sack-size`, `gnocchi-config-generator`."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping

from oslo_config import cfg, generator

import gnocchi
from gnocchi import backends, service
from gnocchi.archive_policy import make_default_policies
from gnocchi.cli import command
from gnocchi.exceptions import ArchivePolicyAlreadyExists, ArchivePolicyRuleAlreadyExists, GnocchiError
from gnocchi.incoming import Checkpoint
from gnocchi.indexer import ArchivePolicyRule, migration
from gnocchi.indexer.sqlalchemy import Indexer

LOG = logging.getLogger(__name__)

#: Sacks of a new installation.
SACKS = 128
SACKS_MAX = 65535

#: The rule made together with the default policies.
DEFAULT_RULE = ArchivePolicyRule(name="default", archive_policy_name="low", metric_pattern="*")

GENERATOR_CONFIG = os.path.join(os.path.dirname(gnocchi.__file__), "gnocchi-config-generator.conf")

_SACKS_HELP = "Number of sacks; rounded up to a power of two."

UPGRADE_OPTS = [
    cfg.BoolOpt("skip-index", default=False, help="Leave the index as it is."),
    cfg.BoolOpt("skip-storage", default=False, help="Leave the storage as it is."),
    cfg.BoolOpt("skip-incoming", default=False, help="Leave the incoming storage and the number of sacks as they are."),
    cfg.BoolOpt("skip-archive-policies-creation", default=False,
                help="Do not create the default archive policies in an index without any."),
    cfg.IntOpt("sacks-number", min=1, max=SACKS_MAX,
               help=f"Number of sacks of a new installation; rounded up to a power of two. Default: {SACKS}."),
]


class Refused(GnocchiError):
    """The command did nothing, for the reason given."""


@command
def upgrade() -> int:
    conf = service.prepare_service(cli_opts=UPGRADE_OPTS, log_to_stderr=True)
    upgrade_all(conf, conf.sacks_number, index=not conf.skip_index, storage=not conf.skip_storage,
                incoming=not conf.skip_incoming, policies=not conf.skip_archive_policies_creation)
    return 0


def upgrade_all(conf: cfg.ConfigOpts, sacks: int | None = None, *, index: bool = True, storage: bool = True,
                incoming: bool = True, policies: bool = True) -> None:
    """Create or update what the daemons need.  May be run any number of times, also twice at once.

    Parameters
    ----------
    sacks : int, optional
        Number of sacks if there are none yet; None: SACKS.
    index, storage, incoming, policies : bool
        What to see to.

    Raises InvalidConfiguration, BackendUnavailable.
    """
    # Changing a large table may take any time.
    indexer = backends.open_indexer(conf, answer_timeout_s=None)
    try:
        if index:
            LOG.info("Upgrading indexer %s", indexer)
            migration.upgrade(indexer)
        if policies:
            create_policies(indexer, conf.archive_policy.default_aggregation_methods)
        if storage:
            driver = backends.open_storage(conf)
            LOG.info("Upgrading storage %s", conf.storage.driver)
            driver.upgrade()
        if incoming:
            # Last: to the daemons that wait for it, sacks mean that all the rest is there.
            LOG.info("Upgrading incoming storage %s", conf.incoming.driver)
            backends.open_incoming(conf, create_sacks(indexer, sacks)).upgrade()
    finally:
        indexer.close()


def create_sacks(indexer: Indexer, wanted: int | None) -> int:
    """Create the sacks unless there are any; return their number."""
    if wanted is not None:
        wanted = round_up_sacks(wanted)
    indexer.create_sacks(wanted or SACKS)
    sacks = indexer.count_sacks()
    if wanted is not None and sacks != wanted:
        LOG.warning("There are %d sacks, not %d: their number was left as it is; "
                    "gnocchi-change-sack-size changes it", sacks, wanted)
    return sacks


def round_up_sacks(wanted: int) -> int:
    """Return the smallest power of two that is no less."""
    sacks = 1 << (wanted - 1).bit_length()
    if sacks != wanted:
        LOG.warning("The number of sacks is a power of two: %d was rounded up to %d", wanted, sacks)
    return sacks


def create_policies(indexer: Indexer, default_methods: list[str]) -> None:
    """Create the default archive policies and their rule, if there is neither any policy nor any rule."""
    if indexer.list_archive_policies() or indexer.list_archive_policy_rules():
        return
    # Another upgrade that runs at the same time makes the very same ones.
    for policy in make_default_policies(default_methods):
        with contextlib.suppress(ArchivePolicyAlreadyExists):
            indexer.create_archive_policy(policy)
    with contextlib.suppress(ArchivePolicyRuleAlreadyExists):
        indexer.create_archive_policy_rule(DEFAULT_RULE)


@command
def change_sack_size() -> int:
    conf = service.prepare_service(
        cli_opts=[cfg.IntOpt("sacks-number", min=1, max=SACKS_MAX, help=_SACKS_HELP),
                  cfg.IntOpt("number", positional=True, required=False, min=1, max=SACKS_MAX, help=_SACKS_HELP)],
        log_to_stderr=True)
    wanted = conf.sacks_number or conf.number
    if wanted is None:
        raise Refused("Say how many sacks there shall be: gnocchi-change-sack-size N")
    change_sacks(conf, round_up_sacks(wanted))
    return 0


def change_sacks(conf: cfg.ConfigOpts, wanted: int) -> None:
    """Change the number of sacks.  Deletes nothing and moves no stored data.

    Raises
    ------
    Refused
        There are no sacks yet, or measures wait in them.
    """
    indexer = backends.open_indexer(conf)
    try:
        checkpoints = {sack.number: sack.checkpoint for sack in indexer.list_sacks()}
        if not checkpoints:
            raise Refused("Unable to detect the number of storage sacks. Ensure gnocchi-upgrade has been executed.")
        if len(checkpoints) == wanted:
            LOG.info("There are %d sacks already", wanted)
            return
        free_backlog(conf, checkpoints)
        LOG.info("Removing current %d sacks", len(checkpoints))
        LOG.info("Creating new %d sacks", wanted)
        indexer.change_sacks(wanted)
    finally:
        indexer.close()


def free_backlog(conf: cfg.ConfigOpts, checkpoints: Mapping[int, Checkpoint]) -> None:
    """Free all that is committed, and make sure that nothing is left: new sacks begin without checkpoints.

    Raises Refused.
    """
    with contextlib.closing(backends.open_incoming(conf, len(checkpoints))) as incoming:
        waiting = incoming.report_backlog(checkpoints, details=False).bundles
        if waiting:
            raise Refused("Cannot change sack when non-empty backlog. "
                          f"Process remaining {waiting} measures and try again")
        incoming.acknowledge(checkpoints)
    with contextlib.closing(backends.open_incoming(conf, len(checkpoints))) as incoming:
        kept = incoming.report_backlog({number: {} for number in checkpoints}, details=False).bundles
    if kept:
        raise Refused("Cannot change sack while gnocchi-api or another writer is running, which keeps "
                      f"{kept} processed measures. Stop it and try again")


def config_generator() -> int:
    """Print a sample configuration with every option."""
    # Ends quietly when the reader of a pipe has seen enough, as in `gnocchi-config-generator | head`.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # It warns of libraries that are not installed; what they would add nobody can use then.
    logging.getLogger("stevedore").setLevel(logging.ERROR)
    generator.main(["--config-file", GENERATOR_CONFIG, *sys.argv[1:]])
    return 0
