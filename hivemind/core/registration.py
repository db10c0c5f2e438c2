"""What a node says of itself that speaks the public API alone, and which of it is believed."""

import enum
import ipaddress
import re

import attrs

from hivemind.core.ids import BadName

NODE_ID_LENGTH = 128
TEXT_LENGTH = 200
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MOST_INT = 2**31 - 1


class Intent(enum.StrEnum):
    """What a pushed node last said that it wants."""

    SERVING = "serving"
    DRAINING = "draining"
    """It finishes what it has and takes nothing more."""
    OFFLINE = "offline"
    """It is gone until it says otherwise."""


@attrs.frozen(kw_only=True)
class Registration:
    """Where a pushed node is reached, and what it has."""

    hostname: str
    """A name or an address."""
    port: int
    cpu_cores: int
    memory_gb: int
    cpu_score: int = 0
    gpu_score: int = 0
    gpu_memory_gb: int = 0
    gpu_name: str = ""
    location: str = ""
    docker_status: str = ""
    """``enabled`` where it says that its tasks are fully isolated."""
    intent: Intent = Intent.SERVING

    @property
    def address(self) -> tuple[str, int]:
        """Where tasks are pushed to."""
        return self.hostname, self.port


def check_node_id(text: str) -> str:
    """``text`` itself, if a node may be registered under it; raises ``BadName`` if not."""
    if len(text) > NODE_ID_LENGTH or _NODE_ID.fullmatch(text) is None:
        raise BadName(
            f"{_shown(text)} cannot be a node's id: use 1 to {NODE_ID_LENGTH} letters, digits, "
            "'.', '_' and '-', the first a letter or digit"
        )
    return text


def check_registration(said: Registration) -> Registration:
    """``said`` itself, if a node can be like that. Raises ``BadName`` with what is wrong."""
    _check_host(said.hostname)
    for name, value, least, most in (
        ("port", said.port, 1, 65535),
        ("cpu_cores", said.cpu_cores, 1, 4096),
        ("memory_gb", said.memory_gb, 1, 1024 * 1024),
        ("cpu_score", said.cpu_score, 0, _MOST_INT),
        ("gpu_score", said.gpu_score, 0, _MOST_INT),
        ("gpu_memory_gb", said.gpu_memory_gb, 0, 1024 * 1024),
    ):
        if not least <= value <= most:
            raise BadName(f"{name} {value} cannot be: it is from {least} to {most}")
    for name, text in (
        ("gpu_name", said.gpu_name),
        ("location", said.location),
        ("docker_status", said.docker_status),
    ):
        if len(text) > TEXT_LENGTH or not text.isprintable() or text != text.strip():
            raise BadName(
                f"{_shown(text)} cannot be a {name}: use up to {TEXT_LENGTH} printable characters "
                "without spaces around them"
            )
    return said


def _check_host(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        # A name that ends in a number would be read as an address in one of its old forms.
        is_name = all(_LABEL.fullmatch(label) for label in labels) and not labels[-1][0].isdigit()
        if len(text) > 253 or not is_name:
            raise BadName(
                f"{_shown(text)} cannot be a hostname: give a name or an IP address, and the port "
                "apart"
            ) from None
        return
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise BadName(f"{_shown(text)} cannot be a hostname: its scope means nothing here")
    if not can_be_a_node(address):
        raise BadName(f"{_shown(text)} cannot be a hostname: no node is reached there")


def can_be_a_node(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a node may be reached at the address."""
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return not (
        address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or address == ipaddress.IPv4Address(0xFFFFFFFF)
    )


def is_at_loopback(said: Registration) -> bool:
    """Whether it is on the master's own machine, as far as its hostname alone tells."""
    try:
        address = ipaddress.ip_address(said.hostname)
    except ValueError:
        return said.hostname.removesuffix(".").lower().rpartition(".")[2] == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")
