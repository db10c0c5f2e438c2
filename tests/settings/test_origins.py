from pathlib import Path

from hivemind.core.policy import GIB, MIB, PoolRules
from hivemind.settings.origins import Setting, origins
from hivemind.settings.policies import POOL_KEYS, installed_policies, load_policies


def found(home: Path, policy: str) -> dict[str, tuple[object, Path | None]]:
    settings = origins(load_policies(home))[policy]
    return {setting.key: (setting.value, setting.origin) for setting in settings}


def test_every_value_of_a_shipped_policy_that_says_all_comes_from_its_file(tmp_path: Path) -> None:
    for name in ("default", "strict", "pool"):
        settings = origins(load_policies(tmp_path))[name]
        assert {setting.origin for setting in settings} == {installed_policies() / f"{name}.toml"}
    assert [setting.key for setting in settings] == list(POOL_KEYS)


def test_what_a_file_leaves_out_is_told_to_be_the_default(tmp_path: Path) -> None:
    path = tmp_path / "policies" / "lab.toml"
    path.parent.mkdir()
    path.write_text("memory = { most = '64G' }\nscratch = { most = '1M' }\nnetwork = 'none'\n")
    values = found(tmp_path, "lab")
    assert values["memory.default"] == (512 * MIB, None)
    assert values["memory.most"] == (64 * GIB, path)
    # The default follows the most that the file says.
    assert values["scratch.default"] == (MIB, path)
    assert values["network"] == ("none", path)
    assert values["seccomp"] == ("deny-list", None)
    assert values["accounts"] == (("*",), None)


def test_a_file_of_the_home_is_told_in_place_of_the_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "policies" / "pool.toml"
    path.parent.mkdir()
    path.write_text("crash_limit = 7\ngrant_cpt = 2.50\n")
    settings = origins(load_policies(tmp_path))["pool"]
    assert Setting(key="crash_limit", value=7, origin=path) in settings
    assert Setting(key="grant_cpt", value="2.5", origin=path) in settings
    assert Setting(key="price_cpu_cpt", value="1", origin=None) in settings
    assert Setting(key="lease_s", value=PoolRules().lease_s, origin=None) in settings
