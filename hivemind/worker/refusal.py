"""Whether this machine may and can run a task: its own policy decides, then what is free."""

from collections.abc import Iterable, Mapping

import attrs

from hivemind.core.admission import AdmissionError, check_spec
from hivemind.core.policy import Profile
from hivemind.core.records import Capacity, RefusalKind, TaskSpec
from hivemind.core.resources import Amounts, Shortage, ShortageKind, needed, offered, shortages
from hivemind.core.sizes import show_size


@attrs.frozen
class Refusal:
    """Why a task is not run here, in one line."""

    kind: RefusalKind
    detail: str


def judge(
    spec: TaskSpec,
    account: str,
    *,
    profiles: Mapping[str, Profile],
    capacity: Capacity,
    reserved: Amounts,
) -> Refusal | None:
    """Why the task may not run here now; None where it may.

    Args:
        spec: what the master wants run.
        account: whose task it is.
        profiles: this machine's own policies by name.
        capacity: all that this machine offers.
        reserved: what runs here holds of it.
    """
    return (
        _by_policy(spec, account, profiles)
        or _by_machine(spec, capacity)
        or _by_room(spec, capacity, reserved)
    )


def _by_policy(spec: TaskSpec, account: str, profiles: Mapping[str, Profile]) -> Refusal | None:
    profile = profiles.get(spec.policy)
    if profile is None:
        return Refusal(RefusalKind.POLICY, f"this machine has no policy {spec.policy!a}")
    if not _may_use(profile.accounts, account):
        return Refusal(
            RefusalKind.POLICY,
            f"accounts: the task is {account}'s and this machine's policy {profile.name} is for "
            f"{', '.join(profile.accounts) or 'nobody'}",
        )
    try:
        check_spec(spec, profile)
    except AdmissionError as error:
        return Refusal(RefusalKind.POLICY, str(error))
    return None


def _may_use(accounts: Iterable[str], account: str) -> bool:
    """Roles are the master's to judge, since a node is not told them; names are judged here too."""
    return any(entry in {"*", account} or entry.startswith("role:") for entry in accounts)


def _by_machine(spec: TaskSpec, capacity: Capacity) -> Refusal | None:
    missing = shortages(spec.requirements, capacity)
    if not missing:
        return None
    return Refusal(RefusalKind.POLICY, "; ".join(_describe(item) for item in missing))


def _describe(missing: Shortage) -> str:
    want, have = missing.needed, missing.available
    if isinstance(want, int) and isinstance(have, int):
        if missing.kind in {ShortageKind.MEMORY, ShortageKind.GPU_MEMORY}:
            return f"{missing.kind}: the task needs {show_size(want)} and this machine offers " + (
                show_size(have)
            )
        if missing.kind is ShortageKind.CPU:
            return f"cpus: the task needs {want / 1000:g} and this machine offers {have / 1000:g}"
    return f"{missing.kind}: the task needs {want} and this machine offers {have or 'none'}"


def _by_room(spec: TaskSpec, capacity: Capacity, reserved: Amounts) -> Refusal | None:
    need = needed(spec.requirements)
    if need.within(offered(capacity).minus(reserved)):
        return None
    taken = f"{reserved.slots} of {capacity.slots} slots"
    if need.gpus:
        taken += f" and {reserved.gpus} of {capacity.gpus} GPUs"
    return Refusal(RefusalKind.BUSY, f"busy: {taken} are taken")
