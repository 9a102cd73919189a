"""What a history causes: the effect on one title, split over the title's tokens and over the history's items.

A set of history items is worth v(set) = log p(title | these items, oldest first), and no items at all are worth the
named prior, v() = log prior(title); so the whole history's value less nothing's is the total effect. Two splits over
items follow from v: leaving one out, v(all) - v(all but one), whose sum is the effect only where items do not speak for
each other; and Shapley values, the mean of what an item adds when the items come in a random order (Shapley 1953;
sampled: Castro et al. 2009), whose sum always is.
"""

from dataclasses import dataclass
from itertools import pairwise, permutations
from math import factorial, sqrt

import numpy as np
from numpy.typing import NDArray

from cftrec.errors import InputError

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_ORDERS = 10_000
"""Orders of a history at once: their prompts are held together, and ten times as many bring a third of the error."""


@dataclass(frozen=True)
class TokenEffect:
    """One token of the explained title.

    Attributes:
        text: what it spells; "" where its bytes are but a part of a character, which a later token completes, and in
            the closing.
        closing: whether it ends the title instead of spelling it.
        choice: whether the catalogue leaves a choice here; elsewhere the other numbers are 0.
        log_p: log p(token | history, tokens before), nats.
        log_prior: the same of the prior.
        effect: log_p - log_prior.
    """

    text: str
    closing: bool
    choice: bool
    log_p: float
    log_prior: float
    effect: float


@dataclass(frozen=True)
class ItemEffect:
    """One item of the history that the model is shown.

    Attributes:
        item_id: the source's id.
        title: its title.
        effect: log p(title | history) - log p(title | history without this item), nats; of the only item, the total.
        shapley: mean of what it adds over the orders, nats; None where none were asked for.
        shapley_error: standard error of that mean over sampled orders; 0 where all orders were run.
    """

    item_id: str
    title: str
    effect: float
    shapley: float | None
    shapley_error: float | None


@dataclass(frozen=True)
class Explanation:
    """The history's effect on one title, under the catalogue softmax whatever the RUN recommends by.

    Attributes:
        item_id: the explained item.
        title: its title.
        prior: what the effect is measured against.
        log_p: log p(title | history), nats: the sum over `tokens`.
        log_prior: log prior(title), nats: the sum over `tokens`.
        effect: log_p - log_prior: the sum over `tokens`, and of the Shapley values over `history`.
        tokens: the title's tokens, the closing ones included.
        history: the items shown to the model, oldest first; older ones than those have no effect.
        orders: how many orders the Shapley values are means of; 0: none.
    """

    item_id: str
    title: str
    prior: str
    log_p: float
    log_prior: float
    effect: float
    tokens: list[TokenEffect]
    history: list[ItemEffect]
    orders: int


def pieces(tokens: list[TokenEffect]) -> list[tuple[str, float]]:
    """Return each choice's effect with what it decides, as Python writes it: its token and those forced after it."""
    starts = [place for place, token in enumerate(tokens) if token.choice]
    found = []
    for begin, end in pairwise([*starts, len(tokens)]):
        text = "".join(token.text for token in tokens[begin:end])
        name = "end of title" if tokens[begin].closing else repr(text) if text else "part of a character"
        found.append((name, tokens[begin].effect))
    return found


def draw_orders(items: int, count: int, seed: int = 0) -> Ints:
    """Return `count` random orders of n items, int64 [count, n]; all n! of them where these are no more.

    Raises:
        InputError: a count below 0, of 1, which leaves the standard error unknown, or above `MOST_ORDERS`; or a seed
            below 0.
    """
    if count < 0 or count == 1:
        raise InputError(f"shapley {count}: give 0 for none, or at least 2 orders, since one has no standard error")
    if count > MOST_ORDERS:
        raise InputError(f"shapley {count}: give at most {MOST_ORDERS} orders")
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more")
    if count and factorial(items) <= count:
        return np.array(list(permutations(range(items))), dtype=np.int64)
    return np.random.default_rng(seed).permuted(np.tile(np.arange(items), (count, 1)), axis=1)


def wanted_sets(orders: Ints) -> Bools:
    """Return the sets of items that the splits ask about, as members, bool [1 + n + m (n + 1), n].

    Args:
        orders: int64 [m, n], as `draw_orders` gives them; n at least 1.

    Returns:
        All items; all but each; and order after order its beginnings, from none to all.
    """
    count = orders.shape[1]
    turn = np.argsort(orders, axis=1)  # when each item comes
    beginnings = turn[:, None, :] < np.arange(count + 1)[:, None]
    whole = np.ones((1, count), dtype=bool)
    return np.concatenate([whole, ~np.eye(count, dtype=bool), beginnings.reshape(-1, count)])


def split_over_items(values: Floats, orders: Ints) -> tuple[Floats, Floats | None, Floats | None]:
    """Split the effect over the items.

    Args:
        values: float64 [1 + n + m (n + 1)], the value of each of `wanted_sets(orders)`.
        orders: int64 [m, n].

    Returns:
        What each item is missed by, its Shapley value and that one's standard error, all float64 [n]; the last two None
        where there are no orders.
    """
    orders_run, count = orders.shape
    missed = values[0] - values[1 : 1 + count]
    if not orders_run:
        return missed, None, None
    steps = np.diff(values[1 + count :].reshape(orders_run, count + 1), axis=1)
    added = np.take_along_axis(steps, np.argsort(orders, axis=1), 1)
    every = orders_run == factorial(count)
    error = np.zeros(count) if every else added.std(axis=0, ddof=1) / sqrt(orders_run)
    return missed, added.mean(axis=0), error
