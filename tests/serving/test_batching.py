"""The queue and its worker: who is answered with whom, what is refused, and that nothing accepted is lost."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.serving.batching import Batcher, Busy


class Gate:
    """An answer that waits until it may go on, and keeps what came together."""

    def __init__(self) -> None:
        self.open, self.begun, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, values):
        self.begun.set()
        self.open.wait(10)
        self.batches.append(values)
        return [2 * value for value in values]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4)), min_size=1, max_size=20), st.integers(1, 6))
def test_jobs_of_a_kind_fill_batches_in_their_order(jobs, max_batch):
    gate, sizes = Gate(), []
    batcher = Batcher(max_batch, 1000, lambda size, _: sizes.append(size))
    try:
        first = batcher.submit("first", gate, 0)
        assert gate.begun.wait(10)
        results = [batcher.submit(kind, gate, place, size) for place, (kind, size) in enumerate(jobs)]
        assert batcher.waiting == sum(size for _, size in jobs)
        gate.open.set()
        assert [result.result(10) for result in (first, *results)] == [0, *range(0, 2 * len(jobs), 2)]
    finally:
        gate.open.set()
        batcher.close()
    assert batcher.waiting == 0
    for batch, size in zip(gate.batches[1:], sizes[1:], strict=True):
        assert len({jobs[place][0] for place in batch}) == 1
        assert size == sum(jobs[place][1] for place in batch)
        assert size <= max_batch or len(batch) == 1
    oldest = [batch[0] for batch in gate.batches[1:]]
    assert oldest == sorted(oldest), "the oldest job is always served next"
    for kind in "ab":
        singles = [place for batch in gate.batches[1:] for place in batch if jobs[place] == (kind, 1)]
        assert singles == sorted(singles)


def test_a_full_queue_refuses_and_says_when_to_come_back():
    gate = Gate()
    batcher = Batcher(2, 3)
    batcher.submit("a", gate, 0)
    assert gate.begun.wait(10)
    kept = [batcher.submit("a", gate, 1, 2), batcher.submit("a", gate, 2, 1)]
    with pytest.raises(Busy) as busy:
        batcher.submit("a", gate, 3)
    assert busy.value.retry_after_s == 5, "nothing is known yet"
    gate.open.set()
    assert [result.result(10) for result in kept] == [2, 4]
    assert batcher.submit("a", gate, 4, 50).result(10) == 8, (
        "what is larger than the queue finds its place in an empty one"
    )
    batcher.close()


def test_the_first_batch_tells_how_long_the_queue_takes():
    gate = Gate()
    batcher = Batcher(1, 9)
    batcher.submit("a", lambda values: time.sleep(0.3) or values, 1).result(10)
    batcher.submit("a", gate, 1)
    assert gate.begun.wait(10)
    batcher.submit("a", gate, 2, 9)
    assert batcher.retry_after_s >= 3, "nine wait and one is being answered"
    gate.open.set()
    batcher.close()


def test_a_cancelled_job_is_not_computed():
    gate = Gate()
    batcher = Batcher(8, 8)
    batcher.submit("a", gate, 0)
    assert gate.begun.wait(10)
    dropped, kept = batcher.submit("a", gate, 1), batcher.submit("a", gate, 2)
    assert dropped.cancel()
    assert batcher.waiting == 1
    gate.open.set()
    assert kept.result(10) == 4
    batcher.close()
    assert gate.batches == [[0], [2]]


def test_a_failure_reaches_those_who_asked_and_nobody_else():
    def fail(values):
        raise RuntimeError("no")

    batcher = Batcher(8, 8)
    with pytest.raises(RuntimeError, match="no"):
        batcher.submit("a", fail, 1).result(10)
    assert batcher.submit("b", list, 1).result(10) == 1
    batcher.close()


def test_closing_answers_what_waits():
    gate = Gate()
    batcher = Batcher(2, 100)
    results = [batcher.submit("a", gate, value) for value in range(9)]
    closer = threading.Thread(target=batcher.close)
    closer.start()
    while not batcher._closing:
        time.sleep(0.001)
    with pytest.raises(Busy):
        batcher.submit("a", gate, 1)
    gate.open.set()
    closer.join(10)
    assert [result.result(0) for result in results] == list(range(0, 18, 2))


def test_a_job_cancelled_while_the_worker_waits_for_more_harms_nobody(monkeypatch):
    monkeypatch.setattr("cftrec.serving.batching._LINGER_S", 0.1)
    batcher = Batcher(8, 64)
    try:
        for turn in range(5):
            gone = batcher.submit("a", lambda values: values, turn)
            time.sleep(0.02)  # the worker lingers now
            assert gone.cancel()
            assert batcher.submit("a", lambda values: values, turn).result(10) == turn
    finally:
        batcher.close()


def test_an_answer_of_another_length_fails_its_jobs_alone():
    batcher = Batcher(8, 64)
    try:
        with pytest.raises(ValueError, match="shorter"):
            batcher.submit("a", lambda values: [], 1).result(10)
        assert batcher.submit("a", lambda values: values, 2).result(10) == 2
    finally:
        batcher.close()
