"""Memory, and every place where bytes can be hidden."""

from __future__ import annotations

from sandbox import Reason
from tests.abuse.arena import Arena, case, limits

OOM = (Reason.OUT_OF_MEMORY, 137)
_UNMAPPED = "without one, memory that no process has mapped is not seen"
_ALL = limits().cgroup_memory_bytes


@case(5)
async def test_a_memory_bomb_is_ended_for_memory(arena: Arena) -> None:
    # Slow enough for a watchdog that looks ten times a second, where there is no cgroup.
    pause_s = 0 if arena.with_cgroup else 0.01
    seen = await arena.python(f"""
if os.fork() == 0:
    hoard = []
    while True:
        hoard.append(b"x" * (1 << 20))
        time.sleep({pause_s})
os.wait()
time.sleep(60)
""")
    assert seen.ended == OOM
    assert seen.result.usage.memory_peak_bytes <= 2 * _ALL


@case(6, cgroup=_UNMAPPED)
async def test_a_hoard_of_memory_files_is_ended_for_memory(arena: Arena) -> None:
    seen = await arena.python("""
hoard = []
while True:
    hoard.append(os.memfd_create("x"))
    os.write(hoard[-1], bytes(4 << 20))
""")
    assert seen.ended == OOM


async def _fill(arena: Arena, folder: str) -> list[int]:
    seen = await arena.shell(
        f"head -c 60000000 /dev/zero >{folder}/a; head -c 60000000 /dev/zero >{folder}/b;"
        f"stat -c %s {folder}/a {folder}/b"
    )
    assert seen.stderr.count(b"No space left") == 2
    return [int(word) for word in seen.stdout.split()]


@case(7)
async def test_one_file_cannot_pass_the_quota_of_tmp(arena: Arena) -> None:
    assert await _fill(arena, "/tmp") == [4 << 20, 0]


@case(8)
async def test_many_files_cannot_pass_the_quota_of_tmp(arena: Arena) -> None:
    seen = await arena.python("""
made = 0
try:
    while True:
        write(f"/tmp/{made}", bytes(16384))
        made += 1
except OSError as error:
    tell(made=made, error=errno.errorcode[error.errno])
""")
    assert seen.told["error"] == "ENOSPC"
    assert 200 <= seen.told["made"] <= 256


@case(9)
async def test_shared_memory_has_a_quota(arena: Arena) -> None:
    assert await _fill(arena, "/dev/shm") == [4 << 20, 0]


@case(13)
async def test_the_working_folder_has_a_quota(arena: Arena) -> None:
    assert await _fill(arena, "/task") == [16 << 20, 0]


_FLOOD = """
made = 0
try:
    while True:
        os.close(os.open(f"{folder}/{made}", os.O_CREAT | os.O_WRONLY))
        made += 1
except OSError as error:
    answers[folder] = [made, errno.errorcode[error.errno]]
"""


@case(11)
async def test_a_flood_of_empty_files_ends_at_the_inodes_of_tmp_and_shm(arena: Arena) -> None:
    source = "answers = {}\n" + "".join(
        f"folder = {folder!r}{_FLOOD}" for folder in ("/tmp", "/dev/shm")
    )
    seen = await arena.python(source + "tell(**answers)")
    for made, error in seen.told.values():
        assert 1000 <= made <= 1024
        assert error == "ENOSPC"


@case(12)
async def test_a_flood_of_empty_files_ends_at_the_inodes_of_the_working_folder(
    arena: Arena,
) -> None:
    source = f"answers = {{}}\nfolder = '/task'{_FLOOD}tell(**answers)"
    seen = await arena.python(source, limits=limits(scratch_inodes=2000))
    made, error = seen.told["/task"]
    assert 1990 <= made <= 2000
    assert error == "ENOSPC"


