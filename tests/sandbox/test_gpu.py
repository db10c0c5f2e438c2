"""Grants against a fake machine, and real runs with real (if fake) device nodes."""

import json
import os
from pathlib import Path, PurePosixPath

import attrs
import pytest

import sandbox
from sandbox.gpu import Gpu, Places, choose_gpus, grant_gpus, list_gpus, probe_gpus
from sandbox.gpu_libraries import find_libraries, show_to_task
from tests.sandbox.conftest import limits, python
from tests.sandbox.fake_gpus import (
    cdi_content,
    fake_gpu,
    made_nodes,
    make_places,
    uuid_of,
    write_cdi,
)

TARGET = PurePosixPath("/opt/nvidia/lib")


def write_proc(folder: Path, *gpus: tuple[str, str, str]) -> Path:
    for address, uuid, minor in gpus:
        (folder / address).mkdir(parents=True)
        (folder / address / "information").write_text(
            f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 77\nGPU UUID: \t {uuid}\n"
            f"Bus Location: \t {address}\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
        )
    return folder


def unavailable(*gpus: Gpu, places: Places) -> str:
    with pytest.raises(sandbox.Unavailable) as caught:
        grant_gpus(gpus, places=places)
    text = str(caught.value)
    assert all(item.remedy for item in caught.value.missing)
    assert "\n" not in text
    return text


# -- which GPUs ----------------------------------------------------------------------------------


def test_gpus_are_counted_by_address_whatever_their_nodes_are_called(tmp_path: Path) -> None:
    proc = write_proc(
        tmp_path / "gpus",
        ("0000:41:00.0", uuid_of(1), "0"),
        ("0000:01:00.0", uuid_of(0), "3"),
        ("0000:61:00.0", "GPU-????????-????-????-????-????????????", "4"),
        ("0000:81:00.0", uuid_of(3), "what"),
    )
    assert list_gpus(proc) == (
        fake_gpu(0, minor=3),
        fake_gpu(1, minor=0),
        attrs.evolve(fake_gpu(2, minor=4), uuid=""),
    )
    assert list_gpus(tmp_path / "missing") == ()


def test_gpus_are_chosen_by_index_and_by_uuid() -> None:
    there = [fake_gpu(0), fake_gpu(1), attrs.evolve(fake_gpu(2), uuid="")]
    assert choose_gpus([1, uuid_of(0)], there) == (fake_gpu(1), fake_gpu(0))
    for wanted in ([3], ["GPU-no"], ["1"], [""], [-1]):
        with pytest.raises(sandbox.BadSpec, match=r"no GPU .*: it has 0, 1, 2"):
            choose_gpus(wanted, there)
    with pytest.raises(sandbox.BadSpec, match="twice"):
        choose_gpus([1, uuid_of(1)], there)
    with pytest.raises(sandbox.BadSpec, match="it has none"):
        choose_gpus([0], [])


# -- grants --------------------------------------------------------------------------------------


def test_a_grant_holds_the_nodes_of_its_own_gpus_and_the_drivers(places: Places) -> None:
    grant = grant_gpus([fake_gpu(0, minor=1)], places=places)
    assert {path.name for path in grant.devices} == {"nvidiactl", "nvidia-uvm", "nvidia1"}
    env = dict(grant.env)
    assert env["CUDA_VISIBLE_DEVICES"] == env["NVIDIA_VISIBLE_DEVICES"] == uuid_of(0)
    both = grant_gpus([fake_gpu(1), fake_gpu(0)], uvm_tools=True, places=places)
    assert {path.name for path in both.devices} == {
        *("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1")
    }
    assert dict(both.env)["CUDA_VISIBLE_DEVICES"] == f"{uuid_of(1)},{uuid_of(0)}"


def test_mig_nodes_are_given_only_when_asked(places: Places) -> None:
    (places.dev / "nvidia-caps").mkdir()
    (places.dev / "nvidia-caps" / "nvidia-cap21").symlink_to("/dev/null")
    plain = grant_gpus([fake_gpu(0)], places=places)
    assert not [path for path in plain.devices if "caps" in str(path)]
    asked = grant_gpus([fake_gpu(0)], mig_capabilities=[21], places=places)
    assert places.dev / "nvidia-caps" / "nvidia-cap21" in asked.devices
    with pytest.raises(sandbox.Unavailable, match="nvidia-cap22 is not there"):
        grant_gpus([fake_gpu(0)], mig_capabilities=[22], places=places)


