"""``policy check`` and ``policy show``: what people wrote, judged and told without any daemon."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hivemind.cli.main import run_main
from hivemind.settings.policies import installed_policies
from tests.pool import HIVEMIND, clean_environment


def policy(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [HIVEMIND, "policy", *arguments],
        stdin=subprocess.DEVNULL,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- check ---------------------------------------------------------------------------------------


def test_what_is_shipped_can_be_used_and_each_file_has_its_line() -> None:
    done = policy("check", str(installed_policies()))
    assert (done.returncode, done.stderr) == (0, "")
    names = ("default", "gpu", "network", "pool", "python", "strict")
    assert done.stdout.splitlines() == [f"{installed_policies()}/{name}.toml: ok" for name in names]


def test_one_bad_file_of_a_folder_fails_and_the_others_are_told_all_the_same(
    tmp_path: Path,
) -> None:
    shutil.copytree(installed_policies(), tmp_path / "p")
    (tmp_path / "p/strict.toml").write_text("tmp = { most = '12Q' }\n")
    (tmp_path / "p/pool.toml").write_text("leas = 1\n")
    (tmp_path / "p/notes.txt").write_text("not a policy\n")
    done = policy("check", str(tmp_path / "p"))
    assert done.returncode == 1
    assert [line.rpartition("/")[2] for line in done.stdout.splitlines()] == [
        *("default.toml: ok", "gpu.toml: ok", "network.toml: ok", "python.toml: ok")
    ]
    pool, strict = done.stderr.splitlines()
    assert pool.startswith(f"hivemind: {tmp_path}/p/pool.toml: there is no key leas: the keys are")
    assert strict.startswith(f"hivemind: {tmp_path}/p/strict.toml: tmp: most: '12Q' is not a size")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("lab.toml", "network = 'lan'", "lab.toml: network: expected one of none, loopback, full"),
        ("lab.toml", "= 1", "lab.toml is not TOML"),
        ("lab.txt", "", "lab.txt: a policy's file is named NAME.toml"),
        ("none", None, "none: there is no such file or folder"),
        (".", None, "has no policy in it"),
    ],
)
def test_a_path_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | None,
    words: str,
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert run_main(["policy", "check", str(tmp_path / name)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1


def test_a_check_without_a_path_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["policy", "check"]) == 2
    assert "PATH" in capsys.readouterr().err


# -- show ----------------------------------------------------------------------------------------


def test_each_value_is_shown_with_the_file_that_says_it_or_as_a_default(tmp_path: Path) -> None:
    lab = tmp_path / "policies/lab.toml"
    lab.parent.mkdir()
    lab.write_text(
        "memory = { most = '64G' }\nenv = { TZ = 'UTC' }\n"
        "mounts = [{ source = '/srv/data', target = '/data' }]\n"
    )
    done = policy("show", "lab", HIVEMIND_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert (head[:2], head[2].split()) == (["POLICY", "KEY"], ["VALUE", "FROM"])
    shown = {key: rest.rsplit(maxsplit=1) for name, key, rest in lines if name == "lab"}
    assert shown["memory.default"] == ["512M", "built-in"]
    assert shown["memory.most"] == ["64G", str(lab)]
    assert shown["env"] == ["TZ=UTC", str(lab)]
    assert shown["mounts"] == ["/srv/data at /data", str(lab)]
    assert shown["wall.most"] == ["7d", "built-in"]
    assert shown["cpu_time.most"] == ["unlimited", "built-in"]
    assert shown["cell_age"] == ["10m", "built-in"]
    assert shown["warm_python"] == ["true", "built-in"]
    assert shown["network"] == ["loopback", "built-in"]


def test_without_a_name_all_are_shown_and_the_pools_rules_too(tmp_path: Path) -> None:
    done = policy("show", "--home", str(tmp_path), "--json")
    policies = json.loads(done.stdout)["policies"]
    assert list(policies) == ["default", "gpu", "network", "pool", "python", "strict"]
    pool = str(installed_policies() / "pool.toml")
    assert policies["pool"]["lease_s"] == {"value": 15.0, "from": pool}
    assert policies["python"]["network"] == {"value": "loopback", "from": "built-in"}
    # Nothing is made where there was nothing.
    assert list(tmp_path.iterdir()) == []


def test_sizes_and_times_of_the_pools_rules_are_shown_as_people_write_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(["policy", "show", "pool", "--home", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[1]: line.split()[2] for line in lines}
    assert (shown["heartbeat_s"], shown["token_ttl_s"]) == ("2s", "1d")
    assert (shown["payload_bytes"], shown["crash_limit"]) == ("1000000000", "3")


def test_a_policy_that_is_not_there_and_a_home_that_is_broken_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(["policy", "show", "lab", "--home", str(tmp_path)]) == 1
    names = "default, gpu, network, pool, python, strict"
    assert capsys.readouterr().err == f"hivemind: there is no policy 'lab'; there are {names}\n"
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/lab.toml").write_text("reuse = 'always'\n")
    assert run_main(["policy", "show", "--home", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "lab.toml: reuse: expected one of never, job, account, not 'always'" in said
