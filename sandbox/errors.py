"""The error family of this package. Every text is one line: what, to what, what to do."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Finding:
    """What one trial of this machine showed.

    Attributes:
        name: what was tried, in a word or two.
        ok: whether it can be enforced here.
        detail: what was seen.
        remedy: how to mend it; empty where `ok`.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""


class SandboxError(Exception):
    """Base of everything that this package raises on purpose."""


class Unavailable(SandboxError):
    """Whole isolation, or the limits that were asked for, cannot be had on this machine.

    Attributes:
        missing: what is missing, each with its remedy.
    """

    def __init__(self, missing: tuple[Finding, ...]) -> None:
        self.missing = missing
        super().__init__(
            "; ".join(f"no {item.name}: {item.detail}: {item.remedy}" for item in missing)
        )


class BadSpec(SandboxError):
    """What is to be run cannot be run as described; the fault is the task's own."""


class BadArchive(BadSpec):
    """The archive is damaged, hostile, empty or too large; the fault is the task's own."""


class SetupFailed(SandboxError):
    """The sandbox could not be made; nothing of the task ran, and the fault is not the task's."""


class CollectFailed(SandboxError):
    """The output could not be collected, or is larger than allowed."""
