import math
import re
import tomllib
from pathlib import Path

import attrs
import pytest

from hivemind.core.confinement import Mode, Network, Reuse, Seccomp
from hivemind.core.policy import GIB, MIB, Bound, Mount, PoolRules, Profile
from hivemind.settings.errors import BadSetting
from hivemind.settings.policies import (
    POOL_KEYS,
    PROFILE_KEYS,
    installed_policies,
    load_policies,
    read_policy_file,
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
    assert [key.field or name for name, key in POOL_KEYS.items()] == names(PoolRules)
    assert list(POOL_KEYS) == documented("pool.toml")


def test_every_limit_of_a_profile_is_a_key_and_is_explained_in_the_default_one() -> None:
    assert ["name", *PROFILE_KEYS] == names(Profile) == ["name", *documented("default.toml")]


def test_the_files_that_are_shipped_say_what_the_records_say() -> None:
    policies = load_policies(None)
    assert policies.pool == PoolRules()
    assert sorted(policies.profiles) == ["default", "gpu", "network", "python", "strict"]
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
        elif isinstance(getattr(profiles["default"], field.name), Mode):
            strict = getattr(profiles["strict"], field.name)
            assert strict.is_within(getattr(profiles["default"], field.name))
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
        root = "/srv/root"
        mounts = [{ source = "/srv/data", target = "/data" }]
        tmp = { default = "1M" }
        shm = { most = "32M" }
        scratch_inodes = { default = 99 }
        cpu_time = { default = "1h" }
        open_files = { most = 2000 }
        file_size = { default = "1G", most = "2G" }
        network = "full"
        seccomp = "allow-list"
        env = { TZ = "UTC" }
        reuse = "job"
        cell_runs = 3
        cell_age = "1m"
        parked = 0
        warm_python = false
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
        root="/srv/root",
        mounts=(Mount("/srv/data", "/data"),),
        tmp=Bound(default=MIB, most=plain.tmp.most),
        # Its own default would be beyond the most.
        shm=Bound(default=32 * MIB, most=32 * MIB),
        scratch_inodes=Bound(default=99, most=plain.scratch_inodes.most),
        cpu_time=Bound(default=3600, most=math.inf),
        open_files=Bound(default=1024, most=2000),
        file_size=Bound(default=GIB, most=2 * GIB),
        network=Network.FULL,
        seccomp=Seccomp.ALLOW_LIST,
        env={"TZ": "UTC"},
        reuse=Reuse.JOB,
        cell_runs=3,
        cell_age=60,
        parked=0,
        warm_python=False,
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
        ("cpus = { most = 0 }", "p.toml: cpus: most: expected at least 0.001, not 0"),
        ("memory = { default = '8M' }", "p.toml: memory: default: expected at least 16M, not 8M"),
        ("memory = { most = 0 }", "p.toml: memory: most: expected at least 16M, not 0"),
        ("scratch = { default = '100K' }", "scratch: default: expected at least 192K, not 100K"),
        ("scratch = { most = '100K' }", "p.toml: scratch: most: expected at least 192K"),
        ("scratch_inodes = { most = 3 }", "scratch_inodes: most: expected at least 16, not 3"),
        ("scratch_inodes = { most = 1e6 }", "scratch_inodes: most: expected a whole number"),
        ("scratch_inodes = 5", "p.toml: scratch_inodes: expected a table such as"),
        ("tmp = '64M'", "p.toml: tmp: expected a table such as { default = ..., most = ... }"),
        ("tmp = { most = '1K' }", "p.toml: tmp: most: expected at least 64K, not 1K"),
        ("tmp = { max = '1M' }", "p.toml: tmp: max is not known: it has default and most"),
        ("tmp = { default = '5G' }", "p.toml: tmp: its default is beyond its most"),
        ("tmp_inodes = { default = 1 }", "p.toml: tmp_inodes: default: expected at least 16"),
        ("tmp_inodes = { most = 3000000000 }", "tmp_inodes: most: expected at most 2147483648"),
        ("shm = { default = '12Q' }", "p.toml: shm: default: '12Q' is not a size"),
        ("shm_inodes = { default = '9' }", "shm_inodes: default: expected a whole number from 0"),
        ("cpu_time = '1h'", "p.toml: cpu_time: expected a table"),
        ("cpu_time = { most = 'soon' }", 'cpu_time: most: expected a duration .* "unlimited"'),
        ("cpu_time = { most = 0 }", "p.toml: cpu_time: most: expected at least 0.001s, not 0s"),
        ("wall = { default = 0 }", "p.toml: wall: default: expected at least 0.001s"),
        ("pids = { default = 4 }", "p.toml: pids: default: expected at least 8, not 4"),
        ("file_size = { most = 1 }", "p.toml: file_size: most: expected at least 4K, not 1"),
        ("file_size = '1G'", "p.toml: file_size: expected a table"),
        ("open_files = { most = 10 }", "p.toml: open_files: most: expected at least 64, not 10"),
        ("open_files = { most = '1K' }", "p.toml: open_files: most: expected a whole number"),
        ("root = 'srv'", 'p.toml: root: expected "host" or the absolute path of a folder'),
        ("root = true", "p.toml: root: expected .* not True"),
        ("mounts = '/data'", "p.toml: mounts: expected a list of tables"),
        ("mounts = [{ source = '/a', target = '/usr/a' }]", "p.toml: mounts: target: expected"),
        ("network = 'lan'", "network: expected one of none, loopback, full, not 'lan'"),
        ("network = { default = 'none' }", "p.toml: network: expected one of none"),
        ("seccomp = 'off'", "p.toml: seccomp: expected one of allow-list, deny-list"),
        ("env = ['A=1']", "p.toml: env: expected a table of texts"),
        ("env = { A = 1 }", "p.toml: env: A: expected text in quotes, not 1"),
        ("env = { HIVEMIND_ATTEMPT = '9' }", "p.toml: env: 'HIVEMIND_ATTEMPT' is not a policy's"),
        ("reuse = 'always'", "p.toml: reuse: expected one of never, job, account, not 'always'"),
        ("reuse = false", "p.toml: reuse: expected one of never, job, account, not False"),
        ("cell_runs = 0", "p.toml: cell_runs: expected a whole number from 1, not 0"),
        ("cell_age = 0", "p.toml: cell_age: expected a duration above 0"),
        ("cell_age = 'old'", "p.toml: cell_age: 'old' is not a duration"),
        ("parked = -1", "p.toml: parked: expected a whole number from 0"),
        ("warm_python = 'yes'", "p.toml: warm_python: expected true or false, not 'yes'"),
    ],
)
def test_a_faulty_profile_is_refused_by_file_and_key(
    tmp_path: Path, content: str, words: str
) -> None:
    with pytest.raises(BadSetting, match=words):
        read_profile(written(tmp_path / "p.toml", content))


