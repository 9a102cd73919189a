"""The loss on hidden states against full logits: values, and the gradient of each part for each input."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cftrec.objective import CFTLoss, cft_loss, weighted_cross_entropy
from cftrec.objective import loss as module
from cftrec.objective.loss import Choices


def naive(
    factual,
    counterfactual,
    head,
    bias,
    targets,
    weights,
    *,
    effect_weights,
    softcap,
    denominator,
    lam,
    allowed,
    temperature=1.0,
):
    """The published formula on full logits; tokens outside `allowed` [N, V] count for nothing."""

    def logits(hidden):
        values = hidden @ head.T if bias is None else hidden @ head.T + bias
        return values if softcap is None else softcap * torch.tanh(values / softcap)

    def cross_entropy(values):
        values = (values / temperature).masked_fill(~allowed, -torch.inf)
        return -values.log_softmax(1)[torch.arange(len(targets)), targets]

    shown, unshown = logits(factual), logits(counterfactual)
    total = weights.sum() if denominator is None else denominator
    total = 1 if denominator is None and total == 0 else total  # nothing to weigh: 0, not 0/0
    normal = (weights * cross_entropy(shown)).sum() / total
    effect = ((weights if effect_weights is None else effect_weights) * cross_entropy(shown - unshown)).sum() / total
    return CFTLoss(normal + lam * effect, normal, effect)


def gradients(output, inputs):
    """The gradient for each input, zeros where there is none."""
    found = torch.autograd.grad(output, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def assert_close(found, expected, tolerance, what, scale=0.0):
    """The largest difference beside the largest entry; `scale` bounds the terms an entry is summed from."""
    error = (found.double() - expected).abs().max().item() if expected.numel() else 0
    largest = expected.abs().max().item() if expected.numel() else 0
    rounding = max(4 * torch.finfo(found.dtype).eps, tolerance / 10)
    assert error <= tolerance * largest + rounding * scale, f"{what}: {error:.2g}, {largest:.2g}"


@st.composite
def cases(draw):
    """Random inputs in float64, and the keyword arguments of the loss."""
    count, width, vocabulary = draw(st.integers(0, 7)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.3, 1.0, 4.0]))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    tensors = {
        "factual": scale * normal(count, width),
        "counterfactual": scale * normal(count, width),
        "head": normal(vocabulary, width),
        "bias": normal(vocabulary) if draw(st.booleans()) else None,
    }
    targets = torch.randint(vocabulary, (count,), generator=generator)
    allowed = torch.ones(count, vocabulary, dtype=torch.bool)
    if draw(st.booleans()):
        allowed = uniform(count, vocabulary) < draw(st.sampled_from([0.0, 0.3, 0.8]))
        allowed[torch.arange(count), targets] = True
    weights = uniform(count) * (uniform(count) < draw(st.sampled_from([0.5, 1.0])))
    options = {
        "effect_weights": uniform(count) if draw(st.booleans()) else None,
        "softcap": draw(st.sampled_from([None, None, 0.7, 5.0])),
        "denominator": draw(st.sampled_from([None, 2.5, torch.tensor(3.5)])),
        "lam": draw(st.sampled_from([0.0, 0.1, 7.0])),
        "temperature": draw(st.sampled_from([1.0, 0.4, 3.7])),
    }
    return tensors, targets, weights, allowed, options


def choices_of(allowed):
    rows = [row.nonzero()[:, 0] for row in allowed]
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return Choices(offsets, torch.cat([torch.empty(0, dtype=torch.int64), *rows]))


def run(case, dtype, chunk_size, function=None):
    """Return the inputs that need gradients, and the three losses."""
    tensors, targets, weights, allowed, options = case
    inputs = {n: None if x is None else x.to(dtype).clone().requires_grad_() for n, x in tensors.items()}
    effect_weights = options["effect_weights"]
    effect_weights = None if effect_weights is None else effect_weights.to(dtype)
    if function is naive:
        return inputs, naive(*inputs.values(), targets, weights, **options | {"allowed": allowed})
    result = cft_loss(
        inputs["factual"],
        inputs["counterfactual"],
        inputs["head"],
        targets,
        weights.to(dtype),
        effect_weight=options["lam"],
        effect_weights=effect_weights,
        bias=inputs["bias"],
        softcap=options["softcap"],
        denominator=options["denominator"],
        chunk_size=chunk_size,
        choices=None if allowed.all() else choices_of(allowed),
        temperature=options["temperature"],
    )
    return inputs, result


def largest_logit(inputs):
    """Return the largest |f(x_h)| + |f(x_0)|, without a bias."""
    sides = [inputs[name] for name in ("factual", "counterfactual") if inputs[name] is not None]
    logits = sum((side @ inputs["head"].T).abs() for side in sides)
    return logits.max().item() if logits.numel() else 0.0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@given(case=cases(), chunk_size=st.sampled_from([1, 3, None]))
@settings(max_examples=100)
def test_values_and_gradients_are_those_of_full_logits(dtype, tolerance, case, chunk_size):
    """Logits are kept for backward where no size of chunks is given, else formed again."""
    rounded = {name: None if x is None else x.to(dtype).double() for name, x in case[0].items()}
    effect_weights = case[4]["effect_weights"]
    effect_weights = None if effect_weights is None else effect_weights.to(dtype).double()
    options = case[4] | {"effect_weights": effect_weights}
    case = (rounded, case[1], case[2].to(dtype).double(), case[3], options)
    inputs, found = run(case, dtype, chunk_size)
    oracle, expected = run(case, torch.float64, chunk_size, naive)
    given_inputs = [x for x in inputs.values() if x is not None]
    oracle_inputs = [x for x in oracle.values() if x is not None]
    names = [name for name, x in inputs.items() if x is not None]
    # A probability near 1 less 1 keeps the rounding of 1, times a hidden state or a row of the head.
    # So it does with that of the largest logit, from which its normaliser is taken; 4 eps are of a logit of 4.
    # A temperature below 1 enlarges both.
    scale = max([1.0, *(x.abs().max().item() for x in oracle_inputs if x.numel())])
    scale *= max(1.0, largest_logit(oracle) / 4)
    scale *= (1 + options["lam"]) / min(1, options["temperature"])
    for part in CFTLoss._fields:
        value = getattr(found, part)
        assert value.shape == ()
        assert value.dtype == dtype
        assert_close(value, getattr(expected, part).detach(), tolerance, part, scale)
        pairs = zip(gradients(value, given_inputs), gradients(getattr(expected, part), oracle_inputs), strict=True)
        for name, (mine, theirs) in zip(names, pairs, strict=True):
            assert mine.dtype == dtype
            assert_close(mine, theirs, tolerance, f"gradient of {part} for {name}", scale)


def example(count=6, width=4, vocabulary=9, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    factual, counterfactual = (torch.randn(count, width, generator=generator, dtype=dtype) for _ in range(2))
    head = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    weights = torch.rand(count, generator=generator, dtype=dtype)
    return factual, counterfactual, head, targets, weights


def test_the_defaults_are_the_authors():
    inputs = example()
    loss = cft_loss(*inputs)
    torch.testing.assert_close(loss.total, loss.normal + 0.1 * loss.effect)
    explicit = cft_loss(*inputs, effect_weight=0.1, effect_weights=inputs[4], denominator=inputs[4].sum())
    torch.testing.assert_close(explicit, loss)


def test_parts_of_a_step_add_up():
    factual, counterfactual, head, targets, weights = example(count=11)
    whole = cft_loss(factual, counterfactual, head, targets, weights)
    parts = [
        cft_loss(
            *(x[own] for x in (factual, counterfactual)), head, targets[own], weights[own], denominator=weights.sum()
        )
        for own in (slice(0, 4), slice(4, 4), slice(4, 11))
    ]
    for name in CFTLoss._fields:
        torch.testing.assert_close(sum(getattr(part, name) for part in parts), getattr(whole, name))


def test_a_detached_counterfactual_gets_no_gradient_and_changes_no_value():
    factual, counterfactual, head, targets, weights = example(dtype=torch.float64)
    factual.requires_grad_(), counterfactual.requires_grad_(), head.requires_grad_()
    found = cft_loss(factual, counterfactual.detach(), head, targets, weights, effect_weight=2.0)
    logits = factual @ head.T
    change = logits - counterfactual.detach() @ head.T
    rows = torch.arange(len(targets))
    terms = [-values.log_softmax(1)[rows, targets] @ weights / weights.sum() for values in (logits, change)]
    expected = terms[0] + 2 * terms[1]
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(gradients(found.total, [factual, head]), gradients(expected, [factual, head]))
    assert torch.autograd.grad(found.total, counterfactual, allow_unused=True) == (None,)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_fixed_logits_of_the_counterfactual(softcap, few, temperature):
    """f(x_0) is a constant: it trains neither the hidden states, nor the head, nor the bias."""
    factual, counterfactual, head, targets, weights = example(dtype=torch.float64)
    bias = torch.linspace(-1, 1, 9, dtype=torch.float64)
    allowed = torch.ones(6, 9, dtype=torch.bool)
    if few:
        allowed[:, ::2] = False
        allowed[torch.arange(6), targets] = True
    inputs = [x.requires_grad_() for x in (factual, counterfactual, head, bias)]
    found = cft_loss(
        *inputs[:3],
        targets,
        weights,
        bias=bias,
        softcap=softcap,
        chunk_size=4,
        choices=choices_of(allowed) if few else None,
        fixed_counterfactual=True,
        temperature=temperature,
    )

    def logits(hidden):
        values = hidden @ head.T + bias
        return values if softcap is None else softcap * torch.tanh(values / softcap)

    change = (logits(factual) - logits(counterfactual).detach()).masked_fill(~allowed, -torch.inf)
    effect = -(change / temperature).log_softmax(1)[torch.arange(6), targets] @ weights / weights.sum()
    torch.testing.assert_close(found.effect, effect)
    torch.testing.assert_close(gradients(found.effect, inputs), gradients(effect, inputs))
    assert not gradients(found.total, inputs)[1].any()


def test_one_tensor_may_be_both_branches():
    hidden, _, head, targets, weights = example(dtype=torch.float64)
    hidden.requires_grad_()
    loss = cft_loss(hidden, hidden, head, targets, weights)
    assert loss.effect.item() == pytest.approx(math.log(9))  # no difference: uniform
    (gradient,) = torch.autograd.grad(loss.effect, hidden)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize(
    "choices", [None, Choices(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))]
)
@pytest.mark.parametrize("denominator", [None, 2.0])
def test_no_token_is_a_loss_of_zero(choices, denominator):
    inputs = [x.requires_grad_() for x in (torch.zeros(0, 3), torch.zeros(0, 3), torch.randn(5, 3))]
    empty = torch.zeros(0)
    loss = cft_loss(*inputs, empty.long(), empty, denominator=denominator, choices=choices)
    assert [value.item() for value in loss] == [0, 0, 0]
    for gradient, x in zip(gradients(loss.total, inputs), inputs, strict=True):
        assert torch.equal(gradient, torch.zeros_like(x))
    assert weighted_cross_entropy(inputs[0], inputs[2], empty.long(), empty, choices=choices).item() == 0


def test_weights_of_zero_are_a_loss_of_zero():
    factual, counterfactual, head, targets, _ = example()
    loss = cft_loss(factual.requires_grad_(), counterfactual, head, targets, torch.zeros(6), effect_weight=9.0)
    assert [value.item() for value in loss] == [0, 0, 0]
    assert torch.equal(torch.autograd.grad(loss.total, factual)[0], torch.zeros_like(factual))


@pytest.mark.parametrize("scale", [1e3, 1e8, 1e15])
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("few", [False, True])
def test_huge_logits_are_finite_and_right(scale, softcap, few):
    factual, counterfactual, head, targets, weights = example()
    allowed = torch.ones(6, 9, dtype=torch.bool)
    if few:
        allowed[:, ::2] = False
        allowed[torch.arange(6), targets] = True
    inputs = [(scale * factual).requires_grad_(), (scale * counterfactual).requires_grad_(), head.requires_grad_()]
    loss = cft_loss(
        *inputs, targets, weights, softcap=softcap, choices=choices_of(allowed) if few else None, chunk_size=4
    )
    wide = [x.detach().double().requires_grad_() for x in inputs]
    options = {"effect_weights": None, "softcap": softcap, "denominator": None, "lam": 0.1, "allowed": allowed}
    expected = naive(*wide, None, targets, weights.double(), **options)
    for part in CFTLoss._fields:
        assert getattr(loss, part).item() == pytest.approx(getattr(expected, part).item(), rel=1e-5)
        for mine in gradients(getattr(loss, part), inputs):
            assert mine.isfinite().all()
    for mine, theirs in zip(gradients(loss.total, inputs), gradients(expected.total, wide), strict=True):
        assert_close(mine, theirs, 1e-4, "gradient", 1)


def test_a_forced_token_costs_nothing():
    factual, counterfactual, head, targets, weights = example()
    factual.requires_grad_()
    loss = cft_loss(factual, counterfactual, head, targets, weights, choices=Choices(torch.arange(7), targets))
    assert [value.item() for value in loss] == [0, 0, 0]
    assert torch.equal(torch.autograd.grad(loss.total, factual)[0], torch.zeros_like(factual))


def test_all_tokens_as_choices_are_the_vocabulary():
    inputs = example(dtype=torch.float64)
    everything = Choices(9 * torch.arange(7), torch.arange(9).repeat(6))
    torch.testing.assert_close(cft_loss(*inputs, choices=everything), cft_loss(*inputs))


@given(case=cases(), chunk_size=st.sampled_from([1, 3, None]))
def test_weighted_cross_entropy(case, chunk_size):
    tensors, targets, weights, allowed, options = case
    inputs = [None if tensors[n] is None else tensors[n].requires_grad_() for n in ("factual", "head", "bias")]
    hidden, head, bias = inputs
    found = weighted_cross_entropy(
        hidden,
        head,
        targets,
        weights,
        bias=bias,
        softcap=options["softcap"],
        chunk_size=chunk_size,
        choices=None if allowed.all() else choices_of(allowed),
        temperature=options["temperature"],
    )
    zeros = torch.zeros_like(hidden)
    changed = options | {"denominator": 1.0, "allowed": allowed, "effect_weights": None}
    expected = naive(hidden, zeros, head, bias, targets, weights, **changed).normal
    present = [x for x in inputs if x is not None]
    assert_close(found, expected.detach(), 1e-12, "value", 10)
    for mine, theirs in zip(gradients(found, present), gradients(expected, present), strict=True):
        assert_close(mine, theirs, 1e-12, "gradient", 10)


def test_strided_inputs_and_integer_denominators():
    factual, counterfactual, head, targets, weights = example(dtype=torch.float64)
    strided = [x.T.contiguous().T for x in (factual, counterfactual, head)]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(
        cft_loss(*strided, targets, weights.repeat_interleave(2)[::2], denominator=2),
        cft_loss(factual, counterfactual, head, targets, weights, denominator=2.0),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("apart", [False, True])
def test_narrow_weights_make_no_gradient_narrow(dtype, apart):
    *inputs, targets, weights = example(dtype=torch.float64)
    inputs, weights = [value.requires_grad_() for value in inputs], weights.to(dtype)

    def found(kind):
        options = {"effect_weights": (weights / 2).to(kind) if apart else None, "denominator": 3.0}
        return gradients(cft_loss(*inputs, targets, weights.to(kind), **options).total, inputs)

    for narrow, wide in zip(found(dtype), found(torch.float64), strict=True):
        torch.testing.assert_close(narrow, wide, rtol=1e-12, atol=1e-12)


def test_inputs_stay_as_they_were_and_backward_runs_twice():
    inputs = [x.requires_grad_(x.is_floating_point()) for x in example()[:4]]
    weights = torch.rand(6)
    before = [x.clone() for x in (*inputs, weights)]
    loss = cft_loss(*inputs, weights, bias=torch.ones(9), softcap=2.0)
    first, second = (gradients(loss.total, inputs[:3]) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, before, (*inputs, weights)))


class Sizes(TorchDispatchMode):
    """Records the most numbers in any tensor that an operation returns."""

    largest = 0

    def seen(self, value):
        return True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and self.seen(value):
                self.largest = max(self.largest, value.numel())
        return result


def test_a_second_derivative_is_refused_and_not_taken_for_zero():
    hidden, other, head = (torch.randn(shape, requires_grad=True) for shape in [(3, 4), (3, 4), (5, 4)])
    loss = cft_loss(hidden, other, head, torch.tensor([0, 4, 2]), torch.ones(3)).total
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, hidden, create_graph=True)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("by_bytes", [False, True])
def test_no_tensor_of_all_tokens_by_the_vocabulary(monkeypatch, softcap, few, by_bytes):
    count, width, vocabulary, chunk = 64, 4, 500, 4
    factual, counterfactual, head, targets, weights = example(count, width, vocabulary)
    inputs = [x.requires_grad_() for x in (factual, counterfactual, head)]
    if by_bytes:
        monkeypatch.setattr(module, "CHUNK_BYTES", 4 * vocabulary * chunk)
        monkeypatch.setattr(module, "KEPT_BYTES", 4 * vocabulary * chunk)
    allowed = torch.rand(count, vocabulary) < 0.02
    allowed[torch.arange(count), targets] = True
    choices = choices_of(allowed) if few else None
    with Sizes() as sizes:
        size = None if by_bytes else chunk
        loss = cft_loss(*inputs, targets, weights, softcap=softcap, chunk_size=size, choices=choices)
        torch.autograd.grad(loss.total, inputs)
    assert 0 < sizes.largest <= max(chunk * vocabulary, vocabulary * width) < count * vocabulary / 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_beside_the_gradient_of_the_head_nothing_grows_with_the_vocabulary(monkeypatch, dtype):
    class Others(Sizes):
        def seen(self, value):
            return value.shape != head.shape

    budget = 4096
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * budget)
    monkeypatch.setattr(module, "KEPT_BYTES", 4 * budget)
    for vocabulary in (500, 5000, 50_000):
        factual, counterfactual, head, targets, weights = example(32, 8, vocabulary)
        inputs = [x.to(dtype).requires_grad_() for x in (factual, counterfactual, head)]
        with Others() as sizes, torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
            loss = cft_loss(*inputs, targets, weights)
            torch.autograd.grad(loss.total, inputs)
        assert 0 < sizes.largest <= budget


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (3,), (2, 3), (0, 1)])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_frozen_inputs_get_no_gradient_and_change_no_other(frozen, softcap):
    *tensors, targets, weights = example(dtype=torch.float64)
    tensors.append(torch.linspace(-1, 1, 9, dtype=torch.float64))

    def found(fixed):
        inputs = [x.clone().requires_grad_(n not in fixed) for n, x in enumerate(tensors)]
        cft_loss(*inputs[:3], targets, weights, bias=inputs[3], softcap=softcap).total.backward()
        return [x.grad for x in inputs]

    for n, (mine, whole) in enumerate(zip(found(frozen), found(()), strict=True)):
        torch.testing.assert_close(mine, None if n in frozen else whole)


@pytest.mark.parametrize("autocast", [True, False])
def test_in_bf16_the_gradient_of_the_head_does_not_depend_on_the_chunks(autocast):
    factual, counterfactual, head, targets, weights = example(count=600, width=16, vocabulary=20)
    if not autocast:
        factual, counterfactual, head = (x.bfloat16() for x in (factual, counterfactual, head))
    exact = [x.double().requires_grad_() for x in (factual, counterfactual, head)]
    expected = gradients(cft_loss(*exact, targets, weights.double()).total, exact)
    for chunk_size in (1, 600):
        inputs = [x.clone().requires_grad_() for x in (factual, counterfactual, head)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = cft_loss(*inputs, targets, weights, chunk_size=chunk_size)
        assert loss.total.dtype == torch.float32
        for mine, theirs, x in zip(gradients(loss.total, inputs), expected, inputs, strict=True):
            assert mine.dtype == x.dtype
            assert_close(mine, theirs, 0.02, f"chunks of {chunk_size}")


def test_in_bf16_a_small_effect_survives():
    factual, _, head, targets, weights = example(count=40, width=16)
    factual = 100 * factual
    counterfactual = factual - 0.05 * torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    exact = cft_loss(*(x.double() for x in (factual, counterfactual, head)), targets, weights.double()).effect
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cft_loss(factual, counterfactual, head, targets, weights).effect
    assert abs(found.item() - math.log(9)) > 1e-3, "the effect is not nothing"
    assert found.item() == pytest.approx(exact.item(), abs=1e-3)


@pytest.mark.parametrize("targets", [[1, 2, -100], [1, 2, 20], [1, 2], [[1, 2, 3]]])
def test_targets_that_are_none_are_refused(targets):
    hidden, head = torch.randn(3, 4), torch.randn(20, 4)
    with pytest.raises(ValueError, match="targets"):
        cft_loss(hidden, hidden, head, torch.tensor(targets), torch.ones(3))
    with pytest.raises(ValueError, match="targets"):
        weighted_cross_entropy(hidden, head, torch.tensor(targets), torch.ones(3))


def test_other_arguments_that_do_not_fit_are_refused():
    hidden, head, targets = torch.randn(3, 4), torch.randn(20, 4), torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="weights"):
        cft_loss(hidden, hidden, head, targets, torch.ones(1))
    with pytest.raises(ValueError, match="counterfactual"):
        cft_loss(hidden, hidden[:1], head, targets, torch.ones(3))
    with pytest.raises(ValueError, match="chunk_size"):
        cft_loss(hidden, hidden, head, targets, torch.ones(3), chunk_size=0)
    for other in (4, 1):
        with pytest.raises(ValueError, match="effect_weights"):
            cft_loss(hidden, hidden, head, targets, torch.ones(3), effect_weights=torch.ones(other))
        for loss in (partial(cft_loss, hidden), weighted_cross_entropy):
            with pytest.raises(ValueError, match="bias"):
                loss(hidden, head, targets, torch.ones(3), bias=torch.zeros(other))
            with pytest.raises(ValueError, match="head"):
                loss(hidden, head[:, : other - 1], targets, torch.ones(3))
            with pytest.raises(ValueError, match="softcap"):
                loss(hidden, head, targets, torch.ones(3), softcap=0.0)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            cft_loss(hidden, hidden, head, targets, torch.ones(3), temperature=temperature)
        with pytest.raises(ValueError, match="temperature"):
            weighted_cross_entropy(hidden, head, targets, torch.ones(3), temperature=temperature)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_targets_of_any_integer_type(dtype):
    hidden, other, head = torch.randn(3, 4), torch.randn(3, 4), torch.randn(20, 4)
    targets = torch.tensor([1, 19, 3])
    expected = cft_loss(hidden, other, head, targets, torch.ones(3))
    assert cft_loss(hidden, other, head, targets.to(dtype), torch.ones(3)) == expected