@case(58, cgroup="without one, nothing is killed for memory inside")
async def test_a_run_whose_init_is_killed_for_memory_is_over_as_a_whole(arena: Arena) -> None:
    """The hoard is of segments that nobody has mapped, and the init is the likeliest victim."""
    seen = await arena.python("""
LIBC.shmat.restype = ctypes.c_void_p
LIBC.shmat.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_int
LIBC.shmdt.argtypes = ctypes.c_void_p,
attempt(overwrite, "/proc/self/oom_score_adj", b"0")
while True:
    if os.fork() == 0:
        while True:
            number = LIBC.shmget(0, 1 << 20, 0o1600)
            address = LIBC.shmat(number, None, 0)
            ctypes.memset(address, 1, 1 << 20)
            LIBC.shmdt(address)
    os.wait()
""")
    assert seen.ended == OOM


@case(72, cgroup=_UNMAPPED)
async def test_page_tables_count_against_the_memory(arena: Arena) -> None:
    """Reading one byte of each 2 MiB takes no page, but a page of tables each."""
    seen = await arena.python("""
area = mmap.mmap(-1, 1 << 37, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, mmap.PROT_READ)
for offset in range(0, 1 << 37, 2 << 20):
    area[offset]
tell(kept=True)
""")
    assert seen.ended == OOM, seen


@case(73)
async def test_unlinked_files_keep_holding_the_quota_and_go_with_the_run(arena: Arena) -> None:
    seen = await arena.python("""
held = []
def hold():
    while True:
        held.append(os.open("/task/x", os.O_CREAT | os.O_RDWR))
        os.unlink("/task/x")
        os.write(held[-1], bytes(1 << 20))
tell(error=attempt(hold), bytes=sum(os.fstat(one).st_size for one in held))
""")
    assert seen.told["error"] == "ENOSPC"
    assert seen.told["bytes"] <= 16 << 20


@case(74, cgroup=_UNMAPPED)
async def test_what_lies_in_pipes_and_sockets_counts_or_is_refused(arena: Arena) -> None:
    seen = await arena.python(
        """
held, keep = 0, []
def fill(descriptor):
    global held
    os.set_blocking(descriptor, False)
    try:
        while True:
            held += os.write(descriptor, bytes(1 << 16))
    except BlockingIOError:
        pass
try:
    while len(keep) < 900:
        reader, writer = os.pipe()
        keep += [reader, writer]
        try:
            fcntl.fcntl(writer, 1031, 1 << 20)  # F_SETPIPE_SZ
        except PermissionError:
            pass
        fill(writer)
        one, two = socket.socketpair()
        keep += [one, two]
        fill(one.fileno())
except OSError:
    pass
tell(held=held)
""",
        limits=limits(open_files=1000),
    )
    assert seen.ended == OOM or seen.told["held"] <= _ALL


@case(75)
async def test_extended_attributes_cannot_hoard_past_the_quota(arena: Arena) -> None:
    seen = await arena.python(
        """
held = 0
try:
    for number in range(100_000):
        write(f"/task/{number % 100}")
        os.setxattr(f"/task/{number % 100}", f"user.x{number}", bytes(60_000))
        held += 60_000
except OSError as error:
    tell(held=held, error=errno.errorcode[error.errno])
""",
        limits=limits(scratch_inodes=1000),
    )
    assert seen.ended == OOM or seen.told["held"] <= 16 << 20


@case(76)
async def test_address_space_that_nobody_touches_takes_nothing(arena: Arena) -> None:
    seen = await arena.python("""
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
tell(noreserve=attempt(mmap.mmap, -1, 1 << 42, flags | 0x4000, mmap.PROT_READ | mmap.PROT_WRITE),
     huge=attempt(mmap.mmap, -1, 1 << 30, flags | 0x40000, mmap.PROT_READ | mmap.PROT_WRITE))
""")
    assert seen.result.reason is Reason.EXITED
    assert seen.told["huge"] != "OK"
    assert seen.result.usage.memory_peak_bytes <= _ALL


@case(77)
async def test_folders_nested_without_end_stop_at_the_inodes(arena: Arena) -> None:
    seen = await arena.python("""
depth = 0
os.chdir("/tmp")
def dig():
    global depth
    while True:
        os.mkdir("d" * 255)
        os.chdir("d" * 255)
        depth += 1
tell(error=attempt(dig), depth=depth)
""")
    assert seen.told["error"] == "ENOSPC"
    assert seen.told["depth"] <= 1024
