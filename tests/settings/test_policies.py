import re
import tomllib
from pathlib import Path

import attrs
import pytest

from hivemind.core.policy import GIB, MIB, Bound, PoolRules, Profile
from hivemind.settings.errors import BadSetting
from hivemind.settings.policies import (
    POOL_KEYS,
    PROFILE_KEYS,
    installed_policies,
    load_policies,
    read_pool_rules,
    read_profile,
)


def written(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(cls: type[attrs.AttrsInstance]) -> list[str]:
    return [field.name for field in attrs.fields(cls)]


def documented(name: str) -> list[str]:
    """The keys of a policy file that have a comment above them, in order."""
    lines = (installed_policies() / name).read_text().splitlines()
    return [
        match[1]
        for above, line in zip(["", *lines], lines, strict=False)
        if (match := re.match(r"(\w+) = ", line)) and above.startswith("# ")
    ]


def test_every_rule_of_the_pool_is_a_key_and_is_explained_in_its_file() -> None:
    assert list(POOL_KEYS) == names(PoolRules) == documented("pool.toml")


def test_every_limit_of_a_profile_is_a_key_and_is_explained_in_the_default_one() -> None:
    assert ["name", *PROFILE_KEYS] == names(Profile) == ["name", *documented("default.toml")]


def test_the_files_that_are_shipped_say_what_the_records_say() -> None:
    policies = load_policies(None)
    assert policies.pool == PoolRules()
    assert sorted(policies.profiles) == ["default", "strict"]
    default = policies.profiles["default"]
    assert default == Profile(name="default", description=default.description)
    assert policies.sources["pool"] == installed_policies() / "pool.toml"


def test_the_strict_profile_gives_no_more_than_the_default_one_and_says_all_of_it() -> None:
    profiles = load_policies(None).profiles
    for field in attrs.fields(Profile):
        if field.type is Bound:
            strict = getattr(profiles["strict"], field.name)
            default = getattr(profiles["default"], field.name)
            assert strict.most <= default.most
            assert strict.default <= default.default
    table = tomllib.loads((installed_policies() / "strict.toml").read_text())
    assert list(table) == list(PROFILE_KEYS)


def test_a_profile_is_named_for_its_file_and_keeps_what_it_leaves_out(tmp_path: Path) -> None:
    path = written(
        tmp_path / "gpu.toml",
        """
        description = "for the lab"
        accounts = ["ann", "role:admin"]
        memory = { most = "64G" }
        gpus = { default = 1, most = 2 }
        wall = { default = "10m" }
        cpus = { default = 0.5 }
        priority = { default = -5 }
        """,
    )
    plain = Profile(name="gpu")
    assert read_profile(path) == attrs.evolve(
        plain,
        description="for the lab",
        accounts=("ann", "role:admin"),
        memory=Bound(default=512 * MIB, most=64 * GIB),
        gpus=Bound(default=1, most=2),
        wall=Bound(default=600, most=plain.wall.most),
        cpus=Bound(default=0.5, most=plain.cpus.most),
        priority=Bound(default=-5, most=10),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("memroy = {}", "p.toml: there is no key memroy: the keys are accounts"),
        ('name = "other"', "p.toml: there is no key name"),
        ("memory = '512M'", "p.toml: memory: expected a table"),
        ("memory = { most = '12Q' }", "p.toml: memory: most: '12Q' is not a size"),
        ("wall = { default = 'soon' }", "p.toml: wall: default: 'soon' is not a duration"),
        ("pids = { most = 2.5 }", "p.toml: pids: most: expected a whole number"),
        ("accounts = '*'", "p.toml: accounts: expected a list of texts, not '\\*'"),
        ("cpus = { most = -1 }", "p.toml: cpus: most: expected a number from 0"),
    ],
)
def test_a_faulty_profile_is_refused_by_file_and_key(
    tmp_path: Path, content: str, words: str
) -> None:
    with pytest.raises(BadSetting, match=words):
        read_profile(written(tmp_path / "p.toml", content))


@pytest.mark.parametrize("stem", ["Default", "a b", "-x", "ä", "x" * 65, ".x"])
def test_a_profile_has_a_plain_name(tmp_path: Path, stem: str) -> None:
    with pytest.raises(BadSetting, match="is named with lower-case letters"):
        read_profile(written(tmp_path / f"{stem}.toml", ""))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("lease = 5", "pool.toml: there is no key lease: the keys are"),
        ("registration = 'closed'", "registration: expected one of auto, open, invite"),
        ("lease_s = 0", "lease_s: expected a duration above 0"),
        ("lease_s = true", "lease_s: expected a duration such as"),
        ("crash_limit = 0", "crash_limit: expected a whole number from 1"),
        ("payload_bytes = '0'", "payload_bytes: expected a size above 0"),
        ("heartbeat_s = '15s'", "lease_s: it must be longer than heartbeat_s"),
        ("retry_backoff_s = '2m'", "retry_backoff_s: it is longer than retry_backoff_most_s"),
    ],
)
def test_a_faulty_rule_is_refused_by_file_and_key(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        read_pool_rules(written(tmp_path / "pool.toml", content))


def test_a_rule_that_is_left_out_keeps_its_default(tmp_path: Path) -> None:
    path = written(tmp_path / "pool.toml", "lease_s = '1m'\npayload_bytes = '1M'")
    expected = attrs.evolve(PoolRules(), lease_s=60, payload_bytes=MIB)
    assert read_pool_rules(path) == expected


def test_a_home_replaces_files_one_by_one_and_adds_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    strict = written(folder / "strict.toml", "accounts = []")
    lab = written(folder / "lab.toml", "")
    written(folder / "lab.toml~", "not a policy")
    policies = load_policies(tmp_path)
    # The whole file is replaced: what it leaves out is the record's, not the installation's.
    assert policies.profiles["strict"] == Profile(name="strict", accounts=())
    assert sorted(policies.profiles) == ["default", "lab", "strict"]
    assert policies.sources["strict"] == strict
    assert policies.sources["lab"] == lab
    assert policies.sources["default"] == installed_policies() / "default.toml"
    assert policies.pool == PoolRules()
    written(folder / "pool.toml", "crash_limit = 7")
    assert load_policies(tmp_path).pool.crash_limit == 7


def test_a_home_without_policies_has_the_installations(tmp_path: Path) -> None:
    assert load_policies(tmp_path) == load_policies(None)


def test_one_faulty_file_refuses_them_all(tmp_path: Path) -> None:
    written(tmp_path / "policies" / "lab.toml", "nonsense")
    with pytest.raises(BadSetting, match=r"lab\.toml is not TOML"):
        load_policies(tmp_path)


def test_policies_that_are_no_folder_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "policies", "")
    with pytest.raises(BadSetting, match="Not a directory"):
        load_policies(tmp_path)
