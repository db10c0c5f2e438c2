"""The spawner's loop: one message in, one answer out, and a notice for each process that ended.

Messages are JSON objects, one per datagram of a SOCK_SEQPACKET socket, with descriptors beside
them. What is long (a run's description) comes in a memory file. The loop never waits for a task:
mounting and forking are all that it does itself.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
from typing import Any

from sandbox.spawner import cell, child, collect, house, linux, root, seccomp, spare
from sandbox.spawner.datagrams import receive

_MESSAGE_BYTES = 1 << 16
_MAX_DESCRIPTORS = 32


class Spawner:
    """Serves one pool until its socket closes."""

    def __init__(self, link: socket.socket, config: dict[str, Any], bwrap_path: str) -> None:
        self._link = link
        self._as_root: bool = config["as_root"]
        self._bwrap_path = bwrap_path
        self._package: str = config["package"]
        self._filters: dict[tuple[str, str], bytes] = {}
        self._spare = spare.open_spare() if self._as_root else None
        self._children: dict[int, tuple[int, int]] = {}  # pidfd: (pid, id)
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)

    def serve(self) -> None:
        """Answer messages and reap children until the pool closes its end."""
        # What every child is to begin with. This process, pid 1 of its namespace, they do not end.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        # What is here by now stays: a collection would write to all of it, page by page, and so
        # would one in a new process, which has better things to do.
        gc.freeze()
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            # The dead first: whoever asks for the slot of one has seen its end.
            for descriptor in ready - {self._link.fileno()}:
                self._reap(descriptor)
            if self._link.fileno() in ready and not self._answer_one():
                return

    def _answer_one(self) -> bool:
        try:
            data, descriptors = receive(self._link, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
        except ConnectionResetError:  # The pool was killed with answers of ours unread.
            return False
        if not data:
            return False
        message = json.loads(data)
        answer: dict[str, Any] = {"id": message["id"], "answer": message["op"]}
        pidfd = -1
        try:
            if message["op"] == "start":
                pidfd = self._start(message, descriptors)
            elif message["op"] == "start_cell":
                pidfd = self._start_cell(message, descriptors)
            elif message["op"] == "collect":
                pidfd = self._collect(message, descriptors)
            else:
                house.unmount_slot(message["slot"])
        except OSError as error:
            answer["error"] = str(error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._send(answer, pidfd)
        if self._spare is not None:
            with contextlib.suppress(OSError):  # then bubblewrap makes all namespaces
                self._spare.refill()
        return True

    def _send(self, answer: dict[str, Any], pidfd: int = -1) -> None:
        data = json.dumps(answer).encode()
        if pidfd >= 0:
            socket.send_fds(self._link, [data], [pidfd])
        else:
            self._link.send(data)

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> int:
        body, report, stdin, stdout, stderr, *cgroups = descriptors
        start = json.loads(os.pread(body, os.fstat(body).st_size, 0))
        uid, slot = message["uid"], message["slot"]
        house.mount_slot(slot, uid, _quotas(start), _view(start))
        into = cgroups.pop(0) if message["into_cgroup"] else None
        program = self._filter(start["seccomp"], "unix" if start["network"] == "none" else "inet")
        namespaces = self._spare.take() if self._spare and start["network"] != "full" else []
        descriptors += namespaces  # closed with the others
        place = child.Place(
            bwrap_path=self._bwrap_path,
            as_root=self._as_root,
            uid=uid,
            report=report,
            streams=(stdin, stdout, stderr),
            joins=cgroups,
            namespaces=namespaces,
        )
        top = house.slot_path(slot)
        options = child.memory_file("options", child.options(start, place, top))
        descriptors.append(options)
        filter_file = child.memory_file("filter", program)
        descriptors.append(filter_file)
        pid, pidfd = linux.clone(linux.CLONE_NEWPID, into)
        if pid == 0:
            gc.disable()
            child.become_sandbox(
                start, place, options=options, filter_program=filter_file, root=top
            )
        return self._watch(pid, pidfd, message["id"])

    def _start_cell(self, message: dict[str, Any], descriptors: list[int]) -> int:
        report, link, control, *cgroups = descriptors
        uid, slot = message["uid"], message["slot"]
        binds = tuple((os.path.realpath(source), place) for source, place in message["binds"])
        full = message["network"] == "full"
        cell.install_launcher(self._package)
        house.mount_slot(slot, uid, {}, root.View(binds=binds, host_network=full))
        cell.show_launcher(house.slot_path(slot))
        into = cgroups.pop(0) if message["into_cgroup"] else None
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        descriptors.append(null)
        pid, pidfd = linux.clone(linux.CLONE_NEWPID, into)
        if pid == 0:
            place = child.Place(
                bwrap_path=self._bwrap_path,
                as_root=self._as_root,
                uid=uid,
                report=report,
                streams=(null, null, null),
                joins=cgroups,
                namespaces=[],
            )
            cell.become_cell(message, place, root=house.slot_path(slot), links=[link, control])
        return self._watch(pid, pidfd, message["id"])

    def _filter(self, mode: seccomp.Mode, families: seccomp.Families) -> bytes:
        """The filter of one kind, assembled once."""
        program = self._filters.get((mode, families))
        if program is None:
            program = seccomp.build_filter(os.uname().machine, mode=mode, families=families)
            self._filters[mode, families] = program
        return program

    def _collect(self, message: dict[str, Any], descriptors: list[int]) -> int:
        report, destination, *kept = descriptors
        # What ran in a cell left its folder behind as a descriptor, what ran alone as a mount.
        folder = f"/proc/self/fd/{kept[0]}" if kept else house.task_path(message["slot"])
        pid, pidfd = linux.clone(0)
        if pid == 0:
            collect.collect_and_exit(
                folder,
                message["folder"],
                message["outputs"],
                destination,
                report,
                message["max_bytes"],
                message["max_files"],
            )
        return self._watch(pid, pidfd, message["id"])

    def _watch(self, pid: int, pidfd: int, number: int) -> int:
        self._children[pidfd] = (pid, number)
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        pid, number = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(pid, 0)
        self._send(
            {
                "id": number,
                "answer": "ended",
                "status": status,
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "memory_peak_bytes": usage.ru_maxrss * 1024,
            }
        )


def _quotas(start: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (size_bytes, inodes) for name, size_bytes, inodes in start["quotas"]}


def _view(start: dict[str, Any]) -> root.View:
    return root.View(
        root=None if start["root"] is None else os.path.realpath(start["root"]),
        binds=tuple((os.path.realpath(source), place) for source, place in start["binds"]),
        devices=tuple(start["devices"]),
        host_network=start["network"] == "full",
    )
