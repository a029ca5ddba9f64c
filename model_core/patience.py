"""How long a pull may be silent or stand still, and what follows a failed attempt. Numbers only, no clock.

| what is seen                                   | how long      | then                                      |
|------------------------------------------------|---------------|-------------------------------------------|
| `completed` does not move while lines repeat   | 30 s          | close, try again                          |
| no line at all, asking the registry            | 60 s          | close, try again                          |
| no line at all, downloading                    | 30 s          | close, try again                          |
| no line at all, checking or writing            | 30 min        | close, try again                          |
| an attempt failed, and it can heal             | 1, 2, 4 … 60 s| try again, until 10 in a row brought nothing|
| an attempt failed, and it cannot heal          |               | the end                                   |
"""

from __future__ import annotations

from model_core import pull_progress

# Ollama's own patience with a silent part is 30 s (server/download.go); it asks a registry without any limit.
STALLED_S = 30.0
SILENCE_S = {
    pull_progress.ASKING: 60.0,
    pull_progress.DOWNLOADING: 30.0,
    # Ollama hashes in silence: 40 GB from a slow disk (50 MB/s) take 13 minutes.
    pull_progress.CHECKING: 1800.0,
    pull_progress.WRITING: 1800.0,
}
DEFAULT_SILENCE_S = 60.0

FRUITLESS_ATTEMPTS = 10
LONGEST_PAUSE_S = 60.0
DIGEST_MISMATCHES = 2  # Ollama throws the damaged layer away: a second one says that it is not chance


def silence_allowed_s(phase: str) -> float:
    """Return how long no line at all may come in this phase."""
    return SILENCE_S.get(phase, DEFAULT_SILENCE_S)


def pause_s(*, heals: bool, fruitless: int, mismatches: int, jitter: float) -> float | None:
    """Return how long to wait before the next attempt, None when there should be none.

    heals       may the same pull succeed some time later, without anybody's help?
    fruitless   attempts in a row that brought no new byte, this one included; starts at 1
    mismatches  how often data came that were not what the registry announced
    jitter      0 ≤ jitter < 1, so that many installations do not come back in the same second

    >>> [pause_s(heals=True, fruitless=n, mismatches=0, jitter=0.0) for n in (1, 2, 3, 9, 10)]
    [1.0, 2.0, 4.0, 60.0, None]
    >>> pause_s(heals=False, fruitless=1, mismatches=0, jitter=0.0) is None
    True
    """
    if not heals or fruitless >= FRUITLESS_ATTEMPTS or mismatches >= DIGEST_MISMATCHES:
        return None
    return min(LONGEST_PAUSE_S, 2.0 ** (fruitless - 1)) * (1 + jitter / 4)
