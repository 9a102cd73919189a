"""What a batch of requests asks the recommender: how often, and in which time."""

from time import perf_counter

import numpy as np
import pytest

from cftrec import Recommender
from cftrec.decoding import SearchResult
from cftrec.serving import answers
from cftrec.serving.answers import Wish
from cftrec.serving.runs import Late, Served


@pytest.fixture
def served(runs) -> Served:
    return Served.load(runs[0])


def wish(*history: int, **options) -> Wish:
    """Ask for three items with what is expected of anyone, unless told otherwise."""
    seen = np.array(history, dtype=np.int64)
    asked = {"history": seen, "left_out": seen, "allowed": None, "k": 3, "gamma": 0.0, "prior": "counterfactual"}
    return Wish(**asked | {"without_history": True, "deadline": perf_counter() + 60} | options)


def watch(monkeypatch, name: str) -> list:
    """Keep the arguments of each call of one of the recommender's methods."""
    calls, whole = [], getattr(Recommender, name)
    monkeypatch.setattr(
        Recommender, name, lambda *given, **named: calls.append((given, named)) or whole(*given, **named)
    )
    return calls


def test_what_is_expected_of_anyone_is_searched_once_a_batch(served, monkeypatch):
    wishes = [wish(1), wish(4, 5, k=2), wish(prior="counts"), wish(7, allowed=np.array([2, 7, 9])), wish(8)]
    expected = served.recommender.prior("counterfactual").items
    calls = watch(monkeypatch, "search")
    ranked = [one for (one,) in answers.recommend(served, [[one] for one in wishes])]
    assert [len(histories) for (_, histories, _), _ in calls] == [5, 4]
    assert all(options["budget_ms"] <= 30_000 for _, options in calls)
    for one, answer in zip(wishes, ranked, strict=True):
        items, log_prior = answer.expected
        if one.prior == "counts":
            continue
        may = set(range(12) if one.allowed is None else one.allowed) - set(one.left_out)
        assert log_prior == pytest.approx(sorted((expected[item] for item in may), reverse=True)[: one.k], abs=1e-4)
        assert log_prior == pytest.approx(expected[items], abs=1e-4)
        assert set(items) <= may


def test_the_model_is_asked_once_about_an_item(served, monkeypatch):
    monkeypatch.setattr("cftrec.serving.runs._ROW_ITEMS", 2)
    expected = served.recommender.prior("counterfactual").items
    calls = watch(monkeypatch, "log_probs")
    for items in ([3, 1, 3, 5, 9, 0], [5], [5, 11, 2], []):
        chosen = np.array(items, dtype=np.int64)
        assert served.log_prior("counterfactual", chosen) == pytest.approx(expected[chosen], abs=1e-4)
    asked = [item for (_, _, rows, _), _ in calls for row in rows for item in row]
    assert sorted(asked) == [0, 1, 2, 3, 5, 9, 11]


@pytest.mark.parametrize(("run", "prior"), [(1, "counts"), (0, "counterfactual")])
def test_what_follows_the_searches_ends_when_nobody_waits(runs, monkeypatch, run, prior):
    """By a clock that moves 10 s whenever the model scores titles, 2 or a user's at a time."""
    served, now, whole = Served.load(runs[run]), 100.0, Recommender.log_probs

    def log_probs(self, histories, items, softmax=None):
        nonlocal now
        now += 10
        assert sum(map(len, items)) <= 5
        return whole(self, histories, items, softmax)

    def ask(last: float):
        nonlocal now
        now = 100.0
        options = {"without_history": False, "prior": prior, "k": 5}
        wishes = [wish(n, deadline=last if n == 4 else 105.0, **options) for n in range(8)]
        return answers.recommend(served, [wishes])

    for name in ("answers.AT_ONCE", "runs.AT_ONCE", "runs._ROW_ITEMS"):
        monkeypatch.setattr(f"cftrec.serving.{name}", 2)
    monkeypatch.setattr(answers, "perf_counter", lambda: 100.0)
    monkeypatch.setattr("cftrec.serving.runs.time.perf_counter", lambda: now)
    monkeypatch.setattr(Recommender, "log_probs", log_probs)
    with pytest.raises(Late):
        ask(115.0)
    assert now == 120, "two parts were begun in 15 s"
    (ranked,) = ask(1000.0)
    monkeypatch.setattr(Recommender, "log_probs", whole)
    expected = served.recommender.prior(prior).items
    for place, one in enumerate(ranked):
        (runs_of,) = served.recommender.log_probs([np.array([place])], [one.items], softmax="catalogue")
        assert one.effect == pytest.approx([run.sum() for run in runs_of.split()] - expected[one.items], abs=1e-4)


def test_searches_share_the_time_until_the_first_deadline(served, monkeypatch):
    """By a clock that only searches move, each by all of its share."""
    now, shares = 100.0, []

    def search(self, histories, k, *, budget_ms, **_):
        nonlocal now
        now += budget_ms / 1000
        shares.append(budget_ms)
        users = len(histories)
        nothing = np.zeros(users, dtype=np.int64)
        return SearchResult(
            np.full((users, k), -1, dtype=np.int32), np.full((users, k), -np.inf), nothing > 0, nothing, nothing - 1.0
        )

    monkeypatch.setattr(Recommender, "search", search)
    monkeypatch.setattr(answers, "perf_counter", lambda: now)
    for first, total in ((110.0, 5000), (90.0, 0)):
        now = 100.0
        shares.clear()
        wishes = [wish(1, deadline=130.0)] * 39 + [wish(2, deadline=first)]
        (ranked,) = answers.recommend(served, [wishes])
        assert shares == pytest.approx([total / 4] * 4)
        assert not any(one.exact for one in ranked)
