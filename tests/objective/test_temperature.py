"""MSL's temperature against loops over plain numbers."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cftrec.objective import Temperature
from cftrec.objective import temperature as module


def naive_temperature(logits, targets):
    """The formula of the authors' code on a list of each token's candidates' logits, and which of them is its own."""
    pool = [value for row in logits for value in row]
    goal = math.log(0.25 * len(logits[0]))
    if goal <= 0:
        return 1.5
    lead = statistics.fmean(row[at] for row, at in zip(logits, targets, strict=True)) - statistics.fmean(pool)
    inner = max(lead**2 - 2 * goal * statistics.variance(pool), 0)
    return min(max((lead + math.sqrt(inner)) / (2 * goal), 1.5), 5)


def logits_of(hidden, head, bias, softcap):
    values = hidden @ head.T + (0 if bias is None else bias)
    return values if softcap is None else softcap * torch.tanh(values / softcap)


@st.composite
def cases(draw):
    """Hidden states [M, H], a head [n, H] and targets [M], in which a target's logit leads by what is drawn."""
    tokens, width, candidates = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(2, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    head = draw(st.sampled_from([0.3, 1.0, 5.0])) * normal(candidates, width)
    targets = torch.randint(candidates, (tokens,), generator=generator)
    hidden = normal(tokens, width) + draw(st.sampled_from([0.0, 2.0, 8.0])) * head[targets]
    bias = normal(candidates) if draw(st.booleans()) else None
    return hidden, head, targets, bias, draw(st.sampled_from([None, 3.0, 30.0]))


def observe(temperature, case, own=slice(None)):
    hidden, head, targets, bias, softcap = case
    places = torch.arange(len(head)) == targets[own, None]
    temperature.observe(hidden[own], head, places, bias=bias, softcap=softcap)


@given(steps=st.lists(cases(), min_size=1, max_size=3), cut=st.integers(0, 6), size=st.sampled_from([1, 100, 2**23]))
def test_it_moves_as_the_loop_does(steps, cut, size):
    temperature, expected = Temperature.adapting(), 1.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", size)
        for case in steps:
            for part in (slice(0, cut), slice(cut, None)):
                observe(temperature, case, part)
            temperature.move()
            hidden, head, targets, bias, softcap = case
            wanted = naive_temperature(logits_of(hidden, head, bias, softcap).tolist(), targets.tolist())
            expected = 0.95 * expected + 0.05 * wanted
            assert temperature.value == pytest.approx(expected, rel=1e-9)
            assert 1.5 <= temperature.value <= 5


def test_within_its_bounds_a_target_weighs_a_quarter_of_a_normal_crowd():
    """What the formula is derived from; the pool's mean and variance take a little of the target's own logit."""
    logits = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[7] = 25.0
    temperature = Temperature.adapting()
    observe(temperature, (torch.ones(1, 1, dtype=torch.float64), logits, torch.tensor([7]), None, None))
    found = module.wanted_temperature(*temperature.sums.tolist())
    assert module.LOWEST < found < module.HIGHEST
    weights = (logits[:, 0] / found).exp()
    assert (weights[7] / (weights.sum() - weights[7])).item() == pytest.approx(module.SHARE, rel=0.03)


def test_without_a_choice_it_stays():
    temperature = Temperature.adapting()
    temperature.move()
    assert temperature.value == 1.5


def test_ranks_are_summed_before_it_moves():
    cases = [(torch.randn(3, 2), torch.randn(9, 2), torch.tensor([0, 4, 8]), None, None) for _ in range(2)]
    one, other, both = (Temperature.adapting() for _ in range(3))
    observe(one, cases[0])
    observe(other, cases[1])
    for case in cases:
        observe(both, case)
    both.move()
    one.move(lambda sums: sums + other.sums)
    assert one.value == both.value
    assert not one.sums.any()


def test_logits_that_are_no_numbers_leave_a_temperature():
    temperature = Temperature.adapting()
    observe(temperature, (torch.full((2, 3), math.nan), torch.randn(9, 3), torch.tensor([0, 1]), None, None))
    temperature.move()
    assert temperature.value == 1.5
