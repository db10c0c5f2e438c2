"""From what somebody asks to what a task gets, within a policy.

The master calls ``admit`` once, at the submit. The worker calls ``check_spec`` on what it is given,
with its own policy of the same name. Neither ever gives silently less than was asked.
"""

import math
import re
from collections.abc import Callable
from typing import Protocol, TypeVar

import attrs

from hivemind.core import sizes
from hivemind.core.errors import CoreError
from hivemind.core.outputs import BadOutput, check_outputs
from hivemind.core.policy import Bound, PoolRules, Profile
from hivemind.core.records import PayloadKind, Requirements, Role, TaskSpec

ARGUMENT_BYTES = 128 * 1024
"""The longest string that execve(2) takes (MAX_ARG_STRLEN with pages of 4 KiB)."""
ALL_ARGUMENTS_BYTES = 1024 * 1024
"""Half of what execve(2) takes altogether under the usual stack limit of 8 MiB."""
LEAST_MEMORY_BYTES = 16 << 20
"""What no sandbox can do without: unpacking and starting take about 12 MiB themselves."""
_MOST_BYTES = 1 << 62
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class AdmissionError(CoreError):
    """A task that may not run as it is."""


class PolicyRefused(AdmissionError):
    """More was asked for than the policy allows, or by somebody who may not use it."""


class SpecRefused(AdmissionError):
    """A task's spec asks for what this machine's own policy does not give."""


class MalformedSpec(AdmissionError):
    """A task's spec that no policy could make right."""


@attrs.frozen(kw_only=True)
class Ask:
    """What a submit asks for; None where it does not say."""

    policy: str | None = None
    memory_bytes: int | None = None
    scratch_bytes: int | None = None
    cpu_millis: int | None = None
    gpus: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_name: str | None = None
    location: str | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    pids: int | None = None
    output_bytes: int | None = None
    result_bytes: int | None = None
    retries: int | None = None
    priority: int | None = None


@attrs.frozen(kw_only=True)
class Admitted:
    """What the task gets: the effective limits for its spec and its record."""

    policy: str
    requirements: Requirements
    wall_s: float
    cpu_s: float | None
    pids: int
    output_bytes: int
    result_bytes: int
    retries: int
    priority: int


class Asker(Protocol):
    """The part of an account that policies look at."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def role(self) -> Role:
        """What it may do."""


def may_use(profile: Profile, account: Asker) -> bool:
    """Whether the profile's ``accounts`` name the account, its role, or everybody."""
    return any(
        entry in {"*", account.name, f"role:{account.role.value}"} for entry in profile.accounts
    )


def admit(
    ask: Ask, profile: Profile, account: Asker, rules: PoolRules, *, unfinished: int = 0
) -> Admitted:
    """What the task gets under ``profile``: all that was asked, and defaults for the rest.

    Args:
        ask: what was asked for; its ``policy`` has been looked up by the caller.
        profile: the policy of that name.
        account: whose task it is.
        rules: the pool's.
        unfinished: how many tasks of the account have not ended.

    Raises:
        PolicyRefused: one line: what was asked, what is allowed, what to do.
    """
    if not may_use(profile, account):
        raise PolicyRefused(
            f"account {account.name} may not use policy {profile.name}: "
            "choose another with --policy, or ask an admin to be let in"
        )
    if unfinished >= rules.queue_per_account:
        raise PolicyRefused(
            f"account {account.name} has {unfinished} unfinished tasks and the pool allows "
            f"{rules.queue_per_account}: wait for some to end, or stop some"
        )
    asked = _asked(ask)
    got = {limit.key: limit.granted(asked[limit.key], profile) for limit in _LIMITS}
    return Admitted(
        policy=profile.name,
        requirements=Requirements(
            memory_bytes=int(got["memory"]),
            scratch_bytes=int(got["scratch"]),
            cpu_millis=round(1000 * got["cpus"]),
            gpus=int(got["gpus"]),
            gpu_memory_bytes=_with_gpu("GPU memory", ask.gpu_memory_bytes or 0, got["gpus"]),
            gpu_name=_with_gpu("a kind of GPU", ask.gpu_name or "", got["gpus"]),
            location=ask.location or "",
        ),
        wall_s=got["time"],
        cpu_s=_cpu_time(ask.cpu_s),
        pids=int(got["pids"]),
        output_bytes=int(got["output"]),
        result_bytes=int(got["result"]),
        retries=int(got["retries"]),
        priority=int(got["priority"]),
    )


def check_spec(spec: TaskSpec, profile: Profile) -> None:
    """Whether a worker may run the spec under its own policy of that name.

    Raises:
        MalformedSpec: as ``check_form``.
        SpecRefused: one line that names the policy's key, what is asked and what is given.
    """
    check_form(spec)
    if spec.policy != profile.name:
        raise SpecRefused(f"the task is for policy {spec.policy} and not for {profile.name}")
    needs = spec.requirements
    wanted: dict[str, float] = {
        "memory": needs.memory_bytes,
        "scratch": needs.scratch_bytes,
        "cpus": needs.cpu_millis / 1000,
        "gpus": needs.gpus,
        "time": spec.wall_s,
        "pids": spec.pids,
        "output": spec.output_bytes,
        "result": spec.result_bytes,
    }
    for limit in _LIMITS:
        if limit.key in wanted:
            limit.check(wanted[limit.key], profile)
    if not 0 <= needs.gpu_memory_bytes <= _MOST_BYTES:
        raise SpecRefused(f"gpu memory: {needs.gpu_memory_bytes} bytes cannot be had")
    if spec.cpu_s is not None and not 0 < spec.cpu_s < math.inf:
        raise SpecRefused(f"cpu time: a limit of {spec.cpu_s:g} s cannot be kept")


