"""Whose copy of a study's results a bucket holds: a run that was taken for dead keeps off that of its successor.

A laptop that slept wakes up as the run that it was. Its lease has gone to another one meanwhile, and it does not know.
Each run leaves a token of its own in the storage, and looks whether it is still there before it sends anything.
"""

from __future__ import annotations

import uuid

from pipeline.remote import Remote

FOLDER = ".runs"


class TakenOver(Exception):
    """Another run of the study has begun."""


class Fence:
    """The token of one run."""

    def __init__(self, study: str) -> None:
        self._name, self._token = f"{FOLDER}/{study}", uuid.uuid4().hex.encode()

    def claim(self, remote: Remote) -> None:
        """Leave the token, which keeps all earlier runs of the study off.

        Raises:
            InputError: the storage refuses.
            RemoteUnreachable: it does not answer.
        """
        remote.write_bytes(self._name, self._token)

    def check(self, remote: Remote) -> None:
        """Do nothing while no later run has begun; where the token is gone with all else, leave it again.

        Raises:
            TakenOver: a later run has begun.
            InputError: the storage refuses.
            RemoteUnreachable: it does not answer.
        """
        try:
            found = remote.read_bytes(self._name)
        except FileNotFoundError:
            self.claim(remote)
            return
        if found != self._token:
            raise TakenOver("another run of the study has begun, which took this one for dead")
