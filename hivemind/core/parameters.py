"""What a direct call says besides the program: the parameters of ``TaskWorkerService``.

Each becomes a variable ``HIVEMIND_PARAM_<NAME>`` of the task's environment, its name in capitals;
``args`` is the argument list instead, as a JSON list of texts, or as a shell would split it.
"""

import json
import re
import shlex
from collections.abc import Mapping

import attrs

from hivemind.core.errors import CoreError

ARGUMENTS = "args"
PREFIX = "HIVEMIND_PARAM_"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BadParameter(CoreError):
    """A parameter that cannot be handed to a task; one line that says which and why."""


@attrs.frozen(kw_only=True)
class Parameters:
    """The parameters, as the task gets them."""

    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)


def read_parameters(parameters: Mapping[str, str]) -> Parameters:
    """What a task gets of some parameters.

    Raises:
        BadParameter: a name that no variable can have, two that would be one, or ``args`` that
            cannot be split.
    """
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    for name, value in parameters.items():
        if name == ARGUMENTS:
            argv = _arguments(value)
            continue
        if _NAME.fullmatch(name) is None:
            raise BadParameter(
                f"{name[:40]!a} cannot name a parameter: use letters, digits and _, "
                "and no digit first"
            )
        variable = PREFIX + name.upper()
        if variable in env:
            raise BadParameter(f"two parameters are called {name[:40].upper()}: rename one")
        env[variable] = value
    return Parameters(argv=argv, env=env)


def _arguments(text: str) -> tuple[str, ...]:
    if text.lstrip().startswith("["):
        return _from_json(text)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise BadParameter(f"args cannot be split as a shell would: {error}") from error


def _from_json(text: str) -> tuple[str, ...]:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise BadParameter(
            'args begins with [ and is no JSON list of texts: write ["like", "this"]'
        )
    return tuple(listed)
