"""Who may call: one listener asks for a token on every method that is not named open."""

from collections.abc import Awaitable, Callable, Mapping

import attrs
from grpclib.const import Status
from grpclib.events import RecvRequest

from hivemind.rpc._grpclib import Metadata
from hivemind.rpc.context import CallContext, current_call
from hivemind.rpc.errors import CallRefused, ErrorCode, RpcError, fail


@attrs.frozen(kw_only=True)
class Principal:
    """The caller, as its token says and `verify` has checked."""

    account: str
    role: str
    """`user`, `provider` or `admin`."""
    kind: str
    """`account`, or `node` for a token that a node was given; on a node's own services also
    `direct`, `push` and `local`."""
    node_id: str | None = None
    token_id: str
    expires_at: float
    """Seconds since the epoch."""


class InvalidToken(RpcError):
    """The token is not good; the text goes to the caller."""


Verify = Callable[[str, str], Awaitable[Principal]]
"""From a token and the peer's address to its principal; raises InvalidToken."""


@attrs.frozen
class Authenticator:
    """Default deny: what is not in `open_methods` needs `authorization: Bearer <token>`.

    On an open method a good token is honoured and a bad one ignored, so that logging in works with
    an old one in the metadata. `message_tokens` names methods (path to field) whose token may also
    travel in the request itself; metadata wins.
    """

    open_methods: frozenset[str]
    verify: Verify
    message_tokens: Mapping[str, str] = attrs.field(factory=dict)
    still_good: Callable[[Principal], bool] | None = None
    """Whether a token that was good is not revoked: asked of calls in flight, every few seconds."""
    certified: frozenset[str] = frozenset()
    """Methods, or services as ``/package.Service/``, for peers with a certificate alone."""

    async def on_request(self, event: RecvRequest) -> None:
        """Check one call before its handler starts; raises CallRefused."""
        call, token = current_call(), _bearer(event.metadata)
        self._check_certificate(call)
        if event.method_name in self.open_methods:
            if token:
                call.principal = await self._principal_or_none(token, call.peer)
        elif token or event.method_name not in self.message_tokens:
            call.principal = await self._principal(token, call.peer)

    def _check_certificate(self, call: CallContext) -> None:
        service = call.method[: call.method.rindex("/") + 1]
        if call.peer_certificate or not {call.method, service} & self.certified:
            return
        raise CallRefused(
            Status.PERMISSION_DENIED,
            "this is for workers with a certificate of the pool's authority: start the worker with "
            "--tls-cert and --tls-key (`hivemind tls issue` makes them)",
        )

    async def on_message(self, call: CallContext, message: object) -> None:
        """Take the token from the first message, where the method allows and metadata had none."""
        field = self.message_tokens.get(call.method)
        if call.principal is None and field is not None and call.method not in self.open_methods:
            call.principal = await self._principal(str(getattr(message, field, "")), call.peer)

    async def _principal_or_none(self, token: str, peer: str) -> Principal | None:
        try:
            return await self.verify(token, peer)
        except InvalidToken:
            return None

    async def _principal(self, token: str, peer: str) -> Principal:
        if not token:
            raise unauthenticated("this needs a token: `authorization: Bearer <token>`")
        try:
            return await self.verify(token, peer)
        except InvalidToken as error:
            raise unauthenticated(str(error)) from None


def unauthenticated(message: str) -> CallRefused:
    """The refusal of a call without a good token."""
    return fail(ErrorCode.INVALID_SESSION, Status.UNAUTHENTICATED, message)


def current_principal() -> Principal:
    """Who makes the current call.

    Raises:
        CallRefused: nobody known: the method is open and came without a good token.
    """
    principal = current_call().principal
    if principal is None:
        raise unauthenticated("this needs a token: `authorization: Bearer <token>`")
    return principal


def _bearer(metadata: Metadata) -> str:
    value = metadata.get("authorization", "")
    if not isinstance(value, str):
        return ""
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