def check_form(spec: TaskSpec) -> None:
    """Whether the program could be started with its arguments and environment, and its outputs had.

    Raises:
        MalformedSpec: one line that says what is wrong.
    """
    if spec.kind is PayloadKind.COMMAND and not spec.argv:
        raise MalformedSpec("there is no command to run: give one after --")
    try:
        check_outputs(spec.outputs)
    except BadOutput as error:
        raise MalformedSpec(str(error)) from None
    if spec.filename in {".", ".."} or "/" in spec.filename:
        raise MalformedSpec(f"{spec.filename!a} is not a file's bare name")
    for name in spec.env:
        if _ENV_NAME.fullmatch(name) is None:
            raise MalformedSpec(
                f"{name[:40]!a} cannot name an environment variable: use letters, digits and _"
            )
    total = 0
    settings = [f"{name}={value}" for name, value in spec.env.items()]
    for text in (spec.filename, *spec.argv, *spec.command, *settings):
        size = _size_as_argument(text)
        if size > ARGUMENT_BYTES:
            raise MalformedSpec(
                f"an argument or variable has {size} bytes and {ARGUMENT_BYTES} is the most: "
                "send it as standard input or in a file"
            )
        total += size
    if total > ALL_ARGUMENTS_BYTES:
        raise MalformedSpec(
            f"arguments and environment have {total} bytes together and {ALL_ARGUMENTS_BYTES} "
            "is the most: send them as standard input or in a file"
        )


def _size_as_argument(text: str) -> int:
    if "\0" in text:
        raise MalformedSpec("an argument or variable contains a zero byte, which ends it")
    try:
        return len(text.encode()) + 1
    except UnicodeEncodeError:
        raise MalformedSpec("an argument or variable is not valid text") from None


@attrs.frozen
class _Limit:
    """One bounded thing that may be asked for."""

    key: str
    """As in a policy file, and as the flag of the command line where there is one."""
    bound: Callable[[Profile], Bound]
    show: Callable[[float], str]
    least: float | None
    """None: as far below zero as the policy's most is above."""

    def granted(self, asked: float | None, profile: Profile) -> float:
        """What a submit gets; raises ``PolicyRefused``."""
        bound = self.bound(profile)
        if asked is None:
            return bound.default
        least = -bound.most if self.least is None else self.least
        if asked > bound.most:
            raise PolicyRefused(
                f"{self.key} {self.show(asked)} was asked for and policy {profile.name} allows at "
                f"most {self.show(bound.most)}: ask for less, or choose another with --policy"
            )
        if not asked >= least:
            raise PolicyRefused(
                f"{self.key} {self.show(asked)} was asked for and policy {profile.name} allows no "
                f"less than {self.show(least)}: ask for more"
            )
        return asked

    def check(self, wanted: float, profile: Profile) -> None:
        """Raises ``SpecRefused`` for what the machine's policy does not give."""
        bound = self.bound(profile)
        least = -bound.most if self.least is None else self.least
        if not least <= wanted <= bound.most:
            raise SpecRefused(
                f"{self.key}: the task asks for {self.show(wanted)} and this machine's policy "
                f"{profile.name} gives {self.show(least)} to {self.show(bound.most)}"
            )


def _bytes(amount: float) -> str:
    return sizes.format_size(int(amount))


def _plain(amount: float) -> str:
    return f"{amount:.12g}"


def _seconds(amount: float) -> str:
    return sizes.format_duration(amount) if math.isfinite(amount) else f"{amount:g}s"


_LIMITS = (
    _Limit("memory", lambda profile: profile.memory, _bytes, LEAST_MEMORY_BYTES),
    _Limit("scratch", lambda profile: profile.scratch, _bytes, 0),
    _Limit("cpus", lambda profile: profile.cpus, _plain, 0.001),
    _Limit("gpus", lambda profile: profile.gpus, _plain, 0),
    _Limit("time", lambda profile: profile.wall, _seconds, 0.001),
    _Limit("pids", lambda profile: profile.pids, _plain, 1),
    _Limit("output", lambda profile: profile.output, _bytes, 0),
    _Limit("result", lambda profile: profile.result, _bytes, 0),
    _Limit("retries", lambda profile: profile.retries, _plain, 0),
    _Limit("priority", lambda profile: profile.priority, _plain, None),
)


def _asked(ask: Ask) -> dict[str, float | None]:
    return {
        "memory": ask.memory_bytes,
        "scratch": ask.scratch_bytes,
        "cpus": None if ask.cpu_millis is None else ask.cpu_millis / 1000,
        "gpus": ask.gpus,
        "time": ask.wall_s,
        "pids": ask.pids,
        "output": ask.output_bytes,
        "result": ask.result_bytes,
        "retries": ask.retries,
        "priority": ask.priority,
    }


Wish = TypeVar("Wish", int, str)


def _with_gpu(what: str, wish: Wish, gpus: float) -> Wish:
    if wish and not gpus:
        raise PolicyRefused(f"{what} was asked for but no GPU: ask for --gpus 1 or more")
    if isinstance(wish, int) and not 0 <= wish <= _MOST_BYTES:
        raise PolicyRefused(f"{what} of {wish} bytes cannot be had: ask for another amount")
    return wish


def _cpu_time(asked: float | None) -> float | None:
    if asked is not None and not 0 < asked < math.inf:
        raise PolicyRefused(f"a CPU time limit of {asked:g} s cannot be kept: ask for more")
    return asked
