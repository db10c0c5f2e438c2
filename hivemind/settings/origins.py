"""Where the values in force come from: a policy's file, or the record where the file is silent."""

from collections.abc import Mapping
from pathlib import Path

import attrs

from hivemind.core.cpt import format_cpt
from hivemind.core.policy import Bound, PoolRules, Profile
from hivemind.settings.policies import POOL, POOL_KEYS, PROFILE_KEYS, Policies
from hivemind.settings.tables import read_table


@attrs.frozen(kw_only=True)
class Setting:
    """One value in force."""

    key: str
    """As in the file; the halves of a bound are ``memory.default`` and ``memory.most``."""
    value: object
    """As in the record: bytes, seconds, words; of CPT a decimal number as text."""
    origin: Path | None
    """The file that says it; None for the default of a key that it leaves out."""

    @property
    def said_by(self) -> str:
        """Where it comes from, for people. Not ``default``, which is a policy's name."""
        return "built-in" if self.origin is None else str(self.origin)


def origins(policies: Policies) -> Mapping[str, tuple[Setting, ...]]:
    """Every value of every policy, by the policy's name; the pool's rules are ``pool``.

    Raises BadSetting for a file that has become unreadable since.
    """
    records: dict[str, Profile | PoolRules] = {**policies.profiles, POOL: policies.pool}
    return {name: _settings(name, record, policies) for name, record in sorted(records.items())}


def _settings(name: str, record: Profile | PoolRules, policies: Policies) -> tuple[Setting, ...]:
    file = policies.sources.get(name)
    table = {} if file is None else read_table(file)
    found: list[Setting] = []
    keys = PROFILE_KEYS if isinstance(record, Profile) else POOL_KEYS
    for key, how in keys.items():
        value = getattr(record, how.field or key)
        if key.endswith("_cpt"):
            value = format_cpt(value)
        if isinstance(value, Bound):
            found += _halves(key, value, table.get(key), file)
        else:
            found.append(Setting(key=key, value=value, origin=file if key in table else None))
    return tuple(found)


def _halves(key: str, bound: Bound, said: object, file: Path | None) -> list[Setting]:
    own: Bound = getattr(Profile(name=key), key)
    halves = []
    for half in ("default", "most"):
        value = getattr(bound, half)
        # A default that is left out follows a most that is lower.
        is_said = (isinstance(said, dict) and half in said) or value != getattr(own, half)
        halves.append(Setting(key=f"{key}.{half}", value=value, origin=file if is_said else None))
    return halves
