"""Each baseline against its definition, written as loops or in closed form."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_logs import make_log

pytest.importorskip("rectools", reason="RecTools is not installed; `make baselines` does")

from cftrec.baselines.rectools_models import LabelledLogits, TransformerLightningModule, fit, ndcg, windows
from cftrec.baselines.settings import candidates
from cftrec.evaluation import evaluate, rank_by_popularity

SMALL = {"factors": 16, "heads": 1, "length": 6, "dropout": 0.0, "learning_rate": 0.03, "batch_size": 4}


def settings(model, **given):
    return candidates(model, given, 1)[0]


def cases(dataset):
    positions = dataset.targets("test")
    return [dataset.history(int(position)) for position in positions], dataset.events[positions].tolist()


def matrix(dataset, binary=True):
    """Return training events of each user and item."""
    found = np.zeros((len(dataset.users), dataset.items.height))
    for position in np.flatnonzero(dataset.split == 0):
        found[dataset.user_of(position), dataset.events[position]] += 1
    return np.minimum(found, 1) if binary else found


def check_lists(found, scores, histories, targets, k):
    """Check lists against the scores of all items: a naive ranking, ties in any order."""
    for row, (history, target) in enumerate(zip(histories, targets, strict=True)):
        allowed = [item for item in range(scores.shape[1]) if item not in history or item == target]
        best = sorted((scores[row, item] for item in allowed if np.isfinite(scores[row, item])), reverse=True)[:k]
        items = found.items[row][found.items[row] >= 0]
        assert len(items) == len(set(items)) == len(best)
        assert set(items) <= set(allowed)
        np.testing.assert_allclose(found.scores[row][: len(best)], best, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(scores[row, items], best, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("k", [3, 20])
def test_popular_counts_training_events(log, k):
    histories, targets = cases(log)
    counts = np.where(log.item_counts() > 0, np.log1p(log.item_counts()), -np.inf)
    found = fit("popular", log, {}).search(histories, k, targets)
    check_lists(found, np.tile(counts, (len(targets), 1)), histories, targets, k)


@pytest.mark.parametrize("k", [3, 20])
def test_ease_is_the_closed_form(log, k):
    seen = matrix(log)
    known = seen.sum(0) > 0
    inverse = np.linalg.inv(seen[:, known].T @ seen[:, known] + 5.0 * np.eye(known.sum()))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    histories, targets = cases(log)
    own = np.array([np.isin(np.flatnonzero(known), history) for history in histories])
    scores = np.full((len(targets), known.size), -np.inf)
    scores[:, known] = own @ weights
    check_lists(fit("ease", log, {"regularization": 5.0}).search(histories, k, targets), scores, histories, targets, k)


def test_itemknn_sums_the_cosines_of_neighbours(log):
    seen, neighbours = matrix(log), 6
    norms = np.linalg.norm(seen, axis=0)
    norms[norms == 0] = 1
    cosine = (seen / norms).T @ (seen / norms)
    for item in range(len(cosine)):  # an item is a neighbour of its own
        cosine[item, np.argsort(-cosine[item], kind="stable")[neighbours:]] = 0
    histories, targets = cases(log)
    fitted = fit("itemknn", log, {"weighting": "cosine", "neighbours": neighbours})
    kept = np.asarray(fitted.model.model.similarity.todense())
    ranked = np.sort(kept, axis=1)
    expected = np.sort(cosine[np.ix_(fitted.known, fitted.known)], axis=1)
    np.testing.assert_allclose(ranked, expected, atol=1e-6)  # which of equal neighbours are kept is open
    scores = np.full((len(targets), len(cosine)), -np.inf)
    own = np.array([np.isin(fitted.known, history) for history in histories])
    scores[:, fitted.known] = own @ kept
    scores[scores == 0] = -np.inf  # no neighbour of the history: never listed
    check_lists(fitted.search(histories, 20, targets), scores, histories, targets, 20)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 5))
def test_windows_cover_every_target_once(lengths, length):
    start, histories = 0, []
    for size in lengths:
        histories.append(list(range(start, start + size)))
        start += size
    log = make_log(histories, start)
    users, items = windows(log, length)
    expected = []
    for history in histories:
        train = history[:-2] if len(history) > 2 else history
        end = len(train)
        while True:
            begin = max(0, end - length - 1)
            expected.append(train[begin:end])
            end = begin + 1
            if begin == 0:
                break
    assert [items[users == user].tolist() for user in range(len(expected))] == expected
    assert users.max() + 1 == len(expected)


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_the_loss_is_that_of_rectools(cycle, model):
    fitted = fit(model, cycle, settings(model, **SMALL, epochs=1))
    module = fitted.model.lightning_model.eval()
    batch = next(iter(fitted.model.data_preparator.get_dataloader_train()))
    logits = TransformerLightningModule.get_batch_logits(module, batch)
    whole = TransformerLightningModule._calc_softmax_loss(logits, batch["y"], batch["yw"])
    ours = module.loss_calculator(module.get_batch_logits(batch), batch["y"], batch["yw"])
    torch.testing.assert_close(ours, whole)
    assert module.get_batch_logits(batch).shape == (int((batch["y"] != 0).sum()), logits.shape[-1])
    assert isinstance(module, LabelledLogits)


MASKED = {"mask": 0.4, "blocks": 1, "batch_size": 2, "learning_rate": 0.01}


@pytest.mark.parametrize(("model", "given", "hits"), [("sasrec", {}, 0.9), ("bert4rec", MASKED, 0.5)])
def test_sequence_models_learn_what_follows_what(cycle, model, given, hits):
    fitted = fit(model, cycle, settings(model, **SMALL | given, epochs=10, patience=10))
    assert 1 <= fitted.epochs <= 10
    result = evaluate(fitted, cycle)
    assert result.metrics["HR@1"] >= hits  # a guess among the items left hits 0.2
    assert ndcg(fitted, cycle) == pytest.approx(evaluate(fitted, cycle, "validation").metrics["NDCG@10"])
    assert result.effects.table.is_empty()
    for row in result.ranks.iter_rows(named=True):
        assert not set(row["items"]) & (set(row["history"]) - {row["target"]})


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_one_seed_gives_one_model(cycle, model):
    one, two, other = (
        evaluate(fit(model, cycle, settings(model, **SMALL, epochs=1, seed=seed)), cycle).ranks for seed in (1, 1, 2)
    )
    assert one.equals(two)
    assert not one.equals(other)


def test_training_stops_when_validation_gets_no_better_and_keeps_the_best(cycle, monkeypatch):
    from cftrec.baselines import rectools_models

    measured, given_out = [], iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])

    def scripted(fitted, dataset):
        measured.append([value.clone() for value in fitted.model.torch_model.state_dict().values()])
        return next(given_out)

    monkeypatch.setattr(rectools_models, "ndcg", scripted)
    calls = []
    fitted = fit("sasrec", cycle, settings("sasrec", **SMALL, epochs=9, patience=3), lambda *done: calls.append(done))
    assert (fitted.epochs, calls) == (2, [(epoch, 9) for epoch in range(1, 6)])
    for kept, best in zip(fitted.model.torch_model.state_dict().values(), measured[1], strict=True):
        torch.testing.assert_close(kept, best, rtol=0, atol=0)


def test_training_can_be_interrupted(cycle, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LabelledLogits, "training_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit("sasrec", cycle, settings("sasrec", **SMALL))
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("model", ["ease", "sasrec"])
def test_popularity_stands_in_where_nothing_is_known_of_a_history(log, model):
    split = log.split.copy()
    split[log.offsets[:-1]] = 2  # as under a time split: the first event of everybody is a target
    data = replace(log, split=split)
    given = {**SMALL, "epochs": 1} if model == "sasrec" else {}
    fitted = fit(model, data, settings(model, **given))
    unknown = int(np.flatnonzero(data.item_counts() == 0)[0])
    histories = [np.array([], dtype=np.int32), np.array([unknown], dtype=np.int32), data.events[:3]]
    found = fitted.search(histories, 20, [-1, 4, -1])
    popular = rank_by_popularity(data.item_counts(), histories, [-1, 4, -1], 20).items
    assert found.exact.tolist() == [False, False, True]
    assert found.items[:2].tolist() == popular[:2].tolist()
    assert set(found.items[2][found.items[2] >= 0]) <= set(fitted.known)
