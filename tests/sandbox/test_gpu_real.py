"""What only a machine with an NVIDIA GPU can show; on others these are skipped, and say so."""

import json
from pathlib import Path

import pytest

import sandbox
from sandbox.gpu import Gpu, grant_gpus, list_gpus
from tests.sandbox.conftest import python

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not Path("/dev/nvidiactl").exists(), reason="no NVIDIA device: there is no /dev/nvidiactl"
    ),
]

# CUDA's driver API, as every program on top of it begins: docs.nvidia.com/cuda/cuda-driver-api.
CUDA = """
import ctypes, glob, json
cuda = ctypes.CDLL("libcuda.so.1")
def check(code):
    assert code == 0, code
check(cuda.cuInit(0))
count = ctypes.c_int(-1)
check(cuda.cuDeviceGetCount(ctypes.byref(count)))
uuids = []
for number in range(count.value):
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    check(cuda.cuDeviceGet(ctypes.byref(device), number))
    check(cuda.cuDeviceGetUuid(raw, device))
    uuids.append(bytes(raw).hex())
nodes = glob.glob("/dev/nvidia[0-9]*")
"""
LIMITS = sandbox.Limits(memory_bytes=4 << 30, scratch_bytes=64 << 20, wall_s=120)
HELD_BYTES = 512 << 20
HOLD = f"""
context, memory = ctypes.c_void_p(), ctypes.c_uint64()
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t({HELD_BYTES})))
check(cuda.cuMemsetD8_v2(memory, 1, ctypes.c_size_t({HELD_BYTES})))
check(cuda.cuCtxSynchronize())
print("held", flush=True)
import time
time.sleep(600)
"""


@pytest.fixture
def gpus() -> tuple[Gpu, ...]:
    found = list_gpus()
    assert found, "there is /dev/nvidiactl, and the driver lists no GPU in /proc/driver/nvidia/gpus"
    return found


def hexadecimal(gpu: Gpu) -> str:
    return gpu.uuid.removeprefix("GPU-").replace("-", "")


async def cuda_sees(pool: sandbox.Pool, gpus: tuple[Gpu, ...]) -> dict[str, list[str]]:
    spec = python(CUDA + "print(json.dumps(dict(uuids=uuids, nodes=nodes)))", limits=LIMITS)
    done = await sandbox.run_in(pool, grant_gpus(gpus).added_to(spec))
    assert done.result.exit_code == 0, done.stderr.decode()
    told: dict[str, list[str]] = json.loads(done.stdout)
    return told


async def test_cuda_finds_exactly_the_gpu_that_was_granted(
    any_pool: sandbox.Pool, gpus: tuple[Gpu, ...]
) -> None:
    for gpu in gpus:
        told = await cuda_sees(any_pool, (gpu,))
        assert told == {"uuids": [hexadecimal(gpu)], "nodes": [f"/dev/nvidia{gpu.minor}"]}


async def test_cuda_finds_all_gpus_that_were_granted_in_their_order(
    any_pool: sandbox.Pool, gpus: tuple[Gpu, ...]
) -> None:
    backwards = tuple(reversed(gpus))
    told = await cuda_sees(any_pool, backwards)
    assert told["uuids"] == [hexadecimal(gpu) for gpu in backwards]


async def test_cuda_finds_no_gpu_without_a_grant(
    any_pool: sandbox.Pool, gpus: tuple[Gpu, ...]
) -> None:
    grant = grant_gpus(gpus)
    source = 'import ctypes; print(ctypes.CDLL("libcuda.so.1").cuInit(0))'
    # With the libraries and variables, so that it is the nodes that keep the task out.
    spec = sandbox.Spec(
        argv=("python3", "-c", source), env=dict(grant.env), binds=grant.binds, limits=LIMITS
    )
    done = await sandbox.run_in(any_pool, spec)
    assert int(done.stdout) != 0


async def test_memory_that_a_run_holds_is_seen_from_outside_and_free_after_it(
    any_pool: sandbox.Pool, gpus: tuple[Gpu, ...]
) -> None:
    pynvml = pytest.importorskip("pynvml", reason="NVML for Python is not installed")
    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpus[0].uuid)
        assert pynvml.nvmlDeviceGetMinorNumber(handle) == gpus[0].minor
        before = pynvml.nvmlDeviceGetMemoryInfo(handle).used
        spec = grant_gpus(gpus[:1]).added_to(python(CUDA + HOLD, limits=LIMITS))
        async with any_pool.open_run(spec) as run:
            async for chunk in run.chunks():
                assert chunk.data == b"held\n", chunk.data
                break
            assert pynvml.nvmlDeviceGetMemoryInfo(handle).used - before >= HELD_BYTES
        assert pynvml.nvmlDeviceGetMemoryInfo(handle).used - before < HELD_BYTES
    finally:
        pynvml.nvmlShutdown()
