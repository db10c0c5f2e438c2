"""The call that the current task serves: who calls, from where, and what goes with the answer."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import attrs

from hivemind.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from hivemind.rpc.auth import Principal
    from hivemind.rpc.budget import Reservation
    from hivemind.rpc.reply import ReplyTail
    from hivemind.rpc.spool import SpoolFile


@attrs.define
class CallContext:
    """One call on the server, for as long as its handler runs."""

    method: str
    peer: str
    """`host:port` of the caller, or `unknown`."""
    peer_certificate: dict[str, Any] | None = None
    principal: "Principal | None" = None
    error_code: ErrorCode | None = None
    upload: "SpoolFile | None" = None
    reply_tail: "ReplyTail | None" = None
    reply_held: "Reservation | None" = None
    """What is in memory for its replies; once it is known whose call it is."""

    @property
    def owner(self) -> str | None:
        """On whose account the call's bytes are held; None for a stranger.

        An account's nodes are one owner, and the account itself another: neither its uploads nor
        however many nodes it enrols take anything from its nodes' heartbeats or from others.
        """
        who = self.principal
        return None if who is None else f"{who.kind} {who.account}"


_current: ContextVar[CallContext] = ContextVar("hivemind_rpc_call")


def enter_call(context: CallContext) -> None:
    """Make `context` the current one, for this task and those it starts."""
    _current.set(context)


def current_call() -> CallContext:
    """The call that this task serves.

    Raises:
        LookupError: it serves none.
    """
    return _current.get()


def current_owner() -> str | None:
    """Whose call this task serves, as `CallContext.owner`; None outside of a call."""
    context = _current.get(None)
    return None if context is None else context.owner


def current_reply_held() -> "Reservation | None":
    """What this task's call holds for its replies; None outside of a call."""
    context = _current.get(None)
    return None if context is None else context.reply_held


def current_peer() -> str:
    """`host:port` of the caller. Raises LookupError outside of a call."""
    return current_call().peer


def note_error_code(code: ErrorCode) -> None:
    """Put `code` into the trailing metadata of the current call's answer, an OK one included."""
    current_call().error_code = code
