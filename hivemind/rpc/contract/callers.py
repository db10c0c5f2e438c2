"""Which kind of caller a service is for. A node's token opens the link and nothing else."""

from grpclib.const import Status

from hivemind.rpc.auth import Principal, current_principal
from hivemind.rpc.errors import ErrorCode, fail


def current_account() -> Principal:
    """The calling account. Raises CallRefused for a node, whose owner's account it may not use."""
    principal = current_principal()
    if principal.kind != "account":
        raise fail(
            ErrorCode.INVALID_SESSION,
            Status.PERMISSION_DENIED,
            "a node's token is good for the link alone; log in as an account",
        )
    return principal


def current_node() -> str:
    """The calling node's id. Raises CallRefused for an account."""
    principal = current_principal()
    if principal.kind != "node" or principal.node_id is None:
        raise fail(
            ErrorCode.INVALID_SESSION,
            Status.PERMISSION_DENIED,
            "only an enrolled node may call this",
        )
    return principal.node_id