@pytest.mark.parametrize("key", PROFILE_KEYS)
def test_a_value_of_a_wrong_type_names_file_key_and_what_was_expected(
    tmp_path: Path, key: str
) -> None:
    # No key takes a date.
    path = written(tmp_path / "p.toml", f"{key} = 1979-05-27\n")
    with pytest.raises(BadSetting, match=rf"p\.toml: {key}: expected .*, not datetime") as caught:
        read_profile(path)
    assert str(caught.value).isprintable()


def test_who_may_reach_the_network_and_graphics_processors_is_named() -> None:
    profiles = load_policies(None).profiles
    assert profiles["network"].accounts == ("role:admin",)
    assert profiles["gpu"].accounts == ()
    wide = {name for name, profile in profiles.items() if profile.network is Network.FULL}
    assert wide == {"network"}
    assert {name for name, profile in profiles.items() if profile.gpus.most} == {"gpu"}
    assert profiles["gpu"].gpus.most == 8


def test_sandboxes_are_reused_for_one_account_at_most_and_never_where_more_is_at_stake() -> None:
    profiles = load_policies(None).profiles
    reusing = {name for name, profile in profiles.items() if profile.reuse is not Reuse.NEVER}
    assert reusing == {"default", "python"}
    assert {profiles[name].reuse for name in reusing} == {Reuse.ACCOUNT}


def test_a_single_file_is_read_as_what_it_is_named_for(tmp_path: Path) -> None:
    read_policy_file(written(tmp_path / "lab.toml", "network = 'none'"))
    read_policy_file(written(tmp_path / "pool.toml", "crash_limit = 7"))
    for name, content, words in (
        ("lab.toml", "crash_limit = 7", r"lab\.toml: there is no key crash_limit"),
        ("pool.toml", "network = 'none'", r"pool\.toml: there is no key network"),
        ("lab.tml", "", r"lab\.tml: a policy's file is named NAME\.toml"),
        ("Lab.toml", "", "is named with lower-case letters"),
    ):
        with pytest.raises(BadSetting, match=words):
            read_policy_file(written(tmp_path / name, content))


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
        ("grant_cpt = -1", "grant_cpt: expected an amount of CPT such as 1 or 0.25"),
        ("grant_cpt = true", "grant_cpt: expected an amount of CPT"),
        ("grant_cpt = 0.0000001", "grant_cpt: expected an amount of CPT"),
        ("grant_cpt = 1_000_001", "grant_cpt: expected at most 1000000 CPT, not 1000001"),
        ("price_cpu_cpt = 'one'", "price_cpu_cpt: expected an amount of CPT"),
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


@pytest.mark.parametrize(
    ("said", "ucpt"),
    [("3", 3_000_000), ("0.25", 250_000), ("'0.000001'", 1), ("1e-6", 1), ("0", 0)],
)
def test_amounts_of_cpt_are_read_exactly(tmp_path: Path, said: str, ucpt: int) -> None:
    path = written(tmp_path / "pool.toml", f"grant_cpt = {said}\nprice_gpu_cpt = {said}")
    assert read_pool_rules(path) == PoolRules(grant_ucpt=ucpt, price_gpu_ucpt=ucpt)


def test_a_home_replaces_files_one_by_one_and_adds_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    strict = written(folder / "strict.toml", "accounts = []")
    lab = written(folder / "lab.toml", "")
    written(folder / "lab.toml~", "not a policy")
    policies = load_policies(tmp_path)
    # The whole file is replaced: what it leaves out is the record's, not the installation's.
    assert policies.profiles["strict"] == Profile(name="strict", accounts=())
    assert sorted(policies.profiles) == ["default", "gpu", "lab", "network", "python", "strict"]
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
