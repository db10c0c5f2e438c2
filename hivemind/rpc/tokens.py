"""Tokens: JSON Web Tokens signed with Ed25519 (EdDSA, RFC 8037), checked offline by any holder of
the public key.

Only this one algorithm is spoken: the header of a token is compared, never obeyed. Any JWT library
reads these tokens; making and checking them takes PyNaCl and the few lines here, where the usual
library would bring a second implementation of cryptography along.
"""

import base64
import binascii
import json
from typing import Any

import attrs
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from hivemind.rpc.auth import InvalidToken, Principal

_HEADER = {"alg": "EdDSA", "typ": "JWT"}
_LEEWAY_S = 5.0
"""How far two machines' clocks may disagree."""

MAX_TOKEN_CHARS = 4096


class WrongKey(InvalidToken):
    """The token was not signed with this key; perhaps it was with another one of the pool's."""


MASTER_AUDIENCE = "hivemind-master"
"""Whom a token addresses that the pool's master believes."""


class WrongAudience(InvalidToken):
    """A genuine token that is meant for somebody else."""

    def __init__(self, audience: str) -> None:
        super().__init__("the token is meant for another server; log in here")
        self.audience = audience


@attrs.frozen(kw_only=True)
class Claims:
    """What a token says."""

    subject: str
    """The account; for a node's token the account that owns the node."""
    role: str
    kind: str
    """``account``, ``node``, or, for one node's own services, ``direct`` or ``push``."""
    audience: str
    """``MASTER_AUDIENCE``, or a node's id."""
    token_id: str
    issued_at: float
    expires_at: float
    node_id: str | None = None

    def principal(self) -> Principal:
        """The caller that such a token stands for."""
        return Principal(
            account=self.subject,
            role=self.role,
            kind=self.kind,
            node_id=self.node_id,
            token_id=self.token_id,
            expires_at=self.expires_at,
        )


def sign_token(claims: Claims, key: SigningKey) -> str:
    """The token that says so."""
    body: dict[str, Any] = {
        "sub": claims.subject,
        "role": claims.role,
        "kind": claims.kind,
        "aud": claims.audience,
        "jti": claims.token_id,
        "iat": int(claims.issued_at),
        "exp": int(claims.expires_at),
    }
    if claims.node_id is not None:
        body["node"] = claims.node_id
    signing_input = f"{_encode(_HEADER)}.{_encode(body)}"
    signature = key.sign(signing_input.encode()).signature
    return f"{signing_input}.{_base64(signature)}"


def verify_token(token: str, key: VerifyKey, *, audience: str, now: float) -> Claims:
    """What the token says, if it is genuine, addressed to ``audience`` and not expired at ``now``.

    Raises:
        InvalidToken: it is not; the text may go to the caller.
    """
    if len(token) > MAX_TOKEN_CHARS or token.count(".") != 2:
        raise InvalidToken("the token is not one of this pool; log in again")
    header_text, body_text, signature_text = token.split(".")
    if _decode(header_text) != _HEADER:
        raise InvalidToken("the token is not one of this pool; log in again")
    try:
        key.verify(f"{header_text}.{body_text}".encode(), _unbase64(signature_text))
    except (BadSignatureError, ValueError):
        raise WrongKey("the token was not signed by this pool; log in again") from None
    claims = _claims(_decode(body_text))
    if claims.audience != audience:
        raise WrongAudience(claims.audience)
    if now >= claims.expires_at:
        raise InvalidToken("the token has expired; log in again")
    if claims.issued_at > now + _LEEWAY_S:
        raise InvalidToken("the token is from the future; check this machine's clock")
    return claims


def _claims(body: object) -> Claims:
    if not isinstance(body, dict):
        raise InvalidToken("the token lacks what it must say; log in again")
    try:
        node_id = body.get("node")
        return Claims(
            subject=_text(body["sub"]),
            role=_text(body["role"]),
            kind=_text(body["kind"]),
            audience=_text(body["aud"]),
            token_id=_text(body["jti"]),
            issued_at=float(body["iat"]),
            expires_at=float(body["exp"]),
            node_id=None if node_id is None else _text(node_id),
        )
    except (KeyError, TypeError, ValueError):
        raise InvalidToken("the token lacks what it must say; log in again") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _encode(value: object) -> str:
    return _base64(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())


def _decode(text: str) -> object:
    try:
        decoded: object = json.loads(_unbase64(text))
    except (ValueError, RecursionError):
        raise InvalidToken("the token cannot be read; log in again") from None
    return decoded


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unbase64(text: str) -> bytes:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        data = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64url") from None
    # The last digit may have bits that say nothing: only one way to write a token is a token.
    if _base64(data) != text:
        raise ValueError("not the one way to write it")
    return data
