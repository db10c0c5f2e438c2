"""Which cell a run gets: one of its tenant's, a parked one, a new one, or none."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import trio

from sandbox.cell import Cell, CellKind, CellRules
from sandbox.cell_cgroup import CellCgroup
from sandbox.errors import SetupFailed
from sandbox.link import SpawnerLink

_REFUSED_FOR_S = 30.0
_LOOK_EVERY_S = 1.0
_END_S = 30.0


class Cells:
    """The cells of one pool.

    A cell that was given to a tenant is never given to another: it ends with its tenant's last run,
    when it is old, or when its place is wanted.
    """

    def __init__(
        self,
        rules: CellRules,
        *,
        places: list[int],
        uids: list[int],
        spawner: SpawnerLink,
        nursery: trio.Nursery,
        new_cgroup: Callable[[], CellCgroup] | None,
    ) -> None:
        self._rules = rules
        self._free = list(reversed(places))
        self._uids = uids
        self._spawner = spawner
        self._nursery = nursery
        self._new_cgroup = new_cgroup
        self._idle: list[Cell] = []
        self._refused: dict[CellKind, float] = {}
        self._parked_kind: CellKind | None = None
        self._parking = trio.Event()
        self._alive = 0
        self.closing = False

    async def take(
        self, kind: CellKind, tenant: str, *, warm: bool, reuse: bool = True
    ) -> Cell | None:
        """A cell for one run, which is its tenant's from now on; None where none can be had.

        Without `reuse` it is one that was made ahead, and it ends with this run.

        To be given back with `give_back`.
        """
        if self.closing or self._is_refused(kind):
            return None
        cell = self._take_idle(kind, tenant) if reuse else None
        cell = cell or self._take_idle(kind, None)
        if cell is None and reuse:
            cell = await self._make(kind, warm=warm)
        if cell is None:
            return None
        if cell.tenant is None:
            cell.tenant = tenant
            self._wake_parking()
        cell.runs += 1
        cell.is_last_run = not reuse
        if warm and cell.warm is None:
            came = False
            try:
                with contextlib.suppress(SetupFailed):
                    await cell.open_warm()
                    came = True
            finally:
                if not came:
                    cell.kill()
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + _END_S):
                        await self.give_back(cell)
            if not came:
                return None
        return cell

    def note_failed_start(self, cell: Cell) -> None:
        """A run could not begin in it. If it was its first, others of its kind would do no better.

        So it is where cells can be opened here, but what a run needs beyond that is refused.
        """
        if cell.runs == 1:
            self._refuse(cell.kind)

    def give_back_nowait(self, cell: Cell) -> bool:
        """Keep the cell for its tenant, where it may be kept; say whether it is."""
        age_s = trio.current_time() - cell.made_at_s
        spent = cell.runs >= self._rules.max_runs or age_s >= self._rules.max_age_s
        if cell.is_odd or cell.is_last_run or spent or self.closing:
            return False
        cell.idle_since_s = trio.current_time()
        self._idle.append(cell)
        return True

    async def give_back(self, cell: Cell) -> None:
        """Keep the cell for its tenant, or end it where it is old or something about it is odd.

        Raises:
            SetupFailed: it could not be ended; its place is not used again.
        """
        if not self.give_back_nowait(cell):
            await self._end(cell)

    async def run(self) -> None:
        """Keep cells parked, and end those that are old or unused, until cancelled."""
        while not self.closing:
            self._parking = trio.Event()
            await self._end_old()
            await self._park()
            with trio.move_on_after(_LOOK_EVERY_S if self._alive else math.inf):
                await self._parking.wait()

    async def close(self) -> None:
        """End every cell that no run holds."""
        self.closing = True
        self._wake_parking()
        while self._idle:
            with contextlib.suppress(SetupFailed):
                await self._end(self._idle.pop())

    def use_rules(self, rules: CellRules) -> None:
        """Go by these rules from now on; cells that break them end after their run, or at once."""
        self._rules = rules
        self._wake_parking()

    def park(self, kind: CellKind) -> None:
        """Keep cells of this kind ready, from now on."""
        self._parked_kind = kind
        self._wake_parking()

    def count_parked(self) -> int:
        """How many cells are ready for whoever comes first."""
        return sum(cell.tenant is None for cell in self._idle)

    # Which.

    def _take_idle(self, kind: CellKind, tenant: str | None) -> Cell | None:
        for cell in reversed(self._idle):
            if cell.tenant == tenant and cell.kind == kind and not cell.is_odd:
                self._idle.remove(cell)
                return cell
        return None

    def _refuse(self, kind: CellKind) -> None:
        """Not tried again at once: the same will be missing. Runs go without meanwhile."""
        self._refused[kind] = trio.current_time() + _REFUSED_FOR_S

    def _is_refused(self, kind: CellKind) -> bool:
        until_s = self._refused.get(kind, 0.0)
        return trio.current_time() < until_s

    async def _make(self, kind: CellKind, *, warm: bool) -> Cell | None:
        if not self._free and self._idle:
            # The one that was used longest ago, whose tenant will miss it least.
            with contextlib.suppress(SetupFailed):
                await self._end(self._idle.pop(0))
        if not self._free:
            return None
        place = self._free.pop()
        cell = Cell(
            kind,
            slot=place,
            uid=self._uids[place],
            spawner=self._spawner,
            nursery=self._nursery,
            cgroup=None if self._new_cgroup is None else self._new_cgroup(),
        )
        self._alive += 1
        self._wake_parking()
        try:
            await cell.open(warm=warm)
        except SetupFailed:
            self._refuse(kind)
            self._give_up(cell)
            return None
        except BaseException:
            self._give_up(cell)
            raise
        return cell

    async def _end(self, cell: Cell) -> None:
        try:
            await cell.close()
        finally:
            self._give_up(cell)

    def _give_up(self, cell: Cell) -> None:
        """It is over. A place that could not be cleaned up is lost."""
        self._alive -= 1
        if cell.is_cleaned_up:
            self._free.append(cell.slot)

    # Ahead and afterwards.

    def _wake_parking(self) -> None:
        self._parking.set()

    async def _park(self) -> None:
        kind = self._parked_kind
        while (
            kind is not None
            and not self.closing
            and self._free
            and self.count_parked() < self._rules.parked
            and not self._is_refused(kind)
        ):
            cell = await self._make(kind, warm=True)
            if cell is None:
                return
            await self._keep_parked(cell)

    async def _keep_parked(self, cell: Cell) -> None:
        if self.closing:
            with contextlib.suppress(SetupFailed):
                await self._end(cell)
        else:
            self._idle.insert(0, cell)

    async def _end_old(self) -> None:
        now = trio.current_time()
        for cell in list(self._idle):
            if cell not in self._idle:
                continue  # taken by a run while another was ended
            unused_s = now - cell.idle_since_s if cell.tenant is not None else 0.0
            old = now - cell.made_at_s >= self._rules.max_age_s
            if cell.is_odd or old or unused_s >= self._rules.idle_s:
                self._idle.remove(cell)
                with contextlib.suppress(SetupFailed):
                    await self._end(cell)
