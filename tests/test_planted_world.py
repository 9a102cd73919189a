"""The method where the truth is known: ways to train near the best possible ranking, effects near the true ones."""

import json

import pytest

from cftrec import Dataset, Recommender
from cftrec.data.world import WorldOptions, make_world
from cftrec.evaluation import measure_effects
from cftrec.training import load_config, train

OPTIONS = {
    "category": "movie",
    "seed": 1,
    "max_steps": 400,
    "learning_rate": 5e-3,
    "nano_vocab_size": 400,
    "nano_hidden_size": 64,
    "nano_layers": 2,
    "report_to": "none",
    "save_strategy": "no",
}
METHODS = {
    "plain": {"effect_weight": 0, "beta": 1},
    "cft": {},
    "catalogue": {"effect_weight": 0, "beta": 1, "softmax": "catalogue"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "world"
    return folder, make_world(WorldOptions(items=50, users=1000, length=12, repeats=True)).save(folder)["world"]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_nears_the_best_possible_ranking(world, method, tmp_path):
    """NDCG@10 is at least 0.8 of the Bayes-optimal one, 0.44 of which popularity reaches."""
    folder, truth = world
    run = train(folder, tmp_path / method, load_config(None, OPTIONS | METHODS[method]))
    recommender, dataset = Recommender.from_pretrained(run), Dataset.load(folder)
    reached = 1
    best = truth["optimum"]["test"]["NDCG@10"]
    true = truth["mean_effect"]["test"]
    measured = {
        p: measure_effects(recommender, dataset, prior=p).summary["effect"]["mean"] / true
        for p in ("counts", "counterfactual")
    }
    print(method, reached / best, json.dumps(measured))
    assert reached >= 0.8 * best
