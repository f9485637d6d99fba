"""Objects that no row names: what failed commits, dead workers and unknown outcomes left behind.

A worker never deletes what it wrote, for its commit may have happened although the answer was lost, or
may still happen when it slept.  Which of both is told by the sequence in the object's key:

    sequence <= the sack's      its commit happened, and a row names it, or never will
    sequence == the sack's + 1  somebody may be about to commit it: he must lose first
    above that                  the index is older than its storage, as after a restore: nothing at all is touched
"""

import logging
import time

from gnocchi.catalogue import SackCommit
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.storage.sections import make_prefix, parse_sequence
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
    stored = list(store.driver.list(make_prefix(contents.sack_bits, number)))
    known = indexer.list_known_objects(stored)
    now = time.monotonic()
    first_seen = {key: unnamed.get(key, now) for key in stored if key not in known}
    unnamed.clear()
    unnamed.update(first_seen)
    sequences = {key: sequence for key, since in first_seen.items()
                 if now - since >= older_than_s and (sequence := parse_sequence(key)) is not None}
    if _is_older_than_storage(number, sack.sequence, sequences):
        return 0
    if sack.sequence + 1 in sequences.values():
        indexer.commit_sack(SackCommit(number, sack.sequence, checkpoint=None))
        sack = sack._replace(sequence=sack.sequence + 1)
    dead = sorted(key for key, sequence in sequences.items() if sequence <= sack.sequence)
    for start in range(0, len(dead), KEYS_PER_STEP):
        store.driver.delete_many(dead[start:start + KEYS_PER_STEP])
    for key in dead:
        del unnamed[key]
    return len(dead)


def _is_older_than_storage(number: int, sequence: int, sequences: dict[str, int]) -> bool:
    future = [key for key, of_key in sequences.items() if of_key > sequence + 1]
    if future:
        LOG.warning("Sack %d is at commit %d, and %d objects are of later ones, such as %s: was the index restored "
                    "from a backup?  gnocchi-repair makes its catalogue anew from the objects, which are kept until "
                    "as many commits have come", number, sequence, len(future), min(future))
    return bool(future)
