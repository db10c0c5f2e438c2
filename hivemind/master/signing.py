"""The pool's signing key, and the keys before it whose tokens are still believed.

Of a key that was replaced only the public half is kept, with the time until which it counts.
"""

import json
from collections.abc import Mapping

import attrs
from nacl.signing import SigningKey, VerifyKey

from hivemind.master.turn import Turn
from hivemind.rpc.contract.faults import exhausted

SIGNING_KEY_FACT = "signing_key"
"""The name under which the store keeps the key's 32-byte seed."""

OLD_KEYS_FACT = "old_signing_keys"
_MOST_OLD_KEYS = 16


@attrs.frozen
class OldKey:
    """A key that signs no more."""

    public_key: bytes
    until: float
    """When its tokens are no longer believed, in seconds since the epoch."""


def signing_key(facts: Mapping[str, bytes]) -> SigningKey:
    """The key with which tokens are signed."""
    return SigningKey(facts[SIGNING_KEY_FACT])


def verify_keys(facts: Mapping[str, bytes], now: float) -> tuple[VerifyKey, ...]:
    """The public halves of all keys whose tokens are believed now, the newest first."""
    old = (VerifyKey(key.public_key) for key in _old_keys(facts, now))
    return (signing_key(facts).verify_key, *old)


def rotate(turn: Turn, seed: bytes, grace_s: float) -> float:
    """Sign with a new key from now on; until when tokens of the one before it are believed.

    Without a grace no token that was made before is believed any more, whatever key it is of.

    Raises CallRefused where too many older keys are still believed.
    """
    facts = turn.cluster.facts
    until = turn.now + grace_s
    before = OldKey(bytes(signing_key(facts).verify_key), until)
    # A grace that is shorter than an earlier one's cuts that one short, too.
    older = [OldKey(key.public_key, min(key.until, until)) for key in _old_keys(facts, turn.now)]
    kept = [key for key in (before, *older) if key.until > turn.now]
    if len(kept) > _MOST_OLD_KEYS:
        raise exhausted(
            f"tokens of {_MOST_OLD_KEYS} older keys are still believed, which is the most; "
            "wait, or give a shorter --grace"
        )
    rows = [{"key": key.public_key.hex(), "until": key.until} for key in kept]
    turn.put_fact(OLD_KEYS_FACT, json.dumps(rows).encode())
    turn.put_fact(SIGNING_KEY_FACT, seed)
    return until


def _old_keys(facts: Mapping[str, bytes], now: float) -> tuple[OldKey, ...]:
    rows = json.loads(facts.get(OLD_KEYS_FACT, b"[]"))
    keys = (OldKey(bytes.fromhex(row["key"]), float(row["until"])) for row in rows)
    return tuple(key for key in keys if key.until > now)
