"""Incoming measures in a bucket of S3."""

from typing import Any

from gnocchi.common.s3 import Bucket
from gnocchi.common.s3_options import OPTS
from gnocchi.incoming.keyed import KeyedDriver
from gnocchi.incoming.objects import ObjectsStore

__all__ = ["OPTS", "S3Driver"]

#: What was deleted does not come back; this is for an answer that is lost, and what it answered is done late.
FORGET_S = 3600.0


class S3Driver(KeyedDriver):
    """Groups in the bucket `<prefix>-incoming`.

    Parameters
    ----------
    sacks : int
        The number of sacks, a power of two.
    bucket_prefix, ...
        As `[incoming] s3_*`.
    parallel_operations : int
        Calls made at once.
    """

    def __init__(self, sacks: int, bucket_prefix: str, parallel_operations: int = 1, **options: Any) -> None:
        bucket = Bucket(f"{bucket_prefix}-incoming", parallel_operations=parallel_operations, **options)
        super().__init__(ObjectsStore(bucket, FORGET_S), sacks)
