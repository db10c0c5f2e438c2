"""What a daemon serves beside the contract itself."""

from collections.abc import Sequence
from importlib import resources

from hivemind.rpc._grpclib import IServable
from hivemind.rpc.reflection import Reflection

Servable = IServable
"""A service that ``rpc.server`` can serve."""


def with_reflection(services: Sequence[Servable]) -> list[Servable]:
    """The services, and reflection that lists and describes them."""
    descriptors = resources.files("hivemind._pb").joinpath("descriptors.binpb").read_bytes()
    return [*services, Reflection(services, descriptors)]
