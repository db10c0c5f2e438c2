"""From what a call raised to what a person is told. The one place where the two families meet."""

from hivemind.client.errors import (
    ClientError,
    LostConnection,
    NoAnswer,
    NoMaster,
    NoSuchTask,
    NotLoggedIn,
    NotTrusted,
    Refused,
)
from hivemind.client.target import Target
from hivemind.core.wording import one_line
from hivemind.rpc.contract.faults import NamedFault
from hivemind.rpc.errors import (
    CallRefused,
    CertificateRefused,
    ConnectFailed,
    DeadlineExceeded,
    ErrorCode,
    NoGrpc,
    OwnCertificateRefused,
    RemoteError,
    RpcError,
    Status,
    TlsFailed,
)
from hivemind.rpc.plaintext import PlaintextRefused
from hivemind.settings.daemon import (
    MASTER_VARIABLE,
    PLAINTEXT_VARIABLE,
    TLS_CA_VARIABLE,
    TLS_CERT_VARIABLE,
    TLS_KEY_VARIABLE,
)


def is_lost(error: RpcError) -> bool:
    """Whether the connection is to blame, so that the same call may do better on a new one."""
    if isinstance(error, RemoteError):
        return error.status is Status.UNAVAILABLE and error.code is None
    return not isinstance(error, DeadlineExceeded | CallRefused)


def explained(error: RpcError, target: Target) -> ClientError:
    """``error`` as one line for the person whose call it was."""
    address = target.address
    if isinstance(error, ConnectFailed):
        return _not_connected(error, target)
    if isinstance(error, DeadlineExceeded):
        return NoAnswer(f"the master at {address} did not answer in time; try again")
    if isinstance(error, NamedFault):
        return _by_code(error.named_code, error.text, address)
    if not isinstance(error, RemoteError):
        return LostConnection(f"the connection to the master at {address} was lost; try again")
    if error.status is Status.UNAUTHENTICATED:
        return _by_code(error.code or ErrorCode.INVALID_SESSION, str(error), address)
    if error.status is Status.UNIMPLEMENTED:
        return Refused(f"the server at {address} does not know this call; is it an older HiveMind?")
    return _by_code(error.code, str(error), address)


def _not_connected(error: ConnectFailed, target: Target) -> ClientError:
    address, trust = target.address, target.trust
    if isinstance(error, PlaintextRefused):
        return NotTrusted(
            f"the master at {address} is on another machine, and anybody on the way could read "
            f"passwords and tokens: set {TLS_CA_VARIABLE} to a file with its certificate, or, to "
            f"take the risk, {PLAINTEXT_VARIABLE}=1"
        )
    if isinstance(error, OwnCertificateRefused):
        return NotTrusted(
            f"the master at {address} takes nobody without a certificate of its authority "
            f"({error.reason}): set {TLS_CERT_VARIABLE} and {TLS_KEY_VARIABLE} to one's files"
        )
    if isinstance(error, CertificateRefused) and trust is not None:
        return NotTrusted(
            f"the certificate of the master at {address} is not trusted ({error.reason}): "
            f"{trust.said_by} names {trust.ca}; set {TLS_CA_VARIABLE} to a file with the right "
            f"one, or {MASTER_VARIABLE} to a name that it is for"
        )
    if isinstance(error, TlsFailed) and trust is not None:
        return NotTrusted(
            f"the server at {address} does not speak TLS as a master would ({error.reason}); if "
            f"it has no certificate, take away the one that {trust.said_by} names"
        )
    if isinstance(error, NoGrpc) and trust is None:
        return NoMaster(
            f"no master answers at {address}, although something listens there; if it is a master "
            f"with a certificate, set {TLS_CA_VARIABLE} to a file with that"
        )
    return NoMaster(
        f"no master answers at {address}; start one with `hivemind up`, or set {MASTER_VARIABLE}"
    )


def not_logged_in(address: str, why: str) -> NotLoggedIn:
    """``why`` says what is wrong with the token, or that there is none."""
    return NotLoggedIn(
        f"{why}; log in to {address} with `hivemind account login NAME`, or set HIVEMIND_TOKEN"
    )


def _by_code(code: ErrorCode | None, message: str, address: str) -> ClientError:
    text = one_line(message if code is None else message.removeprefix(f"{code.name}: "))
    match code:
        case ErrorCode.INVALID_SESSION:
            return not_logged_in(address, text.removesuffix("; log in again"))
        case ErrorCode.TASK_NOT_FOUND:
            return NoSuchTask(text)
        case _:
            return Refused(text or f"the master at {address} refused, and did not say why")
