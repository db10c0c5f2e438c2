"""How a task is shut in: what its sandbox gives it beside memory, processors and time."""

import enum
from typing import Self

import attrs

MIB = 1024 * 1024


class Mode(enum.StrEnum):
    """Words for how much is allowed, from the strictest to the widest."""

    def is_within(self, most: Self) -> bool:
        """Whether it allows no more than ``most`` does."""
        words = list(type(self))
        return words.index(self) <= words.index(most)


class Network(Mode):
    """What a task can reach."""

    NONE = "none"
    """Nothing: no sockets but UNIX ones."""
    LOOPBACK = "loopback"
    """Itself: a network of its own that leads nowhere."""
    FULL = "full"
    """The machine's own network, with all that the machine can reach."""


class Seccomp(Mode):
    """Which system calls a task may make."""

    ALLOW_LIST = "allow-list"
    """Those that programs in containers need."""
    DENY_LIST = "deny-list"
    """All but those that programs do not need and kernels have been broken by."""


class Reuse(Mode):
    """Which tasks may follow each other in one sandbox that is kept."""

    NEVER = "never"
    """None: each has a sandbox of its own."""
    JOB = "job"
    """Those of one account and policy that were submitted under one name; an unnamed task's own
    retries."""
    ACCOUNT = "account"
    """Those of one account and policy."""


@attrs.frozen(kw_only=True)
class Confinement:
    """What a task's sandbox is made like. As all of a spec, effective: within the policy."""

    tmp_bytes: int = 64 * MIB
    """Size of /tmp; a part of the scratch space, as is that of /dev/shm."""
    shm_bytes: int = 64 * MIB
    scratch_inodes: int = 100_000
    """Files and folders in the working folder."""
    tmp_inodes: int = 16_384
    shm_inodes: int = 16_384
    file_bytes: int = 16 * 1024 * MIB
    """Size of any one file; never more than the space for it."""
    open_files: int = 1024
    """Descriptors of one process."""
    network: Network = Network.LOOPBACK
    seccomp: Seccomp = Seccomp.DENY_LIST
    reuse: Reuse = Reuse.NEVER
    """A permission: a node may always reuse less."""
    warm_python: bool = False
    """A permission: Python scripts may start from a warm interpreter in a sandbox that is kept."""
