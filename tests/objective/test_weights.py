"""Token weights against the formula, one token at a time."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cftrec.objective import token_weights


def formula(lengths, beta):
    return [1 if last == 1 else 1 - (1 - beta) * (t - 1) / (last - 1) for last in lengths for t in range(1, last + 1)]


@given(st.lists(st.integers(0, 7), max_size=9), st.floats(0, 2))
@example([], 0.25)
@example([0, 0], 0.25)
@example([1, 0, 1], 0.0)
def test_they_follow_the_formula(lengths, beta):
    weights = token_weights(lengths, beta=beta)
    assert weights.dtype == torch.float32
    assert weights.shape == (sum(lengths),)
    torch.testing.assert_close(weights, torch.tensor(formula(lengths, beta), dtype=torch.float32))
    for part in weights.split([length for length in lengths if length]) if sum(lengths) else ():
        assert part[0] == 1
        assert part[-1].item() == pytest.approx(1 if len(part) == 1 else beta, abs=1e-7)


def test_defaults_and_known_values():
    assert token_weights([1, 2, 3]).tolist() == [1, 1, 0.25, 1, 0.625, 0.25]
    assert token_weights([4, 1], beta=1).tolist() == [1] * 5
    assert token_weights([3], beta=0).tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_a_tensor_is_as_good_as_a_list(dtype):
    lengths = [3, 0, 1, 5]
    assert torch.equal(token_weights(torch.tensor(lengths, dtype=dtype)), token_weights(lengths))
