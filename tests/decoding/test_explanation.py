"""The splits against their definitions, on any game of a few items: loops over sets and orders."""

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftrec.decoding.explanation import TokenEffect, draw_orders, pieces, split_over_items, wanted_sets
from cftrec.errors import InputError


def worth(seed: int):
    """Draw a value for every set of items."""
    known: dict[frozenset[int], float] = {}
    rng = np.random.default_rng(seed)
    return lambda members: known.setdefault(frozenset(members), float(rng.normal()))


def split(value, items: int, orders):
    values = [value(np.flatnonzero(members).tolist()) for members in wanted_sets(orders)]
    return split_over_items(np.array(values), orders)


@given(st.integers(1, 4), st.integers(0, 100))
def test_all_orders_give_shapleys_formula(items, seed):
    value, everyone = worth(seed), set(range(items))
    missed, shares, errors = split(value, items, draw_orders(items, 24))
    for item in range(items):
        assert missed[item] == pytest.approx(value(everyone) - value(everyone - {item}))
        exact = 0.0
        for order in permutations(range(items)):
            before = order[: order.index(item)]
            exact += (value([*before, item]) - value(before)) / factorial(items)
        assert shares[item] == pytest.approx(exact)
    assert shares.sum() == pytest.approx(value(everyone) - value([]))
    assert not errors.any()


@given(st.integers(4, 7), st.integers(2, 20), st.integers(0, 100))
def test_sampled_orders_are_means_of_what_items_add(items, count, seed):
    value, orders = worth(seed), draw_orders(items, count, seed)
    _, shares, errors = split(value, items, orders)
    added = np.array(
        [
            [value(order[: place + 1]) - value(order[:place]) for place in (order.index(item) for item in range(items))]
            for order in orders.tolist()
        ]
    )
    np.testing.assert_allclose(shares, added.mean(0))
    assert shares.sum() == pytest.approx(value(range(items)) - value([]))
    if len(orders) < factorial(items):
        np.testing.assert_allclose(errors, added.std(0, ddof=1) / np.sqrt(len(orders)))


def test_the_stated_error_is_the_spread_of_the_estimate():
    """Over many draws of 30 orders the estimates lie around the exact values as far as the error says."""
    value, items = worth(3), 5
    _, exact, _ = split(value, items, draw_orders(items, 120))
    runs = [split(value, items, draw_orders(items, 30, seed))[1:] for seed in range(200)]
    off = np.array([(shares - exact) / errors for shares, errors in runs])
    assert abs(off.mean()) < 0.2
    assert 0.85 < off.std() < 1.2


def test_no_orders():
    assert split_over_items(np.array([3.0, 1.0]), draw_orders(1, 0))[1:] == (None, None)
    for count in (-1, 1):
        with pytest.raises(InputError, match="at least 2"):
            draw_orders(3, count)
    with pytest.raises(InputError, match="at least 2 orders"):
        draw_orders(1, 1)  # so that what is refused does not depend on the history
    for items in (1, 30):
        with pytest.raises(InputError, match="at most 10000"):
            draw_orders(items, 10**30)
    with pytest.raises(InputError, match="seed -1"):
        draw_orders(3, 2, -1)


def test_choices_are_named_by_what_they_decide():
    """The first byte of a character is no end of a title, and what is forced belongs to the choice before it."""
    told = [("", 1.0), ("千", 2.0), ("と", None), (" x", 0.5), ("", None), ("", 0.25), ("", None)]
    tokens = [
        TokenEffect(text, place >= 5, effect is not None, effect or 0.0, 0.0, effect or 0.0)
        for place, (text, effect) in enumerate(told)
    ]
    named = [("part of a character", 1.0), ("'千と'", 2.0), ("' x'", 0.5), ("end of title", 0.25)]
    assert pieces(tokens) == named
    assert pieces(tokens[:0]) == []
