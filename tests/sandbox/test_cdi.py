import os
from pathlib import Path
from typing import Any

import attrs
import pytest

import sandbox
from sandbox.cdi import Edits, find_cdi_file
from sandbox.gpu import Places
from tests.sandbox.fake_gpus import cdi_content, fake_gpu, uuid_of, write_cdi

GPUS = (fake_gpu(0), fake_gpu(1))


def refused(*folders: Path) -> str:
    with pytest.raises(sandbox.Unavailable) as caught:
        find_cdi_file(folders)
    text = str(caught.value)
    assert "nvidia-ctk cdi generate --format=json" in text
    assert "\n" not in text
    return text


def test_devices_are_found_by_uuid_and_by_index(places: Places) -> None:
    path = write_cdi(places, cdi_content(places, GPUS))
    file = find_cdi_file(places.cdi)
    assert file is not None
    assert file.path == path
    for name in (uuid_of(1), "1"):
        edits = file.find([name])
        assert edits.nodes == (f"{places.dev}/nvidia1", "/dev/dri/card1")
    assert file.common.env == (
        ("NVIDIA_VISIBLE_DEVICES", "void"),
        ("LD_PRELOAD", "/tmp/x.so"),
    )
    assert file.common.unused == ("hooks",)
    with pytest.raises(sandbox.Unavailable, match="names no device 7 or gpu7"):
        file.find(["7", "gpu7"])


def test_no_file_and_files_for_others_are_none(tmp_path: Path) -> None:
    assert find_cdi_file([tmp_path / "missing"]) is None
    (tmp_path / "other.json").write_text('{"kind": "amd.com/gpu"}')
    (tmp_path / "broken.yaml").write_text("[a, b]")
    (tmp_path / "note.txt").write_text("nvidia.com/gpu")
    assert find_cdi_file([tmp_path]) is None


def test_what_the_system_wrote_since_its_start_counts_first(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "etc").mkdir()
    text = "kind: nvidia.com/gpu\ndevices:\n- name: %s\n"
    (tmp_path / "run" / "nvidia.yaml").write_text(text % "new")
    (tmp_path / "etc" / "nvidia.yaml").write_text(text % "old")
    file = find_cdi_file([tmp_path / "run", tmp_path / "etc"])
    assert file is not None
    assert file.devices == {"new": Edits()}


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"deviceNodes": [{"path": "/etc/shadow"}]}, "does not lie below /dev"),
        ({"deviceNodes": [{"path": "dev/nvidia0"}]}, "absolute path"),
        ({"deviceNodes": [{"path": "/dev/../etc/shadow"}]}, "absolute path"),
        ({"deviceNodes": [{"path": "//dev/nvidia0"}]}, "absolute path"),
        ({"deviceNodes": [{"path": "/dev/nvidia0", "hostPath": "/dev/sda"}]}, "another name"),
        ({"deviceNodes": [{}]}, "a device node must be a string"),
        ({"deviceNodes": {"path": "/dev/nvidia0"}}, "deviceNodes must be a list"),
        ({"deviceNodes": ["/dev/nvidia0"]}, "a device node must be a mapping"),
        ({"mounts": [{"hostPath": "lib/x", "containerPath": "/x"}]}, "absolute path"),
        ({"mounts": [{"hostPath": "/x", "containerPath": "x/../y"}]}, "absolute path"),
        ({"env": ["NOVALUE"]}, "not a variable"),
        ({"env": [7]}, "a variable must be a string"),
        ({"env": ["A=\n"]}, "printable"),
        ({"privileged": True}, "not known here: 'privileged'"),
        ([], "containerEdits must be a mapping"),
    ],
)
def test_what_a_file_must_not_say_is_refused(places: Places, edits: Any, words: str) -> None:
    content = cdi_content(places, GPUS, containerEdits=edits)
    write_cdi(places, content)
    assert words in refused(*places.cdi)
    content = cdi_content(places, GPUS)
    content["devices"][0]["containerEdits"] = edits
    write_cdi(places, content)
    assert words in refused(*places.cdi)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"devices": [{"name": "0"}, {"name": "0"}]}, "twice"),
        ({"devices": [{"name": 0}]}, "a device's name"),
        ({"devices": "all"}, "devices must be a list"),
        ({"surprise": 1}, "'surprise'"),
    ],
)
def test_a_file_of_another_form_is_refused(
    places: Places, changes: dict[str, Any], words: str
) -> None:
    write_cdi(places, cdi_content(places, GPUS, **changes))
    assert words in refused(*places.cdi)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nvidia.json", '{"kind": "nvidia.com/gpu"'),
        ("nvidia.json", '"nvidia.com/gpu"'),
        ("nvidia.json", "[" * 100_000 + '"nvidia.com/gpu"'),
        ("nvidia.yaml", "kind: nvidia.com/gpu\ndevices: [a, b]\n"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert name in refused(tmp_path)


def test_a_file_that_others_may_write_is_refused(places: Places) -> None:
    path = write_cdi(places, cdi_content(places, GPUS))
    path.chmod(0o666)
    assert "may write it" in refused(*places.cdi)
    if os.geteuid() == 0:
        path.chmod(0o644)
        os.chown(path, 12345, 12345)
        assert "may write it" in refused(*places.cdi)


def test_a_file_is_read_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "nvidia.json"
    path.write_text('{"kind": "nvidia.com/gpu"}' + " " * (1 << 20))
    assert "larger than" in refused(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refused(tmp_path)
    path.unlink()
    path.write_bytes(b'{"kind": "nvidia.com/gpu\xff"}')
    assert "UTF-8" in refused(tmp_path)


def test_edits_add_up() -> None:
    one = Edits(nodes=("/dev/a",), mounts=("/a",), env=(("A", "1"),), unused=("hooks",))
    both = one.plus(attrs.evolve(one, nodes=("/dev/b",)))
    assert both.nodes == ("/dev/a", "/dev/b")
    assert both.mounts == ("/a", "/a")
