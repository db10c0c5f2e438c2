"""What a daemon serves beside the contract itself."""

from collections.abc import Sequence
from importlib import resources

from hivemind.rpc._grpclib import IServable
from hivemind.rpc.health import Health
from hivemind.rpc.reflection import Reflection

Servable = IServable
"""A service that ``rpc.server`` can serve."""


def with_reflection(services: Sequence[Servable]) -> list[Servable]:
    """The services, and reflection that lists and describes them; health, where it is among them,
    is told of each by its name.
    """
    names = {method.split("/")[1] for service in services for method in service.__mapping__()}
    for service in services:
        if isinstance(service, Health):
            for name in names:
                service.set_serving(True, name)
    descriptors = resources.files("hivemind._pb").joinpath("descriptors.binpb").read_bytes()
    return [*services, Reflection(services, descriptors)]
