"""From what somebody asks to what a task gets, within a policy.

The master calls ``admit`` once, at the submit. The worker calls ``check_spec`` on what it is given,
with its own policy of the same name. Neither ever gives silently less than was asked.
"""

import math
import re
from collections.abc import Mapping
from typing import Protocol, TypeVar

import attrs

from hivemind.core.confinement import Confinement, Mode, Network, Reuse, Seccomp
from hivemind.core.errors import CoreError
from hivemind.core.limits import LIMITS, MODES, Limit, ModeLimit, show_bytes
from hivemind.core.outputs import BadOutput, check_outputs
from hivemind.core.policy import LEAST, Bound, PoolRules, Profile
from hivemind.core.records import PayloadKind, Requirements, Role, TaskSpec
from hivemind.core.trust import MOST_TRUST

ARGUMENT_BYTES = 128 * 1024
"""The longest string that execve(2) takes (MAX_ARG_STRLEN with pages of 4 KiB)."""
ALL_ARGUMENTS_BYTES = 1024 * 1024
"""Half of what execve(2) takes altogether under the usual stack limit of 8 MiB."""
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
    tmp_bytes: int | None = None
    shm_bytes: int | None = None
    scratch_inodes: int | None = None
    tmp_inodes: int | None = None
    shm_inodes: int | None = None
    file_bytes: int | None = None
    open_files: int | None = None
    network: Network | None = None
    seccomp: Seccomp | None = None
    reuse: Reuse | None = None
    least_trust: int | None = None
    max_ucpt: int | None = None
    """Refuse the task rather than hold more for it."""


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
    confinement: Confinement
    env: Mapping[str, str]
    """What the policy sets; the task's own variables win."""


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
            "choose another policy, or ask an admin to be let in"
        )
    if unfinished >= rules.queue_per_account:
        raise PolicyRefused(
            f"account {account.name} has {unfinished} unfinished tasks and the pool allows "
            f"{rules.queue_per_account}: wait for some to end, or stop some"
        )
    ask = _with_shared_scratch(ask, profile)
    got = {limit.key: _granted(limit, limit.asked(ask), profile) for limit in LIMITS}
    if got["scratch"] - got["tmp"] - got["shm"] < LEAST["tmp"]:
        raise PolicyRefused(
            f"tmp {show_bytes(got['tmp'])} and shm {show_bytes(got['shm'])} are parts of scratch, "
            f"and of {show_bytes(got['scratch'])} they leave nothing for the working folder: "
            "ask for more scratch, or for less of them"
        )
    modes = {limit.key: _granted_mode(limit, limit.asked(ask), profile) for limit in MODES}
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
            least_trust=_trust(ask.least_trust),
        ),
        wall_s=got["wall"],
        cpu_s=None if got["cpu_time"] == math.inf else got["cpu_time"],
        pids=int(got["pids"]),
        output_bytes=int(got["output"]),
        result_bytes=int(got["result"]),
        retries=int(got["retries"]),
        priority=int(got["priority"]),
        confinement=Confinement(
            tmp_bytes=int(got["tmp"]),
            shm_bytes=int(got["shm"]),
            scratch_inodes=int(got["scratch_inodes"]),
            tmp_inodes=int(got["tmp_inodes"]),
            shm_inodes=int(got["shm_inodes"]),
            file_bytes=int(got["file_size"]),
            open_files=int(got["open_files"]),
            network=Network(modes["network"]),
            seccomp=Seccomp(modes["seccomp"]),
            reuse=Reuse(modes["reuse"]),
            warm_python=profile.warm_python,
        ),
        env=profile.env,
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
    for limit in LIMITS:
        _check(limit, limit.wanted(spec), profile)
    for mode in MODES:
        _check_mode(mode, mode.wanted(spec), profile)
    needs = spec.requirements
    if working_folder_bytes(spec) < LEAST["tmp"]:
        raise SpecRefused(
            f"scratch: {show_bytes(needs.scratch_bytes)} leaves no room for the working folder "
            "beside the task's tmp and shm"
        )
    if not 0 <= needs.gpu_memory_bytes <= _MOST_BYTES:
        raise SpecRefused(f"gpu memory: {needs.gpu_memory_bytes} bytes cannot be had")


