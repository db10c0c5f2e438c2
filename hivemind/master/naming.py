"""Which node somebody means by an id or a name."""

from collections.abc import Callable, Mapping

from hivemind.core.records import Node
from hivemind.rpc.contract.faults import NamedFault, denied, invalid
from hivemind.rpc.errors import ErrorCode

_MOST_TOLD = 5


def find_node(nodes: Mapping[str, Node], text: str, may_steer: Callable[[Node], bool]) -> Node:
    """The node of this id, or the only one of this name, that ``may_steer`` is true of.

    Names are chosen by nodes, ids are not: an id goes before a name, and what another account's
    node calls itself is no hindrance.

    Raises CallRefused: there is none, there are several, or the caller may not steer it.
    """
    known = nodes.get(text)
    if known is None:
        named = [node for node in nodes.values() if node.name == text]
        mine = [node for node in named if may_steer(node)]
        if len(mine) > 1:
            ids = ", ".join(sorted(node.id for node in mine)[:_MOST_TOLD])
            raise invalid(f"{len(mine)} nodes are called {text!a}; name one by its id: {ids}")
        known = next(iter(mine or named), None)
    if known is None:
        raise NamedFault(
            ErrorCode.NODE_NOT_FOUND, f"no node {text[:64]!a}; `hivemind nodes` lists them"
        )
    if not may_steer(known):
        raise denied(f"node {known.id} is not yours", ErrorCode.NODE_NOT_FOUND)
    return known
