"""Tickets: what a browser shows in place of the token where it cannot send one, for EventSource and WebSocket."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

TICKET_S = 60  # from asking for it to using it; a page uses it in the same breath
# Whoever has the token can ask for any number. Beyond these the oldest is worth nothing any more.
MOST_TICKETS = 1000


class Tickets:
    """Gives out words that are good for one use within TICKET_S. May be used from many threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._given: deque[tuple[bytes, float]] = deque(maxlen=MOST_TICKETS)

    def issue(self) -> str:
        """Return a new ticket."""
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            self._given.append((ticket.encode(), self._monotonic()))
        return ticket

    def redeem(self, ticket: str) -> bool:
        """Say whether a ticket is good; from now on it is not."""
        shown = ticket.encode("utf-8", "surrogatepass")
        with self._lock:
            oldest_s = self._monotonic() - TICKET_S
            while self._given and self._given[0][1] <= oldest_s:
                self._given.popleft()
            # All are compared, each in the same time, so that the time tells nothing of how near a guess was.
            found = [given for given in self._given if hmac.compare_digest(given[0], shown)]
            for given in found:
                self._given.remove(given)
        return bool(found)
