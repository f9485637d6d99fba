"""`gnocchi-repair`: finds damaged objects, gives up what cannot be had back, makes the catalogue anew."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import numpy
from oslo_config import cfg

from gnocchi import metric_ids, service, times
from gnocchi.backends import Backends
from gnocchi.catalogue import Pack
from gnocchi.cli import command
from gnocchi.processing import repair as engine
from gnocchi.processing.locks import Coordinator
from gnocchi.processing.rebuild import rebuild_catalogue
from gnocchi.processing.repair import Refused

#: What is read is looked at once.
CACHE_BYTES = 16 << 20


def _add_actions(actions: Any) -> None:
    listing = actions.add_parser("list", help="verify all stored objects; show damaged ones and parked measures")
    listing.add_argument("--sack", type=int, help="only of this sack")
    listing.add_argument("--prefix", default="", help="only objects whose key begins so")
    for name, what, text in (
            ("abandon-head", "PACK", "give a pack with a damaged head a new one, and take its parked measures"),
            ("abandon-block", "BLOCK", "take a damaged block of aggregates out of the catalogue"),
            ("abandon-parked", "PARKED", "give up parked measures that cannot be read")):
        action = actions.add_parser(name, help=text)
        action.add_argument("id", metavar=what, type=uuid.UUID, help="as shown by list")
        action.add_argument("--yes", action="store_true", help="do it; else only what would be lost is shown")
    action = actions.add_parser("rebuild-catalogue", help="find out from the stored objects which of them count")
    action.add_argument("--force", action="store_true", help="replace what the catalogue holds")


@command
def repair() -> int:
    conf = service.prepare_service(log_to_stderr=True, cli_opts=[
        cfg.SubCommandOpt("action", title="actions", handler=_add_actions, help="What to do.")])
    backends = Backends(conf, CACHE_BYTES)
    run = {"list": _list, "abandon-head": _abandon_head, "abandon-block": _abandon_block,
           "abandon-parked": _abandon_parked, "rebuild-catalogue": _rebuild_catalogue}
    return run[conf.action.name](backends, conf.action)


def _list(backends: Backends, action: Any) -> int:
    indexer, store = backends.indexer, backends.store
    sacks = indexer.count_sacks()
    if action.sack is not None and not 0 <= action.sack < sacks:
        raise Refused(f"There is no sack {action.sack}; they are 0 to {sacks - 1}")
    chosen = range(sacks) if action.sack is None else [action.sack]
    policies = {policy.id: policy.name for policy in indexer.list_archive_policies()}
    objects = damaged = parked = 0
    for number in chosen:
        checked = engine.check_sack(number, indexer, store, action.prefix)
        for finding in checked.findings:
            where = f"sack {number}" if finding.pack is None else _describe(finding.pack, policies)
            what = finding.what if finding.what in ("head", "object") else f"{finding.what} {finding.id}"
            print(f"damaged {what} ({where}): {finding.problem}")
        objects, damaged = objects + checked.objects, damaged + len(checked.findings)
        for row in indexer.get_sack_contents(number).parked:
            print(f"parked {row.id} (pack {row.pack_id}, sack {number}): {row.measures} measures since "
                  f"{row.parked_at:%Y-%m-%dT%H:%M:%S}Z, tried {row.attempts} times: {row.reason}")
            parked += row.measures
    print(f"{objects} objects verified, {damaged} sections or tables damaged, {parked} measures parked")
    return 1 if damaged or parked else 0


def _describe(pack: Pack, policies: dict[uuid.UUID, str]) -> str:
    return (f"pack {pack.id}, sack {pack.sack}, archive policy {policies.get(pack.policy_id, pack.policy_id)}, "
            f"{pack.metrics} metrics")


@contextlib.contextmanager
def _locked(backends: Backends, action: Any) -> Iterator[int]:
    """Hold the lock of the sack that what is named lies in; give its number."""
    number = backends.indexer.find_sack(action.id)
    if number is None:
        raise Refused(f"The catalogue has no {action.id}")
    with _coordinated(backends) as coordinator, engine.locked_sack(number, coordinator, backends.indexer):
        yield number


@contextlib.contextmanager
def _coordinated(backends: Backends) -> Iterator[Coordinator]:
    coordinator = backends.coordinator
    try:
        yield coordinator
    finally:
        coordinator.stop()


def _abandon_head(backends: Backends, action: Any) -> int:
    with _locked(backends, action) as number:
        done = engine.abandon_head(number, action.id, backends.indexer, backends.store, action.yes)
    print(f"Pack {done.pack.id}, sack {number}: measures that were not sealed in aggregates yet "
          f"{'are' if action.yes else 'would be'} lost:")
    for metric_id, instant in zip(metric_ids.unpack_ids(done.ids), times.format_timestamps(done.lost_from),
                                  strict=True):
        print(f"  {metric_id}  those from {instant} on")
    if done.others:
        print(f"  {done.others} metrics without sealed aggregates: all of theirs")
    if not action.yes:
        return _hesitate()
    print(f"{done.replayed} parked measures were taken, {done.refused.total()} of them refused")
    if done.problem is not None:
        print(f"The rest stays parked: {done.problem}")
        return 1
    return 0


def _hesitate() -> int:
    print("Nothing was changed.  With --yes it is done")
    return 1


def _abandon_block(backends: Backends, action: Any) -> int:
    with _locked(backends, action) as number:
        block = engine.abandon_block(number, action.id, backends.indexer, backends.store, action.yes)
    first, last = times.format_timestamps(numpy.array([block.first, block.last], "M8[ns]"))
    print(f"Block {block.id}, sack {number}: {block.rows} aggregates of {block.granularity / 1e9:g} s between {first} "
          f"and {last} {'are' if action.yes else 'would be'} lost")
    return 0 if action.yes else _hesitate()


def _abandon_parked(backends: Backends, action: Any) -> int:
    with _locked(backends, action) as number:
        row = engine.abandon_parked(number, action.id, backends.indexer, backends.store, action.yes)
    print(f"Pack {row.pack_id}, sack {number}: {row.measures} parked measures "
          f"{'are' if action.yes else 'would be'} lost")
    return 0 if action.yes else _hesitate()


def _rebuild_catalogue(backends: Backends, action: Any) -> int:
    indexer = backends.indexer
    with _coordinated(backends) as coordinator, contextlib.ExitStack() as locks:
        for number in range(indexer.count_sacks()):
            locks.enter_context(engine.locked_sack(number, coordinator, indexer))
        rebuilt = rebuild_catalogue(indexer, backends.store, action.force)
    for problem in rebuilt.problems:
        print(problem)
    print(f"{rebuilt.objects} objects found; the catalogue has {rebuilt.packs} packs, {rebuilt.blocks} blocks "
          f"({rebuilt.blocks_rewritten} of them written anew) and {rebuilt.parked} sections of parked measures")
    return 1 if rebuilt.problems else 0
