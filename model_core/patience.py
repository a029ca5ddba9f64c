"""How long a pull may be silent or stand still, and what follows a failed attempt. Numbers only, no clock.

| what is seen                                   | how long      | then                                      |
|------------------------------------------------|---------------|-------------------------------------------|
| `completed` does not move while lines repeat   | 30 s          | close, try again                          |
| no line at all, downloading                    | 30 s          | close, try again                          |
| no line at all, asking the registry            | 60 s          | close, try again                          |
| no line at all, checking or writing            | 30 min        | close, try again                          |
| an attempt failed, and it can heal             | 1, 2, 4 … 60 s| try again, until 10 in a row brought nothing|
| an attempt failed, and it cannot heal          |               | the end                                   |
"""

from __future__ import annotations

from dataclasses import dataclass

from model_core import pull_progress
from model_core.errors import ModelManagerError, OllamaError, PullFailed

DIGEST_MISMATCHES = 2  # Ollama throws the damaged layer away: a second one says that it is not chance


@dataclass(frozen=True)
class Patience:
    """The table above; times in seconds.

    stalled_s          nothing new while downloading; Ollama's own patience with a silent part (server/download.go)
    asking_s           Ollama asks a registry without any limit of its own
    checking_s         Ollama hashes in silence: 40 GB from a slow disk (50 MB/s) take 13 minutes
    first_pause_s      after the first failed attempt; each further one that brings nothing doubles it
    fruitless_attempts so many in a row that brought no new byte are the end
    """

    stalled_s: float = 30.0
    asking_s: float = 60.0
    checking_s: float = 1800.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    fruitless_attempts: int = 10

    def silence_allowed_s(self, phase: str) -> float:
        """Return how long no line at all may come in this phase."""
        if phase == pull_progress.DOWNLOADING:
            return self.stalled_s
        return self.checking_s if phase in (pull_progress.CHECKING, pull_progress.WRITING) else self.asking_s

    def pause_s(self, *, heals: bool, fruitless: int, mismatches: int, jitter: float) -> float | None:
        """Return how long to wait before the next attempt, None when there should be none.

        heals       may the same pull succeed some time later, without anybody's help?
        fruitless   attempts in a row that brought no new byte, this one included; starts at 1
        mismatches  how often data came that were not what the registry announced
        jitter      0 ≤ jitter < 1; up to a quarter more, so that many installations do not come back in the same second

        >>> [Patience().pause_s(heals=True, fruitless=n, mismatches=0, jitter=0.0) for n in (1, 2, 3, 9, 10)]
        [1.0, 2.0, 4.0, 60.0, None]
        >>> Patience().pause_s(heals=False, fruitless=1, mismatches=0, jitter=0.0) is None
        True
        """
        if not heals or fruitless >= self.fruitless_attempts or mismatches >= DIGEST_MISMATCHES:
            return None
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** (fruitless - 1)) * (1 + jitter / 4)


def heals(error: ModelManagerError) -> bool:
    """Say whether the same attempt may succeed some time later, without anybody's help.

    A pull that failed says so itself. Ollama may be starting again, be busy, or stand behind a proxy that has lost it
    for a moment; what it refuses, it will refuse again.
    """
    if isinstance(error, PullFailed):
        return bool(error.facts["heals_by_retrying"])
    # None: nobody answered, or the connection broke. A 500 is Ollama's own refusal; the others are its queue and what
    # stands before it.
    return isinstance(error, OllamaError) and error.facts.get("upstream_status") in (None, 502, 503, 504)
