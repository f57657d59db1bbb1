"""Where a study's artifacts are: the store of its `storage`, a folder or the URL of an object store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.cache import Store
from pipeline.object_store import endpoint, is_url

CACHE = "PARETO_CACHE"
"""Environment variable: the folder, of this node alone, below which it keeps its copies of object stores."""


def open_store(storage: str | Path, kind: Callable[..., Store] = Store) -> Store:
    """The store of a folder or of `s3://bucket/prefix`; an object store is asked nothing yet.

    Args:
        storage: where it is; every node of a cluster that names the same URL has the same store.
        kind: makes the store of a folder and, as `remote`, the object store that it is this node's copy of.

    Raises:
        RemoteRefused: the URL cannot be used.
    """
    if not is_url(str(storage)):
        return kind(Path(storage))
    from pipeline.remote import Remote
    from pipeline.remote_store import RemoteStore

    url = str(storage).rstrip("/")
    remote = RemoteStore(Remote(url))  # before the folder has a name: a password in the URL is refused here
    return kind(copy_folder(url), remote=remote)


def copy_folder(url: str) -> Path:
    """The folder of this node's copy of an object store: one for each URL and endpoint."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    base = os.environ.get(CACHE) or Path(home, "pareto-compression")
    place = url.rstrip("/")
    digest = hashlib.sha256(f"{endpoint() or ''} {place}".encode()).hexdigest()
    bucket = place.partition("://")[2].partition("/")[0]
    return Path(base) / f"{bucket}-{digest[:16]}"
