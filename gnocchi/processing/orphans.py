"""Objects that no row names: what failed commits, dead workers and unknown outcomes left behind.

A worker never deletes what it wrote, for its commit may have happened although the answer was lost, or
may still happen when it slept.  Which of both is told by the sequence in the object's key:

    sequence <= the sack's      its commit happened, and a row names it, or never will
    sequence == the sack's + 1  somebody may be about to commit it: he must lose first
    above that                  the index is older than its storage, as after a restore: nothing at all is touched

The keys also tell for how many sacks an object was written.  When that number is changed, all sequences rise above
whatever anybody has read until then: what was written for another number, and is not named, never will be.
"""

import logging
import time
from collections.abc import Iterable, Sequence

from gnocchi.catalogue import Sack, SackCommit
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.storage.sections import PREFIX, make_prefix, parse_sack_bits, parse_sequence
from gnocchi.storage.store import Store

LOG = logging.getLogger(__name__)

#: Objects looked up and deleted at once.
KEYS_PER_STEP = 1000


def collect_orphans(number: int, indexer: Indexer, store: Store, older_than_s: float,
                    unnamed: dict[str, float]) -> int:
    """Delete objects of a sack that no row names and no commit will; return how many.

    Parameters
    ----------
    older_than_s : float
        How long an object must have been known as unnamed.
    unnamed : dict of key -> time.monotonic()
        The caller's memory of this sack: when each was first found without a name.  Changed here.

    To be called under the sack's lock.  Raises CommitLost (somebody else commits: nothing was deleted)
    and BackendUnavailable.
    """
    contents = indexer.get_sack_contents(number)
    sack = contents.sack
    # The sack was read before the names are looked up: what was committed until then is named by now.
    stored = store.driver.list(make_prefix(contents.sack_bits, number))
    sequences = _find_unnamed(stored, indexer, older_than_s, unnamed)
    if _is_older_than_storage(f"Sack {number} is", sack.sequence, sequences):
        return 0
    if sack.sequence + 1 in sequences.values():
        indexer.commit_sack(SackCommit(number, sack.sequence, checkpoint=None))
        sack = sack._replace(sequence=sack.sequence + 1)
    return _delete([key for key, sequence in sequences.items() if sequence <= sack.sequence], store, unnamed)


def collect_old_orphans(sacks: Sequence[Sack], indexer: Indexer, store: Store, older_than_s: float,
                        unnamed: dict[str, float]) -> int:
    """Delete objects that were written for another number of sacks and that no row names; return how many.

    No lock is needed: nobody can commit an object whose sequence all sacks have reached.

    Parameters
    ----------
    sacks : sequence of Sack
        All of them, at least one, as they were at any time before this is called.
    older_than_s, unnamed
        As in `collect_orphans`.

    Raises BackendUnavailable.
    """
    sack_bits = len(sacks).bit_length() - 1
    stored = (key for key in store.driver.list(PREFIX) if parse_sack_bits(key) not in (None, sack_bits))
    sequences = _find_unnamed(stored, indexer, older_than_s, unnamed)
    if _is_older_than_storage("All sacks are", max(sack.sequence for sack in sacks), sequences):
        return 0
    # Which of the present sacks took the place of the object's does not matter: all were raised.
    least = min(sack.sequence for sack in sacks)
    return _delete([key for key, sequence in sequences.items() if sequence <= least], store, unnamed)


def _find_unnamed(keys: Iterable[str], indexer: Indexer, older_than_s: float,
                  unnamed: dict[str, float]) -> dict[str, int]:
    """Return the sequences of those objects of ours that have been known as unnamed for long enough."""
    stored = list(keys)
    known = indexer.list_known_objects(stored)
    now = time.monotonic()
    first_seen = {key: unnamed.get(key, now) for key in stored if key not in known}
    unnamed.clear()
    unnamed.update(first_seen)
    return {key: sequence for key, since in first_seen.items()
            if now - since >= older_than_s and (sequence := parse_sequence(key)) is not None}


def _delete(keys: Iterable[str], store: Store, unnamed: dict[str, float]) -> int:
    dead = sorted(keys)
    for start in range(0, len(dead), KEYS_PER_STEP):
        store.driver.delete_many(dead[start:start + KEYS_PER_STEP])
    for key in dead:
        del unnamed[key]
    return len(dead)


def _is_older_than_storage(who: str, sequence: int, sequences: dict[str, int]) -> bool:
    future = [key for key, of_key in sequences.items() if of_key > sequence + 1]
    if future:
        LOG.warning("%s at commit %d, and %d objects are of later ones, such as %s: was the index restored "
                    "from a backup?  gnocchi-repair makes its catalogue anew from the objects, which are kept until "
                    "as many commits have come", who, sequence, len(future), min(future))
    return bool(future)
