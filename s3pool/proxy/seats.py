"""Places for requests, at nodes or with bodies on their way: how many there are, and who gets the next one."""

from __future__ import annotations

import threading
import time

from s3pool.proxy.denial import slow_down

MIXED_S = 60.0  # so long after another owner came a single one may not have more than half
SPARE_SHARE = 4  # a part of the places is left for who comes next, even by one that is alone


class Seats:
    """A bound on requests of one kind. Nobody has more than half of it while others are there.

    An owner is an access key, or an address where there is none. One that is alone may have
    more, but for a quarter that is kept for others: their first requests find it free.
    """

    def __init__(
        self,
        size: int,
        *,
        kind: str = "slots",
        detail: str = "all connections to the storage are in use.",
        closes: bool = False,
    ) -> None:
        self.size = max(size, 1)
        self._kind, self._detail, self._closes = kind, detail, closes
        self._half = max(self.size // 2, 1)
        self._most = max(self.size - self.size // SPARE_SHARE, 1)
        # Guards all below; held for a few additions.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held: dict[str, int] = {}
        self._taken = 0
        self._waiting = 0
        self._last_owner = ""
        self._mixed_at = -MIXED_S

    @property
    def taken(self) -> int:
        """Return the number of places that are taken."""
        return self._taken

    def take_now(self, owner: str) -> bool:
        """Take a place if there is one for this owner."""
        with self._lock:
            return self._take(owner)

    def take(self, owner: str, patience_s: float) -> bool:
        """Take a place, or wait for one; False when there is none in time."""
        with self._changed:
            if self._take(owner):
                return True
            until = time.monotonic() + patience_s
            self._waiting += 1
            try:
                while (left_s := until - time.monotonic()) > 0:
                    self._changed.wait(left_s)
                    if self._take(owner):
                        return True
            finally:
                self._waiting -= 1
        return False

    def claim(self, owner: str, patience_s: float = 0.0) -> str:
        """Take a place as take() does, and return the owner.

        Raises:
            Denial: there is none in time.
        """
        if not self.take(owner, patience_s):
            denial = slow_down(f"Please reduce your request rate: {self._detail}", closes=self._closes)
            denial.limited = ("", self._kind)
            raise denial
        return owner

    def _take(self, owner: str) -> bool:
        held = self._held.get(owner, 0)
        if owner != self._last_owner:
            if self._last_owner:
                self._mixed_at = time.monotonic()
            self._last_owner = owner
        if self._taken >= self.size:
            return False
        if held >= self._half and (self._taken >= self._most or time.monotonic() - self._mixed_at < MIXED_S):
            return False
        self._held[owner] = held + 1
        self._taken += 1
        return True

    def give_back(self, owner: str) -> None:
        """Give a place back."""
        with self._lock:
            self._taken -= 1
            held = self._held[owner] - 1
            if held:
                self._held[owner] = held
            else:
                del self._held[owner]
            if self._waiting:
                self._changed.notify_all()
