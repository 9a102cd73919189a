"""One worker thread that answers waiting requests in batches: as many of a kind at once as have come."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any

_UNKNOWN_S = 5  # to come back after, until a first batch has told how long one takes
_LINGER_S = 0.002  # a burst's requests come one by one; silence of this length ends the wait for more


class Busy(Exception):
    """The queue is full.

    Attributes:
        retry_after_s: whole seconds after which what waits now will have been answered.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"busy; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, eq=False)
class Job:
    """Work that waits.

    Attributes:
        kind: jobs of one kind are answered together, by the `answer` that came with the first.
        answer: turns the jobs' values, all at once, into one result each.
        value: what is asked.
        size: how much of a batch and of the queue it fills.
        counted: how large it is where batches are observed.
        result: filled in by the worker.
    """

    kind: Hashable
    answer: Callable[[list[Any]], Sequence[Any]]
    value: Any
    size: int
    counted: int
    result: Future[Any] = field(default_factory=Future)


class Batcher:
    """A bounded queue and the thread that empties it.

    Args:
        max_batch: size of a batch; a larger job is a batch of its own.
        max_waiting: size of all jobs that wait; beyond it `submit` refuses.
        observe: called with the size of each batch, as its jobs are counted, and the seconds it took.
    """

    def __init__(
        self, max_batch: int, max_waiting: int, observe: Callable[[int, float], None] = lambda size, seconds: None
    ) -> None:
        self.max_batch, self.max_waiting, self._observe = max_batch, max_waiting, observe
        self._jobs: deque[Job] = deque()
        self._waiting = self._taken = 0  # sizes of the jobs that wait, and of those in the newest batch
        self._pace: float | None = None  # seconds for a batch's unit of size, a running mean
        self._closing = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="cftrec-worker", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Size of all jobs that no batch has taken yet."""
        return self._waiting

    @property
    def retry_after_s(self) -> int:
        """Whole seconds after which what waits or is being answered now should be done."""
        return _UNKNOWN_S if self._pace is None else max(1, ceil((self._waiting + self._taken) * self._pace))

    @property
    def alive(self) -> bool:
        """Whether there is a worker to answer."""
        return self._worker.is_alive()

    def submit(
        self,
        kind: Hashable,
        answer: Callable[[list[Any]], Sequence[Any]],
        value: Any,
        size: int = 1,
        counted: int | None = None,
    ) -> Future[Any]:
        """Queue a job, counted by its size unless told otherwise.

        A result that is cancelled before the worker takes it leaves the queue.

        Raises:
            Busy: the queue is full, or closed.
        """
        job = Job(kind, answer, value, size, size if counted is None else counted)
        with self._changed:
            full = self._waiting > 0 and self._waiting + size > self.max_waiting
            if self._closing or full:
                raise Busy(self.retry_after_s)
            self._jobs.append(job)
            self._waiting += size
            if len(self._jobs) == 1 or self._waiting >= self.max_batch:  # each waking costs both threads a switch
                self._changed.notify()
        job.result.add_done_callback(lambda result: self._forget(job) if result.cancelled() else None)
        return job.result

    def _forget(self, job: Job) -> None:
        """Make room where somebody waits no more."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._waiting -= job.size

    def close(self) -> None:
        """Answer what waits, take no more, and end the worker."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while batch := self._take():
            batch = [job for job in batch if job.result.set_running_or_notify_cancel()]
            if not batch:
                continue
            begin = perf_counter()
            try:
                answered = list(zip(batch, batch[0].answer([job.value for job in batch]), strict=True))
            except Exception as error:
                for job in batch:
                    job.result.set_exception(error)
                continue
            for job, result in answered:
                job.result.set_result(result)
            size, seconds = sum(job.size for job in batch), perf_counter() - begin
            self._pace = seconds / size if self._pace is None else self._pace + 0.2 * (seconds / size - self._pace)
            self._observe(sum(job.counted for job in batch), seconds)

    def _take(self) -> list[Job]:
        """Wait for work and take the oldest job with others of its kind; nothing once the queue is closed and empty."""
        with self._changed:
            while True:
                self._linger()
                if self._jobs:
                    break
                if self._closing:
                    return []
                self._changed.wait()
            first, taken, left = self._jobs[0], list[Job](), deque[Job]()
            room = max(self.max_batch, first.size)
            for job in self._jobs:
                fits = job.kind == first.kind and job.size <= room
                (taken if fits else left).append(job)
                room -= job.size if fits else 0
            self._jobs = left
            self._taken = sum(job.size for job in taken)
            self._waiting -= self._taken
            return taken

    def _linger(self) -> None:
        """Wait while more comes, up to a batch; what waits may be cancelled meanwhile."""
        before = 0
        while before < self._waiting < self.max_batch and not self._closing:
            before = self._waiting
            self._changed.wait(_LINGER_S)
