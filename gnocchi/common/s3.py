"""Buckets of S3."""

import http.client
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import boto3
import botocore.config
import urllib3.exceptions
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    HTTPClientError,
    IncompleteReadError,
    ParamValidationError,
    ReadTimeoutError,
    SSLError,
)
from botocore.handlers import add_expect_header
from botocore.parsers import ResponseParserError

from gnocchi.common.objects import (
    CONNECT_TIMEOUT_S,
    CUT_OFF,
    NO_ANSWER,
    NO_TLS,
    TIMEOUT_S,
    CallFailed,
    Objects,
    explain_connection,
    tells_length,
)
from gnocchi.exceptions import BackendUnavailable

#: Objects listed or deleted by one call; S3 allows no more.
KEYS_AT_ONCE = 1000

#: Where buckets are made when nothing is said of it.
_DEFAULT_REGION = "us-east-1"

_MISSING = ("NoSuchKey", "404")
_NO_BUCKET = "NoSuchBucket"
_TIMEOUTS = (ConnectTimeoutError, ReadTimeoutError, urllib3.exceptions.TimeoutError)
_LOST_CONNECTIONS = (ConnectionError, HTTPClientError, IncompleteReadError, urllib3.exceptions.HTTPError)


class Bucket(Objects):
    """A bucket of S3.

    Parameters
    ----------
    name : str
    parallel_operations : int
        Calls made at once by those methods that make many.
    endpoint_url, region_name, ...
        As the options `s3_*`.
    """

    def __init__(self, name: str, *, parallel_operations: int = 1, endpoint_url: str | None = None,
                 region_name: str | None = None, access_key_id: str | None = None,
                 secret_access_key: str | None = None, check_consistency_timeout: float = 0,
                 max_pool_connections: int = 50, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(name, "s3", parallel_operations)
        self._credentials = {"region_name": region_name or None, "aws_access_key_id": access_key_id or None,
                             "aws_secret_access_key": secret_access_key or None}
        self._endpoint_url = endpoint_url or None
        self._config = botocore.config.Config(
            connect_timeout=min(CONNECT_TIMEOUT_S, timeout_s), read_timeout=timeout_s,
            max_pool_connections=max_pool_connections, retries={"total_max_attempts": 1, "mode": "standard"},
            # Of a call's CPU, to describe the machine takes a seventh, and to check what we pass a twentieth.
            user_agent="gnocchi", parameter_validation=False,
            # Servers that are not Amazon's may not know newer checksums; ours are in the objects.
            request_checksum_calculation="when_required", response_checksum_validation="when_required")
        self._lock = threading.Lock()
        self._made: Any = None

    def _client(self) -> Any:
        """Return the client, which is for all threads of a process, but takes half a second to make."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    session = boto3.session.Session(**self._credentials)
                    made = session.client("s3", endpoint_url=self._endpoint_url, config=self._config)
                    # To ask first whether a body is wanted costs a round trip; and where the connection breaks amid
                    # that answer, botocore reads on for ever.
                    made.meta.events.unregister("before-call.s3", add_expect_header)
                    self._made = made
        return self._made

    def _call(self, action: str, name: str, **arguments: Any) -> Any:
        """Call a method of the client; return what it returns, None where there is no such object or bucket."""
        return self._repeat(action, lambda: self._try(action, name, arguments))

    def _try(self, action: str, name: str, arguments: Mapping[str, Any]) -> Any:
        try:
            answer = getattr(self._client(), name)(Bucket=self.name, **arguments)
            if "Body" not in answer:
                return answer
            if tells_length(answer["ResponseMetadata"]["HTTPHeaders"]):
                return answer["Body"].read()
        except ClientError as e:
            code = e.response["Error"].get("Code", "")
            if code in _MISSING:
                return None
            if code == _NO_BUCKET:
                raise self.no_container(action) from e
            if code in ("InvalidRange", "416"):
                return b""      # the object ends before
            status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise CallFailed(f"{status} {_name_status(status, code)}", may_pass=status >= 500 or status == 429) from e
        except (BotoCoreError, ResponseParserError, ValueError, urllib3.exceptions.HTTPError) as e:
            raise CallFailed(_explain(e), may_pass=_may_pass(e)) from e
        raise self.failed(action, CUT_OFF)

    # Objects

    def create(self) -> None:
        if self.exists():
            return
        action = f"create bucket {self.name}"
        region = self._client().meta.region_name
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region not in (
            None, _DEFAULT_REGION, "aws-global") else {}
        try:
            self._call(action, "create_bucket", **where)
        except BackendUnavailable:
            if not self.exists():   # else somebody else made it at the same time
                raise

    def exists(self) -> bool:
        return self._call(f"look for bucket {self.name}", "head_bucket") is not None

    def put(self, key: str, data: bytes) -> None:
        if self._call(f"write {key}", "put_object", Key=key, Body=data) is None:
            raise self.no_container(f"write {key}")

    def get(self, key: str, start: int = 0, stop: int | None = None, *, newest: bool = False) -> bytes | None:
        if stop is not None and stop <= start:
            return None if self._call(f"read {key}", "head_object", Key=key) is None else b""
        part = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        return self._call(f"read {key}", "get_object", Key=key, **part)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        while True:
            action = f"list {self.name}/{prefix}"
            page = self._call(action, "list_objects_v2", Prefix=prefix, StartAfter=after, MaxKeys=KEYS_AT_ONCE)
            if page is None:
                raise self.no_container(action)
            if "IsTruncated" not in page:   # An answer that was cut off may pass for an empty one.
                raise self.failed(action, CUT_OFF)
            keys = [row["Key"] for row in page.get("Contents", ())]
            yield from keys
            if not page["IsTruncated"]:
                return
            after = keys[-1]

    def delete_many(self, keys: Sequence[str]) -> None:
        self._threads.map(self._delete_part,
                          [keys[first:first + KEYS_AT_ONCE] for first in range(0, len(keys), KEYS_AT_ONCE)])

    def _delete_part(self, keys: Sequence[str]) -> None:
        action = f"delete {len(keys)} objects"
        answer = self._call(action, "delete_objects", Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
        if answer is None:
            raise self.no_container(action)
        refused = {error.get("Code", "unknown") for error in answer.get("Errors", ())} - set(_MISSING)
        if refused:
            raise self.failed(action, ", ".join(sorted(refused)))

    def close(self) -> None:
        super().close()
        with self._lock:
            if self._made is not None:
                self._made.close()
                self._made = None


def _name_status(status: int, code: str) -> str:
    """Return S3's code of an error, or what HTTP calls it where there is none, as in answers without a body."""
    return code if code != str(status) else http.client.responses.get(status, "")


def _may_pass(error: Exception) -> bool:
    """Return whether another try may have another answer, and soon."""
    return isinstance(error, _LOST_CONNECTIONS) and not isinstance(error, _TIMEOUTS)


def _explain(error: Exception) -> str:
    """Say what went wrong, in words that hold no URL, for that may hold a password."""
    if isinstance(error, _TIMEOUTS):
        return NO_ANSWER
    if isinstance(error, SSLError):
        return NO_TLS
    if isinstance(error, ParamValidationError):
        return "the name of the bucket, or the key, is not valid"
    if isinstance(error, _LOST_CONNECTIONS):
        return explain_connection(getattr(error, "kwargs", {}).get("error", error))
    if isinstance(error, ResponseParserError):
        return "the answer is not S3's"
    # What is wrong with the configuration, such as NoCredentialsError; ValueError where the URL is none.
    return type(error).__name__ if isinstance(error, BotoCoreError) else "s3_endpoint_url is not valid"
