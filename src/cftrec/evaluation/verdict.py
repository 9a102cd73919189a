"""One honest sentence about a comparison: who is best, by how much, and whether the data can tell."""

from collections.abc import Mapping, Sequence
from typing import Any

METRIC = "NDCG@10"
SURE = 0.05
POPULAR = "popular"


def verdict(rows: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]]) -> str:
    """Say which row has the best NDCG@10 and whether its lead over the runner-up is sure.

    Args:
        rows: rows of the summary, each with "model" and "NDCG@10".
        tests: paired tests of the summary: a, b, metric, difference, p, p_holm, p_permutation_holm, ci.
    """
    best, *others = sorted(rows, key=lambda row: -row[METRIC])
    if not others:
        return f"{best['model']} reaches NDCG@10 {best[METRIC]:.4f}; there is nothing to compare it with."
    return _lead_sentence(best, others[0], lead(tests, best["model"], others[0]["model"]))


def against_popularity(rows: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]]) -> str:
    """Say how far each model's NDCG@10 is from popularity's and whether that is sure; empty if the pair is all."""
    names = [row["model"] for row in rows]
    if POPULAR not in names or len(names) < 3:
        return ""
    parts = []
    for name in names:
        if name != POPULAR:
            test = lead(tests, name, POPULAR)
            sure = "sure" if is_sure(test) else "may be chance"
            parts.append(f"{name} {_number(test['difference'], '+.4f')} ({sure})")
    return f"Against popularity in NDCG@10: {', '.join(parts)}."


def is_sure(test: Mapping[str, Any]) -> bool:
    """Say whether a difference is sure: both p, adjusted for the number of pairs, are below 0.05.

    The bootstrap's alone is too bold where users are few (docs/metrics.md); the permutation's alone says nothing of the
    luck of the seeds.
    """
    return max(test["p_holm"], test["p_permutation_holm"]) < SURE


def _lead_sentence(best: Mapping[str, Any], runner: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    if test["difference"] == 0:
        return f"{best['model']} and {runner['model']} are level: NDCG@10 {best[METRIC]:.4f} each."
    evidence = f"{_interval(test['ci'])}, {_p(test)}"
    if is_sure(test):
        return (
            f"{best['model']} is best: NDCG@10 {best[METRIC]:.4f} against {runner[METRIC]:.4f} of {runner['model']}, "
            f"a sure lead of {test['difference']:.4f} ({evidence})."
        )
    return (
        f"No sure winner: {best['model']} leads {runner['model']} by {test['difference']:.4f} NDCG@10 "
        f"({best[METRIC]:.4f} against {runner[METRIC]:.4f}), which may be chance ({evidence})."
    )


def lead(tests: Sequence[Mapping[str, Any]], name: str, other: str, metric: str = METRIC) -> dict[str, Any]:
    """Return the test of `name` against `other`, turned so that a positive difference speaks for `name`."""
    for test in tests:
        if test["metric"] == metric and {test["a"], test["b"]} == {name, other}:
            if test["a"] == name:
                return dict(test)
            ci = test["ci"] and [-bound for bound in reversed(test["ci"])]
            return {**test, "a": name, "b": other, "difference": -test["difference"], "ci": ci}
    raise KeyError(f"no test of {name} against {other} on {metric}")


def _interval(bounds: Sequence[float] | None) -> str:
    return f"95 % interval {' to '.join(map(_number, bounds))}" if bounds else "one user, so no interval"


def _p(test: Mapping[str, Any]) -> str:
    """Name the bootstrap's p, which goes with the interval, and an adjusted one that changes what it says."""
    plain = f"p = {test['p']:.3f}"
    if test["p"] < SURE <= test["p_holm"]:
        return f"{plain}, {test['p_holm']:.3f} adjusted for the number of pairs"
    if test["p_holm"] < SURE <= test["p_permutation_holm"]:
        return f"{plain}, {test['p_permutation_holm']:.3f} by permutation and adjusted for the number of pairs"
    return plain


def _number(value: float, form: str = ".4f") -> str:
    """Write a number in four digits; what rounds to 0 has no minus."""
    return f"{round(value, 4) + 0.0:{form}}".replace("-", "−")
