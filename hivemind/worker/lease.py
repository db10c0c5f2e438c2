"""How long this worker may go on without a word from the master."""

import math

import trio


class Lease:
    """Runs from the sending of the last message that the master answered.

    Counting from the answer's arrival would let this side believe longer than the other one does.
    """

    def __init__(self) -> None:
        self.length_s = math.inf
        self._begun_at = math.inf
        self._begun_anew = trio.Event()

    @property
    def expires_at(self) -> float:
        """By Trio's clock; infinite before the first welcome and after an expiry."""
        return self._begun_at + self.length_s

    def begin(self, length_s: float, sent_at: float) -> None:
        """A welcome came, in answer to a hello that was sent then."""
        self.length_s = length_s
        self._begun_at = sent_at
        begun, self._begun_anew = self._begun_anew, trio.Event()
        begun.set()

    def renew(self, sent_at: float) -> None:
        """An answer came to something that was sent then."""
        if self._begun_at < math.inf:
            self._begun_at = max(self._begun_at, sent_at)

    async def wait_expiry(self) -> None:
        """Return once the lease has run out; there is then none until the next welcome."""
        while trio.current_time() < self.expires_at:
            # A renewal only moves the end away, so it is enough to look again at the former end.
            with trio.move_on_at(self.expires_at):
                await self._begun_anew.wait()
        self._begun_at = math.inf
