"""The yardstick: bare `posix_spawn`, its output read to the end, so many at a time."""

import os
import select
import statistics
import time

TRUE = ("/bin/true",)
HELLO = ("/usr/bin/python3", "-c", "print('hello')")


def rate_per_s(argv: tuple[str, ...], runs: int, at_once: int) -> float:
    """Runs a second in a closed loop."""
    begun = time.perf_counter()
    readers: dict[int, int] = {}
    poll = select.poll()
    started = ended = 0
    while ended < runs:
        while len(readers) < at_once and started < runs:
            pid, reader = _spawn(argv)
            readers[reader] = pid
            poll.register(reader, select.POLLIN)
            started += 1
        for reader, _ in poll.poll():
            if not os.read(reader, 4096):
                poll.unregister(reader)
                os.close(reader)
                os.waitpid(readers.pop(reader), 0)
                ended += 1
    return runs / (time.perf_counter() - begun)


def one_s(argv: tuple[str, ...], runs: int) -> float:
    """The median time of one alone, from its spawn to its end."""
    return statistics.median(_one_s(argv)[1] for _ in range(runs))


def first_output_s(argv: tuple[str, ...], runs: int) -> float:
    """The median time from its spawn to its first byte of output."""
    return statistics.median(_one_s(argv)[0] for _ in range(runs))


def _one_s(argv: tuple[str, ...]) -> tuple[float, float]:
    begun = time.perf_counter()
    pid, reader = _spawn(argv)
    os.read(reader, 4096)
    first_s = time.perf_counter() - begun
    while os.read(reader, 4096):
        pass
    os.close(reader)
    os.waitpid(pid, 0)
    return first_s, time.perf_counter() - begun


def _spawn(argv: tuple[str, ...]) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.posix_spawn(argv[0], argv, {}, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
    os.close(writer)
    return pid, reader
