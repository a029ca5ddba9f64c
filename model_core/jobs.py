"""What every kind of job in the background has in common: its states, what leads where, and what may be wished of it.

A job is queued, is worked on by an owner, and ends. When its owner dies it was interrupted, and somebody else may go on
with it. downloads.py and benchmarks.py say what states each kind has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from model_core.errors import InvalidTransition
from model_core.records import Job

J = TypeVar("J", bound=Job)
S = TypeVar("S", bound=str)


@dataclass(frozen=True)
class JobKind(Generic[J, S]):
    """The states of one kind of job.

    noun         what one is called, in sentences and in answers: "download"
    next         what leads where
    owned        has an owner while it lasts; without one it was interrupted
    ended        nothing more will happen by itself
    wishes       what may be wished, by state
    goals        where a wish to the owner leads
    left_behind  (job, state) → what to tell of a job that somebody stopped, None: nothing
    orphaned     what to tell of one whose owner has gone
    still        the figures that say how it moves, as they are while it does not
    """

    noun: str
    next: Mapping[S, frozenset[S]]
    owned: frozenset[S]
    ended: frozenset[S]
    wishes: Mapping[S, tuple[str, ...]]
    goals: Mapping[str, S]
    queued: S
    interrupted: S
    failed: S
    orphaned: str
    left_behind: Callable[[J, S], str | None] = lambda job, state: None
    still: Mapping[str, Any] = field(default_factory=dict)

    def moved(self, job: J, state: S, at: str, **changes: Any) -> J:
        """Return the job in another state. Raises InvalidTransition where nothing leads there."""
        if state not in self._next(job):
            raise self.refusal(job, f"become {state}", sorted(self._next(job)))
        finished = at if state in self.ended else None
        known = {"state": state, "updated_at": at, "finished_at": finished, "version": job.version + 1}
        return job.model_copy(update={**known, **self.still, **changes})

    def leads_to(self, job: J, state: S | None) -> bool:
        """Say whether the job can go over into this state."""
        return state in self._next(job)

    def _next(self, job: J) -> frozenset[S]:
        return self.next[job.state]  # type: ignore[index]  # a job of this kind has states of this kind

    def check_wish(self, job: J, wish: str) -> None:
        """Raise InvalidTransition where a job in this state cannot do what is wished."""
        if wish not in self.allowed(job):
            raise self.refusal(job, wish, self.allowed(job))

    def allowed(self, job: J) -> tuple[str, ...]:
        """Return what may be wished of a job in this state."""
        return self.wishes[job.state]  # type: ignore[index]

    def refusal(self, job: J, wish: str, allowed: Iterable[str]) -> InvalidTransition:
        """Return the error that says that this cannot be, and what can."""
        return InvalidTransition(job.id, wish, job.state, tuple(allowed), kind=self.noun)

    def orphan(self, job: J, why: str | None = None) -> J:
        """Return a job as it is shown whose owner has gone: interrupted, though nobody has written that down.

        why  the owner let go of it; None: it is not known
        """
        return job.model_copy(update={"state": self.interrupted, **self.still, "message": why or self.orphaned})

    def without(self, jobs: Mapping[str, J], job_id: str) -> dict[str, J]:
        """Return the jobs without one that has ended. Raises InvalidTransition for one that has not."""
        if job_id in jobs:
            self.check_wish(jobs[job_id], "forget")
        return {key: job for key, job in jobs.items() if key != job_id}

    def pruned(self, jobs: Mapping[str, J], most: int) -> dict[str, J]:
        """Return the jobs without the oldest of those that have ended, where there are more of these than `most`."""
        ended = sorted((job.finished_at or "", key) for key, job in jobs.items() if job.state in self.ended)
        gone = {key for _, key in ended[: max(0, len(ended) - most)]}
        return {key: job for key, job in jobs.items() if key not in gone}

    def queued_before(self, jobs: Iterable[J], job: J) -> list[J]:
        """Return those that were asked for earlier and still wait.

        jobs  in the order in which they were asked for
        """
        earlier = []
        for other in jobs:
            if other.id == job.id:
                break
            if other.state == self.queued:
                earlier.append(other)
        return earlier
