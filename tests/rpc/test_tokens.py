import base64
import hmac
import json
import string
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from hivemind.rpc.auth import InvalidToken
from hivemind.rpc.tokens import MASTER_AUDIENCE, MAX_TOKEN_CHARS, Claims, sign_token, verify_token

KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
CLAIMS = Claims(
    subject="ann",
    role="user",
    kind="account",
    audience=MASTER_AUDIENCE,
    token_id="abc123",
    issued_at=1000.0,
    expires_at=2000.0,
)
TOKEN = sign_token(CLAIMS, KEY)
ALPHABET = string.ascii_letters + string.digits + "-_"


def verify(token: str, **options: Any) -> Claims:
    options.setdefault("audience", MASTER_AUDIENCE)
    options.setdefault("now", 1500.0)
    return verify_token(token, KEY.verify_key, **options)


def encoded(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: object, body: object, key: SigningKey = KEY) -> str:
    text = f"{encoded(header)}.{encoded(body)}"
    return f"{text}.{encoded(key.sign(text.encode()).signature)}"


def body_of(token: str) -> dict[str, Any]:
    text = token.split(".")[1]
    body: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return body


def test_a_token_says_what_was_signed() -> None:
    assert verify(TOKEN) == CLAIMS
    node = Claims(
        subject="ann",
        role="provider",
        kind="node",
        node_id="n1",
        audience=MASTER_AUDIENCE,
        token_id="x",
        issued_at=1.0,
        expires_at=2000.0,
    )
    assert verify(sign_token(node, KEY)) == node
    assert node.principal().node_id == "n1"


def test_another_library_reads_our_tokens() -> None:
    """PyJWT checks Ed25519 with another implementation of it than ours."""
    claims = sign_token(
        Claims(
            subject="ann",
            role="user",
            kind="account",
            audience=MASTER_AUDIENCE,
            token_id="abc123",
            issued_at=1000.0,
            expires_at=9e9,
        ),
        KEY,
    )
    public = jwt.PyJWK.from_dict(
        {"kty": "OKP", "crv": "Ed25519", "x": encoded(bytes(KEY.verify_key))}
    )
    read = jwt.decode(claims, public, algorithms=["EdDSA"], audience=MASTER_AUDIENCE)
    assert (read["sub"], read["jti"], read["kind"]) == ("ann", "abc123", "account")
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(claims, public, algorithms=["EdDSA"], audience="somebody else")


def test_no_character_of_a_token_can_be_changed() -> None:
    for place, letter in enumerate(TOKEN):
        for other in (ALPHABET[(ALPHABET.find(letter) + 1) % 64], "A", "_", ".", "=", "\n", "ä"):
            if other != letter:
                with pytest.raises(InvalidToken):
                    verify(TOKEN[:place] + other + TOKEN[place + 1 :])


def test_nothing_can_be_added_to_a_token_or_left_out_of_it() -> None:
    parts = TOKEN.split(".")
    for token in (
        "",
        "..",
        "...",
        TOKEN + "=",
        TOKEN + ".",
        " " + TOKEN,
        TOKEN[:-1],
        f"{parts[0]}.{parts[1]}.",
        f"{parts[0]}..{parts[2]}",
        f".{parts[1]}.{parts[2]}",
        TOKEN + "A" * MAX_TOKEN_CHARS,
    ):
        with pytest.raises(InvalidToken):
            verify(token)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "JWT"},
        {"alg": "HS256", "typ": "JWT"},
        {"alg": "EdDSA"},
        {"alg": "EdDSA", "typ": "JWT", "kid": "other"},
        {"alg": "EdDSA", "typ": "JWT", "jwk": {"kty": "OKP"}},
        ["alg", "EdDSA"],
        "EdDSA",
        None,
    ],
)
def test_the_header_is_compared_and_never_obeyed(header: object) -> None:
    with pytest.raises(InvalidToken, match="not one of this pool"):
        verify(signed(header, body_of(TOKEN)))


def test_a_token_signed_with_the_public_key_as_a_secret_is_not_one() -> None:
    text = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{TOKEN.split('.')[1]}"
    mac = hmac.digest(bytes(KEY.verify_key), text.encode(), "sha256")
    with pytest.raises(InvalidToken):
        verify(f"{text}.{encoded(mac)}")


def test_another_pools_token_is_not_one_of_ours() -> None:
    with pytest.raises(InvalidToken, match="not signed by this pool"):
        verify(sign_token(CLAIMS, OTHER))


def test_a_token_for_somebody_else_is_refused() -> None:
    with pytest.raises(InvalidToken, match="another server"):
        verify(TOKEN, audience="n1")


def test_a_token_has_its_time() -> None:
    assert verify(TOKEN, now=1999.9)
    assert verify(TOKEN, now=996.0)
    with pytest.raises(InvalidToken, match="expired"):
        verify(TOKEN, now=2000.0)
    with pytest.raises(InvalidToken, match="future"):
        verify(TOKEN, now=990.0)


@pytest.mark.parametrize("missing", ["sub", "role", "kind", "aud", "jti", "iat", "exp"])
def test_a_token_must_say_everything(missing: str) -> None:
    body = body_of(TOKEN)
    del body[missing]
    with pytest.raises(InvalidToken, match="lacks"):
        verify(signed({"alg": "EdDSA", "typ": "JWT"}, body))
    body[missing] = ["not", "a", "text"]
    with pytest.raises(InvalidToken, match="lacks"):
        verify(signed({"alg": "EdDSA", "typ": "JWT"}, body))


@pytest.mark.parametrize("body", [[], "text", 7, None, b"{", b"\xff"])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidToken):
        verify(signed({"alg": "EdDSA", "typ": "JWT"}, body))


@given(st.text(max_size=300))
def test_any_text_is_refused_and_nothing_worse(text: str) -> None:
    for token in (text, f"{TOKEN.split('.')[0]}.{text}", f"{text}.{text}.{text}"):
        with pytest.raises(InvalidToken) as refusal:
            verify(token)
        assert "\n" not in str(refusal.value)
