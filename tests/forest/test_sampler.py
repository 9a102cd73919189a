"""The order of training: a pure function of seed and epoch that keeps groups together."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cftrec.forest import StepSampler
from cftrec.forest.sampler import epoch_order

group_lists = st.lists(st.integers(-3, 6), max_size=25)


@given(group_lists, st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_a_permutation_that_keeps_groups_together_and_in_order(values, seed, epoch):
    groups = np.array(values, dtype=np.int64)
    order = epoch_order(groups, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(groups)))
    shown = groups[order]
    assert 1 + (shown[1:] != shown[:-1]).sum() == len(set(values)) or not values
    for group in set(values):
        assert order[shown == group].tolist() == np.flatnonzero(groups == group).tolist()


@given(group_lists, st.integers(0, 99), st.integers(0, 9))
def test_it_depends_on_seed_and_epoch_alone(values, seed, epoch):
    groups = np.array(values, dtype=np.int64)
    first = epoch_order(groups, seed, epoch)
    np.random.default_rng().random()
    np.random.seed(1)
    torch.manual_seed(1)
    assert epoch_order(groups, seed, epoch).tolist() == first.tolist()
    assert groups.tolist() == values


def test_seeds_and_epochs_differ():
    groups = np.arange(50)
    orders = {tuple(epoch_order(groups, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_every_group_may_come_first():
    groups = np.repeat(np.arange(4), [1, 2, 3, 4])
    assert {int(groups[epoch_order(groups, 0, epoch)[0]]) for epoch in range(60)} == {0, 1, 2, 3}


def test_the_sampler_gives_the_order_of_its_epoch():
    groups = np.repeat(np.arange(5), 3)
    sampler = StepSampler(groups, seed=7)
    assert len(sampler) == 15
    assert list(sampler) == list(sampler) == epoch_order(groups, 7, 0).tolist()
    sampler.set_epoch(2)
    assert list(sampler) == epoch_order(groups, 7, 2).tolist()
    assert all(type(sample) is int for sample in sampler)


def test_an_epoch_is_filled_up_by_no_samples():
    groups = np.arange(13)
    sampler = StepSampler(groups, seed=7, multiple=8)
    assert len(sampler) == 16
    assert list(sampler) == [*epoch_order(groups, 7, 0).tolist(), -1, -1, -1]
    assert len(StepSampler(groups[:8], seed=7, multiple=8)) == 8