def test_libraries_outside_of_usr_get_a_neutral_path_and_nothing_beside_them_does(
    places: Places,
) -> None:
    grant = grant_gpus([fake_gpu(0)], places=places)
    assert {bind.target for bind in grant.binds} == {
        TARGET / f"{name}.{version}"
        for name in ("libcuda.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so")
        for version in ("1", "999.1")
    }
    assert dict(grant.env)["LD_LIBRARY_PATH"] == str(TARGET)


def test_libraries_below_usr_are_seen_already() -> None:
    # Any library of the system stands in for the driver's.
    found = next(Path("/usr/lib").rglob("libc.so.6"))
    assert show_to_task([found]).binds == ()
    elsewhere = show_to_task([found], sees_usr=False)
    assert elsewhere.folders == (str(TARGET),)
    assert TARGET / "libc.so.6" in {bind.target for bind in elsewhere.binds}


def test_no_library_is_no_grant(tmp_path: Path) -> None:
    with pytest.raises(sandbox.Unavailable, match=r"libcuda\.so\.1 is in none of"):
        find_libraries([tmp_path])
    with pytest.raises(sandbox.Unavailable, match="is not there"):
        show_to_task([tmp_path / "libcuda.so.1"])


def test_a_missing_node_is_told_before_anything_starts(places: Places) -> None:
    assert "nvidia7 is not there" in unavailable(fake_gpu(7), places=places)
    (places.dev / "nvidia-uvm").unlink()
    assert "nvidia-modprobe" in unavailable(fake_gpu(0), places=places)
    (places.dev / "nvidia-uvm").write_text("a file")
    assert "not a device node" in unavailable(fake_gpu(0), places=places)


def test_a_gpu_without_a_name_cannot_be_granted(places: Places) -> None:
    assert "UUID" in unavailable(attrs.evolve(fake_gpu(0), uuid=""), places=places)
    assert "UUID" in unavailable(attrs.evolve(fake_gpu(0), uuid="GPU-1234,0"), places=places)
    with pytest.raises(sandbox.BadSpec):
        grant_gpus([], places=places)


def test_nodes_that_tasks_may_not_open_are_told() -> None:
    with made_nodes() as dev:
        (dev / "nvidia0").chmod(0o660)
        text = unavailable(fake_gpu(0), places=Places(dev=dev, cdi=(), libraries=()))
    assert "mode 660" in text
    assert "NVreg_DeviceFileMode=0666" in text


# -- by a CDI file -------------------------------------------------------------------------------


def test_a_cdi_file_gives_libraries_and_what_it_gives_too_much_is_left_out(places: Places) -> None:
    gpus = (fake_gpu(0), fake_gpu(1))
    path = write_cdi(places, cdi_content(places, gpus))
    grant = grant_gpus(gpus[:1], places=attrs.evolve(places, libraries=()))
    assert grant.source == str(path)
    assert {node.name for node in grant.devices} == {"nvidiactl", "nvidia-uvm", "nvidia0"}
    assert {bind.target for bind in grant.binds} == {
        TARGET / "libcuda.so.1",
        TARGET / "libcuda.so.999.1",
    }
    assert set(grant.left_out) == {
        "hooks",
        "/dev/dri/card1",
        f"{places.dev}/nvidia-uvm-tools",
        "/run/nvidia-persistenced/socket",
    }
    env = dict(grant.env)
    assert "LD_PRELOAD" not in env
    assert env["NVIDIA_VISIBLE_DEVICES"] == uuid_of(0)


def test_a_cdi_file_that_speaks_of_other_nodes_is_not_believed(places: Places) -> None:
    content = cdi_content(places, (fake_gpu(0, minor=1), fake_gpu(1, minor=0)))
    write_cdi(places, content)
    assert "the driver says" in unavailable(fake_gpu(0), places=places)
    content = cdi_content(places, (fake_gpu(0),))
    content["devices"][1]["containerEdits"]["deviceNodes"].append({"path": f"{places.dev}/nvidia1"})
    write_cdi(places, content)
    assert "the driver says" in unavailable(fake_gpu(0), places=places)
    content = cdi_content(places, (fake_gpu(0),))
    del content["containerEdits"]["deviceNodes"][1]
    write_cdi(places, content)
    assert "leaves out" in unavailable(fake_gpu(0), places=places)


# -- in a spec -----------------------------------------------------------------------------------


