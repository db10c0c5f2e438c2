"""The GPUs of one attempt, and how much of their memory it uses."""

import attrs

from hivemind.core.sizes import show_size
from hivemind.worker.gpus import GpuDevice, Gpus
from sandbox.gpu import GpuGrant


@attrs.define(eq=False, kw_only=True)
class GpuShare:
    """What an attempt has of the GPUs, from before its start to after its end.

    A GPU is given whole, so that what is in use on it beyond what was in use before is the
    attempt's own. That is looked up from time to time: what comes and goes between two looks is
    not seen.
    """

    gpus: Gpus
    devices: tuple[GpuDevice, ...]
    limit_bytes: int
    """The most that all of them together may hold; 0 for all that there is."""
    peak_bytes: int = attrs.field(default=0, init=False)
    _before_bytes: int | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._before_bytes = self.gpus.used_bytes(self.devices)

    def grant(self, *, sees_usr: bool) -> GpuGrant:
        """What the sandbox needs; see ``Gpus.grant``. Raises sandbox.Unavailable."""
        return self.gpus.grant(self.devices, sees_usr=sees_usr)

    def look(self) -> None:
        """Note what is in use now. A driver that does not tell is asked again the next time."""
        used = self.gpus.used_bytes(self.devices)
        if used is None:
            return
        if self._before_bytes is None:
            self._before_bytes = used
        self.peak_bytes = max(self.peak_bytes, used - self._before_bytes)

    @property
    def is_over(self) -> bool:
        """Whether more was used than the task asked for."""
        return 0 < self.limit_bytes < self.peak_bytes

    @property
    def why(self) -> str:
        """What is said of an attempt that is ended because it is over."""
        return (
            f"GPU memory limit of {show_size(self.limit_bytes)} reached, with "
            f"{show_size(self.peak_bytes)} in use; ask for more GPU memory"
        )
