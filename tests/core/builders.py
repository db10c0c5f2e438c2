"""Short ways to write down the tasks and nodes that the tests of core are about."""

from hivemind.core.fleet import Fleet, Reservation
from hivemind.core.placement import Placement
from hivemind.core.queue import TaskQueue
from hivemind.core.records import Capabilities, Capacity, Requirements, Task, TaskState

MIB = 1024 * 1024
GIB = 1024 * MIB


def wants(
    *,
    cpus: float = 1,
    memory_bytes: int = 512 * MIB,
    gpus: int = 0,
    gpu_memory_bytes: int = 0,
    gpu_name: str = "",
    location: str = "",
    only_account: str = "",
    least_trust: int = 0,
) -> Requirements:
    """A task's needs, without scratch space so that the sums stay easy to follow."""
    return Requirements(
        cpu_millis=int(cpus * 1000),
        memory_bytes=memory_bytes,
        scratch_bytes=0,
        gpus=gpus,
        gpu_memory_bytes=gpu_memory_bytes,
        gpu_name=gpu_name,
        location=location,
        only_account=only_account,
        least_trust=least_trust,
    )


def queued(
    task_id: str,
    account: str = "alice",
    *,
    priority: int = 0,
    submitted_at: float = 0.0,
    needs: Requirements | None = None,
) -> Task:
    return Task(
        id=task_id,
        account=account,
        state=TaskState.QUEUED,
        priority=priority,
        submitted_at=submitted_at,
        requirements=needs if needs is not None else wants(),
    )


def machine(
    *,
    slots: int = 4,
    cpus: float = 4,
    memory_bytes: int = 16 * GIB,
    gpus: int = 0,
    gpu_memory_bytes: int = 0,
    gpu_name: str = "",
    location: str = "",
    sandbox: str = "enabled",
) -> Capabilities:
    return Capabilities(
        capacity=Capacity(
            slots=slots,
            cpu_millis=int(cpus * 1000),
            memory_bytes=memory_bytes,
            gpus=gpus,
            gpu_memory_bytes=gpu_memory_bytes,
            gpu_name=gpu_name,
            location=location,
        ),
        hostname="host",
        version="1",
        limits="cgroup",
        sandbox=sandbox,
    )


def fleet_of(**nodes: Capabilities) -> Fleet:
    fleet = Fleet()
    for node_id, capabilities in nodes.items():
        fleet.join(node_id=node_id, account="owner", name=node_id, capabilities=capabilities)
    return fleet


def queue_of(*tasks: Task, claim_after_s: float = 60.0) -> TaskQueue:
    queue = TaskQueue(claim_after_s=claim_after_s)
    for task in tasks:
        queue.add(task, ready_at=0.0)
    return queue


def hold(
    fleet: Fleet,
    node_id: str,
    task_id: str = "held",
    *,
    account: str = "somebody",
    needs: Requirements | None = None,
) -> Reservation:
    """Reserve something of a node."""
    reservation = Reservation(
        task_id=task_id,
        attempt=1,
        account=account,
        node_id=node_id,
        requirements=needs if needs is not None else wants(),
    )
    fleet.reserve(reservation)
    return reservation


def carry_out(queue: TaskQueue, fleet: Fleet, placements: tuple[Placement, ...]) -> None:
    """What the reactor does with a plan: every reservation must find its room."""
    for placement in placements:
        waiting = queue.waiting(placement.task_id)
        queue.remove(placement.task_id)
        hold(
            fleet,
            placement.node_id,
            placement.task_id,
            account=waiting.account,
            needs=waiting.requirements,
        )
