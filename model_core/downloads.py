"""The states of a download, and what leads from one to another.

    queued ──► downloading ──► verifying ──► completed
      │  ▲        │  ▲  │          │
      │  │        ▼  │  └────┬─────┘
      │  │      paused       ▼
      │  │        │        failed ─────────────┐
      ▼  │        ▼                            │
    cancelled ◄───┘   (queued, downloading and paused can be cancelled)
         │                                     │
         └──── resume ──► queued ◄── resume ───┴── interrupted ◄── whatever ran, when its owner died

A failed, cancelled or interrupted download goes on from where Ollama stood: Ollama keeps what it has fetched.

Not in the drawing, because it seldom happens: verifying → downloading, when what came is damaged or Ollama went away;
paused → queued, when others have taken the slots meanwhile; queued → failed, where not even waiting is possible;
interrupted → cancelled, when nobody wants it any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from model_core import names, pull_progress
from model_core.errors import DownloadFailed, ModelManagerError, from_facts
from model_core.jobs import JobKind
from model_core.pull_progress import Progress
from model_core.records import DownloadJob, DownloadState

_S = DownloadState

NEXT: Mapping[DownloadState, frozenset[DownloadState]] = {
    _S.QUEUED: frozenset({_S.DOWNLOADING, _S.CANCELLED, _S.INTERRUPTED, _S.FAILED}),
    _S.DOWNLOADING: frozenset({_S.VERIFYING, _S.PAUSED, _S.CANCELLED, _S.FAILED, _S.INTERRUPTED}),
    _S.VERIFYING: frozenset({_S.COMPLETED, _S.DOWNLOADING, _S.FAILED, _S.INTERRUPTED}),
    _S.PAUSED: frozenset({_S.DOWNLOADING, _S.QUEUED, _S.CANCELLED}),
    _S.INTERRUPTED: frozenset({_S.QUEUED, _S.DOWNLOADING, _S.CANCELLED}),
    _S.FAILED: frozenset({_S.QUEUED}),
    _S.CANCELLED: frozenset({_S.QUEUED}),
    _S.COMPLETED: frozenset(),
}

# What has an owner while it lasts; without one it was interrupted.
OWNED = frozenset({_S.QUEUED, _S.DOWNLOADING, _S.VERIFYING})
ENDED = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})
# What a second request for the same model joins instead of starting anew.
OPEN = frozenset(_S) - ENDED

# What may be wished of a download, by its state.
WISHES: Mapping[DownloadState, tuple[str, ...]] = {
    _S.QUEUED: ("cancel", "move"),
    _S.DOWNLOADING: ("pause", "cancel"),
    # A matter of minutes, and at its end the model is there: nothing that is worth leaving it for.
    _S.VERIFYING: (),
    _S.PAUSED: ("resume", "cancel"),
    _S.INTERRUPTED: ("resume", "cancel"),
    _S.FAILED: ("resume", "forget"),
    _S.CANCELLED: ("resume", "forget"),
    _S.COMPLETED: ("forget",),
}
# Where a wish leads.
GOALS: Mapping[str, DownloadState] = {"pause": _S.PAUSED, "cancel": _S.CANCELLED}

# How many ended downloads stay in the document: enough to look back, few enough to stay small.
ENDED_KEPT = 20


def left_behind(job: DownloadJob, state: DownloadState) -> str | None:
    """Return what to tell of a download that somebody stopped: what stays, and how to go on."""
    if state is _S.PAUSED:
        return "Paused. Resume goes on from there."
    if state is not _S.CANCELLED:
        return None
    kept = f"{job.downloaded_bytes / 1e6:,.0f} MB" if job.downloaded_bytes else "What was fetched"
    return (
        f"Cancelled. {kept} may stay on Ollama's disk until Ollama is started again more than an hour later; "
        "resume goes on from there."
    )


KIND: JobKind[DownloadJob, DownloadState] = JobKind(
    noun="download",
    next=NEXT,
    owned=OWNED,
    ended=ENDED,
    wishes=WISHES,
    goals=GOALS,
    queued=_S.QUEUED,
    interrupted=_S.INTERRUPTED,
    failed=_S.FAILED,
    orphaned="the program that was downloading has ended; resume goes on from there",
    left_behind=left_behind,
    # What has just changed its state has no speed yet.
    still={"bytes_per_second": None, "eta_seconds": None},
)
moved, check_wish, without = KIND.moved, KIND.check_wish, KIND.without


def reordered(jobs: Mapping[str, DownloadJob], job_id: str, position: int) -> dict[str, DownloadJob]:
    """Return the jobs with a queued one at another place among those that are queued.

    position  0 is next; beyond the end means last

    Raises InvalidTransition for a job that is not queued.
    """
    job = jobs[job_id]
    check_wish(job, "move")
    queued = [other.id for other in jobs.values() if other.state is _S.QUEUED and other.id != job_id]
    queued.insert(position, job_id)
    places = iter(queued)
    return {key: jobs[key] for key in (next(places) if jobs[k].state is _S.QUEUED else k for k in jobs)}


def shown(job: DownloadJob, progress: Progress, at: str, **changes: Any) -> DownloadJob:
    """Return the job with the figures of its progress."""
    rate, eta = pull_progress.bytes_per_second(progress), pull_progress.eta_seconds(progress)
    return job.model_copy(
        update={
            "phase": progress.phase,
            "total_bytes": progress.total_bytes,
            "total_is_estimate": progress.is_estimate,
            "downloaded_bytes": progress.reached_bytes,
            "percent": None if progress.percent is None else round(progress.percent, 1),
            "bytes_per_second": None if rate is None else round(rate),
            "eta_seconds": None if eta is None else round(eta, 1),
            "message": _message(progress),
            "layers": (*progress.layers, *progress.earlier),
            "updated_at": at,
            "version": job.version + 1,
            **changes,
        }
    )


def _message(progress: Progress) -> str | None:
    again_mb = round(progress.fetching_again_bytes / 1e6)
    return f"fetching again {again_mb:,} MB" if again_mb else None


def same_download(
    jobs: Iterable[DownloadJob], model: str, tag: str, done_since: str | None = None
) -> DownloadJob | None:
    """Return the open download of this model and tag, or one that has brought it since a moment; None: there is none.

    done_since  when somebody looked whether the model is there, and did not find it yet
    """
    for job in jobs:
        is_new = done_since is not None and job.state is _S.COMPLETED and (job.finished_at or "") >= done_since
        if (is_new or job.state in OPEN) and names.same(job.model, model) and names.same(job.tag, tag):
            return job
    return None


def ahead_of(jobs: Collection[DownloadJob], job: DownloadJob) -> list[DownloadJob]:
    """Return what this one waits for: what was asked for earlier and still waits, and what fetches the same tag.

    Two pulls of one tag at a time can bring Ollama down, also where they are for two names.
    """
    pulling = [other for other in jobs if other.id != job.id and other.state in OWNED and other.state is not _S.QUEUED]
    return KIND.queued_before(jobs, job) + [other for other in pulling if names.same(other.tag, job.tag)]


def failure_of(job: DownloadJob) -> ModelManagerError | None:
    """Return the error that an ended job stands for, None if it brought the model."""
    if job.state is _S.COMPLETED:
        return None
    if job.error:
        return from_facts(job.error)
    return DownloadFailed(
        job.model,
        f"The download of {job.model} is {job.state}.",
        "Download it again: it goes on from where it was.",
        reason=job.state,
    )


def in_the_way(jobs: Iterable[DownloadJob], model: str) -> DownloadJob | None:
    """Return a download of this model that has an owner, whatever its tag."""
    return next((job for job in jobs if job.state in OWNED and names.same(job.model, model)), None)


def pruned(jobs: Mapping[str, DownloadJob]) -> dict[str, DownloadJob]:
    """Return the jobs without the ended ones that are too old to keep."""
    return KIND.pruned(jobs, ENDED_KEPT)
