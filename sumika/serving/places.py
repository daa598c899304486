"""Places that slow clients hold: so many at once in all, and so many of one owner, so that nobody takes all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Full(Exception):
    """No place is left. `own`: whoever asks holds as many as one may."""

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        self.own = own


class Places:
    """At most `each` of one owner. Of all owners `most`; then whoever holds none still gets one, up to twice as many."""

    def __init__(self, most: int, each: int) -> None:
        self._most = most
        self._each = each
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """Raises Full."""
        mine = self._held[owner]
        if mine >= self._each:
            raise Full(own=True)
        if self._held.total() >= (self._most if mine else 2 * self._most):
            raise Full(own=False)
        self._held[owner] += 1
        try:
            yield
        finally:
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]
