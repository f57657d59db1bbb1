"""S3 as the environment of this machine has it: which URLs name a store, how it is opened, what its errors mean."""

from __future__ import annotations

import os
import re
from typing import Any

CONNECT_SECONDS = 5.0
"""After which a store that does not accept a connection counts as one that does not answer."""

_AWS_ERROR = re.compile(r"AWS Error ([A-Z_]+)(?: \(HTTP status (\d+)\))?")
_PASSING = {
    *("NETWORK_CONNECTION", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "THROTTLING"),
    *("REQUEST_TIMEOUT", "REQUEST_EXPIRED", "REQUEST_TIME_TOO_SKEWED"),
}
"""What the store may answer now and not a minute later."""
_DENIED = {"ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID"}
_CERTIFICATE = re.compile(r"curlCode: (60|77)\b")


def is_url(storage: str | None) -> bool:
    """Whether this names an object store, well or badly, and no folder."""
    return storage is not None and "://" in storage


def url_fault(url: str) -> str | None:
    """Why this cannot be the URL of a store, with the remedy; never shows what may be a password."""
    scheme, _, place = url.partition("://")
    bucket, _, prefix = place.partition("/")
    if any(sign in bucket for sign in "@:") or any(sign in place for sign in "?#"):
        return (
            "the URL holds more than bucket and prefix, perhaps a key or password, which study.yaml would keep in "
            "plain text; write s3://BUCKET/PREFIX, and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_ENDPOINT_URL in the shell"
        )
    if scheme != "s3":
        return f"{scheme}:// is no store; write s3://BUCKET/PREFIX, or mount the place and name its folder"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        return f"{bucket!r} is no name of a bucket (3 to 63 of a-z, 0-9, `-`, `.`); write s3://BUCKET/PREFIX"
    if prefix.rstrip("/") and not is_relative_name(prefix.rstrip("/")):
        return f"the prefix {prefix!r} must not hold `..`, `.`, `//` or `\\`; write s3://BUCKET/PREFIX"
    return None


def is_relative_name(name: str) -> bool:
    """Whether a name with `/` between its parts stays below the place it counts from."""
    return not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in name.split("/"))


def endpoint() -> str | None:
    """Where the environment says that S3 is answered; None for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def s3_files(silent_seconds: float) -> Any:
    """The `pyarrow.fs` file system, with what it does not take from the environment by itself.

    Args:
        silent_seconds: a request to which no byte comes for so long has failed.
    """
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(
        endpoint_override=(endpoint() or "").rstrip("/") or None,
        # Stores other than Amazon's take any region: naming one spares the search for this machine's.
        region=region or ("us-east-1" if endpoint() else None),
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE") or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=silent_seconds,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),  # whoever asks tries again, with patience
        allow_delayed_open=True,  # a small file is one request
    )


def will_pass(error: OSError) -> bool:
    """Whether the same request may be answered later."""
    found = _AWS_ERROR.search(str(error))
    if found is None or error.errno is not None or _CERTIFICATE.search(str(error)):
        return False
    status = int(found[2] or 0)
    return found[1] in _PASSING or status >= 500 or status in (408, 429) or (found[1] == "UNKNOWN" and not status)


def is_missing(error: OSError) -> bool:
    """Whether the error only says that there is no such file."""
    found = _AWS_ERROR.search(str(error))
    return isinstance(error, FileNotFoundError) or (found is not None and found[1] == "NO_SUCH_KEY")


def refusal(error: OSError) -> str | None:
    """What the store refuses, with the remedy; None for an error that is not the store's."""
    found = _AWS_ERROR.search(str(error))
    if found is None:
        return None
    if found[1] == "NO_SUCH_BUCKET":
        return "there is no such bucket; make it, or name another one"
    if found[1] in _DENIED or found[2] in ("401", "403"):
        return (
            "access is denied; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine's role the right "
            "to list the bucket and to read, write and delete in it"
        )
    return (
        f"the store refuses ({first_line(error)}); check the URL, AWS_REGION and AWS_ENDPOINT_URL, and whether "
        "temporary credentials have expired"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
