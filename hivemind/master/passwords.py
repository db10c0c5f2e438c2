"""Passwords, as Argon2id hashes."""

import nacl.exceptions
import nacl.pwhash.argon2id
import trio

MIN_PASSWORD_CHARS = 8
MAX_PASSWORD_BYTES = 1024

_HASHES_AT_ONCE = 2
"""A hash takes 64 MiB and tens of milliseconds, so a flood of logins must queue, not pile up."""


class Passwords:
    """Hashes and checks passwords off the event loop, a few at a time."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_HASHES_AT_ONCE)

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await trio.to_thread.run_sync(_hash, password, limiter=self._limiter)

    async def matches(self, stored: str, password: str) -> bool:
        """Whether the password is the stored one. An empty ``stored`` matches nothing.

        An account that does not exist costs the same work, so that time tells nothing.
        """
        if not stored:
            await self.hash(password)
            return False
        return await trio.to_thread.run_sync(
            _verify, stored.encode(), password, limiter=self._limiter
        )


def _hash(password: str) -> str:
    return nacl.pwhash.argon2id.str(
        password.encode(),
        opslimit=nacl.pwhash.argon2id.OPSLIMIT_INTERACTIVE,
        memlimit=nacl.pwhash.argon2id.MEMLIMIT_INTERACTIVE,
    ).decode("ascii")


def _verify(reference: bytes, password: str) -> bool:
    try:
        return nacl.pwhash.argon2id.verify(reference, password.encode())
    except nacl.exceptions.InvalidkeyError:
        return False
