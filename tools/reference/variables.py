"""Environment variables: each that the code names, with a description from here."""

import re
from pathlib import Path

from tools.reference.fields import Undescribed, table

_NAME = re.compile(r"\bHIVEMIND_[A-Z_]+\b")

_READ = {
    "HIVEMIND_HOME": "The home, where `--home` is not given.",
    "HIVEMIND_MASTER": "The master's `HOST:PORT`, before what the home's credentials say.",
    "HIVEMIND_TOKEN": "An account's token, before what the home's credentials say; for a worker, "
    "what it joins with.",
    "HIVEMIND_TLS_CA": "A file of certificates in PEM, the master's own or its authority's, before "
    "what the home's credentials or a worker's `tls_ca` say. With it, the master is spoken to by "
    "TLS.",
    "HIVEMIND_TLS_CERT": "A certificate in PEM to show a master that asks for one, before what the "
    "home's credentials or a worker's `tls_cert` say.",
    "HIVEMIND_TLS_KEY": "The key of `HIVEMIND_TLS_CERT`.",
    "HIVEMIND_ALLOW_PLAINTEXT": "`1` lets commands and workers speak to a master on another "
    "machine without a certificate, although anybody on the way may then read passwords and "
    "tokens.",
    "HIVEMIND_DEBUG": "`1` shows where an unforeseen fault of a command happened.",
}
_GIVEN = {
    "HIVEMIND_TASK_ID": "The task's id: what its submitter called it, or what the pool does.",
    "HIVEMIND_ATTEMPT": "Which try at it this is, from 1.",
    "HIVEMIND_PARAM_": "How the variables begin that hold the parameters of a task that was handed "
    "to a worker itself; the rest is the parameter's name in capitals.",
    "HIVEMIND_OUTPUT": "The folder whose content is the task's result: `/task/output`.",
}

_OWN = {"HIVEMIND_SCOPE_TRIED"}
"""What a worker says to itself across an exec."""


def variable_lines(package: Path) -> list[str]:
    """The section on the environment."""
    named: set[str] = set()
    for path in package.rglob("*.py"):
        named.update(_NAME.findall(path.read_text()))
    if unknown := sorted(named - _READ.keys() - _GIVEN.keys() - _OWN):
        raise Undescribed(f"the variable {unknown[0]}")
    if gone := sorted((_READ.keys() | _GIVEN.keys()) - named):
        raise Undescribed(f"the variable {gone[0]} is described and used by nothing")
    return [
        *("## Environment variables", ""),
        *table(("read by commands", "meaning"), [(f"`{k}`", text) for k, text in _READ.items()]),
        *table(("given to tasks", "meaning"), [(f"`{k}`", text) for k, text in _GIVEN.items()]),
    ]
