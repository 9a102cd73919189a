import numpy as np
import pytest

from cftrec.evaluation import paired_test
from cftrec.evaluation.verdict import against_popularity, is_sure, lead, verdict


def rows(**scores):
    return [{"model": name, "NDCG@10": score} for name, score in scores.items()]


def case(a, b, difference, p, p_holm=None, metric="NDCG@10", permuted=None):
    ci = [difference - 0.01, difference + 0.01]
    p_holm = p if p_holm is None else p_holm
    found = {"p": p, "p_holm": p_holm, "p_permutation_holm": p_holm if permuted is None else permuted, "ci": ci}
    return {"a": a, "b": b, "metric": metric, "difference": difference} | found


def test_a_sure_lead():
    told = verdict(rows(plain=0.05, cft=0.08), [case("cft", "plain", 0.03, 0.001)])
    assert told == (
        "cft is best: NDCG@10 0.0800 against 0.0500 of plain, a sure lead of 0.0300 "
        "(95 % interval 0.0200 to 0.0400, p = 0.001)."
    )


def test_a_lead_that_may_be_chance_is_turned_to_the_leader():
    told = verdict(rows(plain=0.056, cft=0.05), [case("cft", "plain", -0.006, 0.4)])
    assert told.startswith("No sure winner: plain leads cft by 0.0060 NDCG@10 (0.0560 against 0.0500)")
    assert "which may be chance (95 % interval −0.0040 to 0.0160, p = 0.400)" in told


def test_zero_has_no_minus():
    test = case("cft", "plain", -0.1111, 0.572) | {"ci": [-0.3333, 0.0]}
    assert "95 % interval 0.0000 to 0.3333," in verdict(rows(plain=0.1111, cft=0.0), [test])
    test = case("plain", "cft", 0.1111, 0.572) | {"ci": [-0.00004, 0.3333]}
    assert "95 % interval 0.0000 to 0.3333," in verdict(rows(plain=0.1111, cft=0.0), [test])


def test_the_number_of_pairs_counts():
    told = verdict(rows(a=0.05, b=0.062), [case("b", "a", 0.012, 0.02, 0.3)])
    assert told.startswith("No sure winner")
    assert "p = 0.020, 0.300 adjusted for the number of pairs" in told


def test_few_users_are_sure_by_both_tests_or_not_at_all():
    told = verdict(rows(a=0.05, b=0.062), [case("b", "a", 0.012, 0.001, 0.003, permuted=0.0625)])
    assert told.startswith("No sure winner")
    assert "p = 0.001, 0.062 by permutation and adjusted for the number of pairs" in told
    tests = [case("a", "popular", 0.02, 0.001, permuted=0.06), case("b", "popular", 0.02, 0.3, permuted=0.001)]
    told = against_popularity(rows(popular=0.04, a=0.06, b=0.06), [*tests, case("b", "a", 0.01, 1)])
    assert told.count("may be chance") == 2


@pytest.mark.parametrize("users", [4, 8, 12])
def test_chance_is_seldom_called_sure(users):
    """Of two models without a difference, at most one in twenty comparisons or so finds one."""
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(200):
        a, b = rng.random((2, users)) ** 3
        found = paired_test(a, b, np.arange(users), draws=400)
        called += is_sure({"p_holm": found.p, "p_permutation_holm": found.p_permutation})
    assert called <= 0.08 * 200


def test_level_and_alone():
    assert verdict(rows(a=0.05, b=0.05), [case("b", "a", 0.0, 1.0)]) == "a and b are level: NDCG@10 0.0500 each."
    assert "nothing to compare" in verdict(rows(a=0.05), [])


def test_against_popularity():
    tests = [case("plain", "popular", 0.02, 0.001), case("cft", "popular", -0.003, 0.5), case("cft", "plain", -0.02, 1)]
    told = against_popularity(rows(popular=0.04, plain=0.06, cft=0.037), tests)
    assert told == "Against popularity in NDCG@10: plain +0.0200 (sure), cft −0.0030 (may be chance)."
    assert against_popularity(rows(popular=0.04, plain=0.06), tests) == ""
    assert against_popularity(rows(a=1, b=1, c=1), []) == ""


def test_no_such_pair():
    with pytest.raises(KeyError):
        lead([], "a", "b")