def test_a_grant_adds_to_a_spec_and_wins_over_its_variables(places: Places) -> None:
    grant = grant_gpus([fake_gpu(0)], places=places)
    # Where these nodes lie is no place for a device of a spec's.
    grant = attrs.evolve(grant, devices=(Path("/dev/null"),))
    env = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "LD_LIBRARY_PATH": "/task/lib", "A": "b"}
    spec = grant.added_to(sandbox.Spec(argv=("true",), env=env, devices=(Path("/dev/zero"),)))
    assert spec.devices == (Path("/dev/zero"), Path("/dev/null"))
    assert spec.env["CUDA_VISIBLE_DEVICES"] == uuid_of(0)
    assert spec.env["LD_LIBRARY_PATH"] == f"{TARGET}:/task/lib"
    assert spec.env["A"] == "b"
    moved = sandbox.Python(prefix=None, env=(("LD_LIBRARY_PATH", "/opt/python/lib"),))
    spec = grant.added_to(sandbox.Spec(argv=("true",), python=moved))
    assert spec.env["LD_LIBRARY_PATH"] == f"{TARGET}:/opt/python/lib"


# -- in a run ------------------------------------------------------------------------------------


SEEN = """
import glob, json, os, stat
told = {}
for path in sorted(glob.glob("/dev/**", recursive=True)):
    if "nvidia" in path:
        with open(path, "r+b", buffering=0) as file:
            told[path] = [stat.S_ISCHR(os.fstat(file.fileno()).st_mode), file.write(b"x")]
libraries = {name: open("/opt/nvidia/lib/" + name).read() for name in os.listdir("/opt/nvidia/lib")}
print(json.dumps(dict(told=told, libraries=libraries, cuda=os.environ["CUDA_VISIBLE_DEVICES"])))
"""


async def test_a_run_opens_its_own_gpus_and_sees_no_others(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    with made_nodes(count=3) as dev:
        places = make_places(tmp_path, dev)
        grant = grant_gpus([fake_gpu(0, minor=1)], places=places)
        done = await sandbox.run_in(any_pool, grant.added_to(python(SEEN, limits=limits())))
    assert done.result.exit_code == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["told"] == {
        str(dev / name): [True, 1] for name in ("nvidia-uvm", "nvidia1", "nvidiactl")
    }
    assert told["libraries"]["libcuda.so.1"] == "this is libcuda"
    assert "libc.so.6" not in told["libraries"]
    assert told["cuda"] == uuid_of(0)


async def test_a_run_without_a_grant_sees_no_gpu(any_pool: sandbox.Pool) -> None:
    with made_nodes() as dev:
        source = "import os; print([n for n in os.listdir('/dev') if 'gpu' in n or 'nvidia' in n])"
        done = await sandbox.run_in(any_pool, python(source, limits=limits()))
        assert dev.exists()
    assert done.stdout == b"[]\n"


async def test_granted_nodes_do_not_open_dev_to_the_task(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    source = """
import os, stat
tried = []
for path in ("/dev/x", FOLDER + "/x"):
    for make in (lambda: open(path, "w"), lambda: os.mknod(path, stat.S_IFCHR | 0o666, 0x103)):
        try:
            make()
            tried.append(path)
        except OSError:
            pass
for name in os.listdir(FOLDER):
    for change in (os.unlink, lambda it: os.chmod(it, 0o777)):
        try:
            change(f"{FOLDER}/{name}")
            tried.append(name)
        except OSError:
            pass
print(tried)
"""
    with made_nodes() as dev:
        grant = grant_gpus([fake_gpu(0)], places=make_places(tmp_path, dev))
        spec = python(f"FOLDER = {str(dev)!r}\n{source}", limits=limits())
        done = await sandbox.run_in(any_pool, grant.added_to(spec))
        assert oct((dev / "nvidia0").stat().st_mode & 0o777) == "0o666"
    assert done.stdout == b"[]\n", done


# -- what a machine can do -----------------------------------------------------------------------


def test_a_machine_without_the_driver_has_nothing_to_say_of_gpus(tmp_path: Path) -> None:
    assert probe_gpus(proc=tmp_path) == ()


def test_a_finding_says_what_can_be_granted_and_how_to_mend_what_cannot(
    tmp_path: Path, places: Places
) -> None:
    proc = write_proc(
        tmp_path / "gpus",
        ("0000:01:00.0", uuid_of(0), "0"),
        ("0000:41:00.0", uuid_of(1), "1"),
    )
    (finding,) = probe_gpus(places, proc)
    assert (finding.ok, finding.remedy) == (True, "")
    assert finding.detail == "2 can be granted, by the driver's nodes"
    write_cdi(places, cdi_content(places, (fake_gpu(0), fake_gpu(1))))
    (finding,) = probe_gpus(places, proc)
    assert "nvidia.json; left out: " in finding.detail
    assert "hooks" in finding.detail
    (places.dev / "nvidia1").unlink()
    (finding,) = probe_gpus(places, proc)
    assert finding.ok
    assert "none can be granted" in finding.detail
    assert "nvidia-modprobe" in finding.detail
    assert os.linesep not in finding.detail
