"""Storage in a bucket of S3."""

from typing import Any

from gnocchi.common.s3 import Bucket
from gnocchi.common.s3_options import OPTS
from gnocchi.storage.drivers.objects import ObjectsDriver

__all__ = ["OPTS", "S3Driver"]


class S3Driver(ObjectsDriver):
    """Objects in the bucket `<prefix>-objects`.

    Parameters
    ----------
    bucket_prefix, ...
        As `[storage] s3_*`.
    parallel_operations : int
        Calls made at once.
    """

    def __init__(self, bucket_prefix: str, parallel_operations: int = 1, **options: Any) -> None:
        super().__init__(Bucket(f"{bucket_prefix}-objects", parallel_operations=parallel_operations, **options))