def working_folder_bytes(spec: TaskSpec) -> int:
    """What of the scratch space is the working folder's."""
    shares = spec.confinement.tmp_bytes + spec.confinement.shm_bytes
    return spec.requirements.scratch_bytes - shares


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


def _granted(limit: Limit, asked: float | None, profile: Profile) -> float:
    """What a submit gets. Raises PolicyRefused."""
    bound = limit.bound(profile)
    if asked is None:
        return bound.default
    least = limit.least(profile)
    if asked > bound.most:
        raise PolicyRefused(
            f"{limit.name} {limit.show(asked)} was asked for and policy {profile.name} allows at "
            f"most {limit.show(bound.most)}: ask for less, or choose another policy"
        )
    if not asked >= least:
        raise PolicyRefused(
            f"{limit.name} {limit.show(asked)} was asked for and policy {profile.name} allows no "
            f"less than {limit.show(least)}: ask for more"
        )
    return asked


def _granted_mode(limit: ModeLimit, asked: Mode | None, profile: Profile) -> Mode:
    most = limit.most(profile)
    if asked is None:
        return most
    if not asked.is_within(most):
        raise PolicyRefused(
            f"{limit.key} {asked} was asked for and policy {profile.name} allows at most {most}: "
            "ask for less, or choose another policy"
        )
    return asked


def _with_shared_scratch(ask: Ask, profile: Profile) -> Ask:
    """The ask with a share of its scratch space for /tmp and /dev/shm, and inodes that go with it.

    Where it does not say, each gets what the policy has for it, up to an eighth of what there is,
    and an inode for each 4 KiB of that.
    """
    scratch = profile.scratch.default if ask.scratch_bytes is None else ask.scratch_bytes
    room = scratch - (ask.tmp_bytes or 0) - (ask.shm_bytes or 0)
    tmp = _share(ask.tmp_bytes, profile.tmp, room)
    shm = _share(ask.shm_bytes, profile.shm, room)
    return attrs.evolve(
        ask,
        tmp_bytes=tmp,
        shm_bytes=shm,
        tmp_inodes=_inodes(ask.tmp_inodes, profile.tmp_inodes, tmp),
        shm_inodes=_inodes(ask.shm_inodes, profile.shm_inodes, shm),
    )


def _share(asked: int | None, bound: Bound, room: float) -> int:
    if asked is not None:
        return asked
    return int(max(LEAST["tmp"], min(bound.default, room // 8)))


def _inodes(asked: int | None, bound: Bound, size_bytes: int) -> int:
    if asked is not None:
        return asked
    return int(max(LEAST["tmp_inodes"], min(bound.default, size_bytes // 4096)))


def _check(limit: Limit, wanted: float | None, profile: Profile) -> None:
    """Raises SpecRefused for what the machine's policy does not give."""
    most, least = limit.bound(profile).most, limit.least(profile)
    if wanted is not None and not least <= wanted <= most:
        raise SpecRefused(
            f"{limit.name}: the task asks for {limit.show(wanted)} and this machine's policy "
            f"{profile.name} gives {limit.show(least)} to {limit.show(most)}"
        )


def _check_mode(limit: ModeLimit, wanted: Mode | None, profile: Profile) -> None:
    most = limit.most(profile)
    if wanted is not None and not wanted.is_within(most):
        raise SpecRefused(
            f"{limit.key}: the task asks for {wanted} and this machine's policy {profile.name} "
            f"gives {most} at most"
        )


def _trust(asked: int | None) -> int:
    if asked is not None and not 0 <= asked <= MOST_TRUST:
        raise PolicyRefused(
            f"trust {asked} was asked for and a node's trust is from 0 to {MOST_TRUST}: "
            "ask for another"
        )
    return asked or 0


Wish = TypeVar("Wish", int, str)


def _with_gpu(what: str, wish: Wish, gpus: float) -> Wish:
    if wish and not gpus:
        raise PolicyRefused(f"{what} was asked for but no GPU: ask for one GPU or more")
    if isinstance(wish, int) and not 0 <= wish <= _MOST_BYTES:
        raise PolicyRefused(f"{what} of {wish} bytes cannot be had: ask for another amount")
    return wish
