"""Identifiers: how the pool's own are made, and which ones chosen by people are allowed.

A task's id is a ULID: 48 bits of time in milliseconds, then 80 random bits, in Crockford's base 32
and lower case. Ids made later sort later, so the store's primary key grows at its end.
"""

import re

from hivemind.core.errors import CoreError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_LENGTH = 26
_RANDOM_BYTES = 10
_SECRET_BYTES = 16
_TASK_ID = re.compile(f"[0-7][{_ALPHABET}]{{{_ID_LENGTH - 1}}}")
_PUBLIC_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ACCOUNT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{1,31}")

CLIENT_ID_LENGTH = 128
TASK_NAME_LENGTH = 200
NODE_NAME_LENGTH = 64


class BadName(CoreError):
    """A name or an id that somebody chose is not one that the pool accepts."""


def make_task_id(now_ms: int, random: bytes) -> str:
    """A new id from the time and ten random bytes.

    Args:
        now_ms: milliseconds since the epoch.
        random: exactly ten unpredictable bytes.

    Raises:
        ValueError: ``random`` has another length, or the time does not fit 48 bits.
    """
    if len(random) != _RANDOM_BYTES:
        raise ValueError(f"an id takes {_RANDOM_BYTES} random bytes, not {len(random)}")
    if not 0 <= now_ms < 1 << 48:
        raise ValueError(f"{now_ms} ms does not fit the 48 bits of an id's time")
    return _base32((now_ms << 80) | int.from_bytes(random, "big"), _ID_LENGTH)


def is_task_id(text: str) -> bool:
    """Whether ``text`` has the form of an id that ``make_task_id`` makes."""
    return _TASK_ID.fullmatch(text) is not None


def make_secret_text(random: bytes) -> str:
    """Random bytes as text that can be typed, put into a URL and given as a flag's value.

    Raises:
        ValueError: fewer than 16 bytes, which could be guessed.
    """
    if len(random) < _SECRET_BYTES:
        raise ValueError(f"a secret takes at least {_SECRET_BYTES} bytes, not {len(random)}")
    return _base32(int.from_bytes(random, "big"), -(-len(random) * 8 // 5))


def _base32(number: int, length: int) -> str:
    digits = [_ALPHABET[(number >> 5 * place) & 31] for place in range(length)]
    return "".join(reversed(digits))


def check_account_name(name: str) -> str:
    """``name`` itself, if an account may have it: 2 to 32 of a-z, 0-9, ``_`` and ``-``.

    Raises:
        BadName: it may not.
    """
    if _ACCOUNT_NAME.fullmatch(name) is None:
        raise BadName(
            f"{_shown(name)} cannot be an account's name: use 2 to 32 of the characters "
            "a-z, 0-9, _ and -, the first a letter or digit"
        )
    return name


def check_client_id(text: str) -> str:
    """``text`` itself, if a client may call its task by it; raises ``BadName`` if not."""
    return _check_label(text, "a task id", CLIENT_ID_LENGTH)


def check_public_id(text: str) -> str:
    """``text`` itself, if a client of the public API may call a task or a node by it: 1 to 128
    letters, digits, ``.``, ``_`` and ``-``. Raises ``BadName`` if not.
    """
    if _PUBLIC_ID.fullmatch(text) is None:
        raise BadName(
            f"{_shown(text)} cannot be an id: use 1 to 128 letters, digits, '.', '_' and '-'"
        )
    return text


def check_client_key(text: str) -> str:
    """``text`` itself, if it can be a submit's key; raises ``BadName`` if not."""
    return _check_label(text, "a client key", CLIENT_ID_LENGTH)


def check_idempotency_key(text: str) -> str:
    """``text`` itself, if it can be a transfer's key; raises ``BadName`` if not."""
    return _check_label(text, "an idempotency key", CLIENT_ID_LENGTH)


def check_task_name(text: str) -> str:
    """``text`` itself, if it can name a task for people; raises ``BadName`` if not."""
    return _check_label(text, "a task's name", TASK_NAME_LENGTH)


def check_node_name(text: str) -> str:
    """``text`` itself, if it can name a node for people; raises ``BadName`` if not."""
    return _check_label(text, "a node's name", NODE_NAME_LENGTH)


def _check_label(text: str, what: str, most: int) -> str:
    if not text:
        raise BadName(f"{what} cannot be empty")
    if len(text) > most:
        raise BadName(f"{what} can have at most {most} characters, and this has {len(text)}")
    if not text.isprintable():
        raise BadName(f"{_shown(text)} cannot be {what}: it has characters that do not print")
    if text != text.strip():
        raise BadName(f"{_shown(text)} cannot be {what}: it begins or ends with a space")
    return text


def _shown(text: str) -> str:
    """Quoted and escaped, so that the complaint itself stays one harmless line."""
    return ascii(text if len(text) <= 40 else text[:40] + "...")
