"""The step against the published formula: the loss within 1e-6, every gradient within 1e-5, in fp32."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from step_oracle import continuations, history, naive_gradients, naive_step, naive_weights, relative_error

from cftrec.forest.backbone import choose_batching
from cftrec.forest.passes import Layout
from cftrec.objective import Temperature
from cftrec.training.collator import Samples, StepCollator
from cftrec.training.lora import add_lora
from cftrec.training.step import CFTStep
from small_shapes import HYBRIDS

WINDOW, STRIDE = 5, 2
CALL = 500  # pairs that a call of attention costs: small forests in several blocks
GEMMA = {"query_pre_attn_scalar": 8, "sliding_window": 9, "final_logit_softcapping": 2.0}
GEMMA3 = {"query_pre_attn_scalar": 8, "sliding_window": 9, "sliding_window_pattern": 2}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 24, "dropout": 0.0}
GRANITE = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 3.0}
BASE = [(kind, {}, preset, {}) for kind in ("llama", "qwen2", "gpt2") for preset in ("plain", "alpaca")]
METHOD = [
    ("qwen2", {}, "plain", {"prior_weight": 0.3}),
    ("qwen2", {}, "plain", {"detach": True}),
    ("llama", {}, "alpaca", {"detach": True, "prior_weight": 0.3}),
    ("qwen2", {}, "plain", {"effect_weight": 0.0}),
    ("qwen2", {}, "plain", {"effect_weight": 0.0, "prior_weight": 0.7}),
    ("qwen2", {}, "plain", {"effect_weight": 3.0, "prior_weight": 0.7}),
    ("qwen2", {}, "plain", {"softmax": "catalogue"}),
    ("gpt2", {}, "alpaca", {"softmax": "catalogue", "prior_weight": 0.3}),
    ("llama", {}, "plain", {"softmax": "catalogue", "effect_weight": 0.0}),
    ("llama", {}, "plain", {"denominator": 7.25}),
    ("qwen2", {}, "alpaca", {"counterfactual": "empty"}),
    ("qwen2", {}, "plain", {"counterfactual": "placeholder"}),
    ("qwen2", {}, "d3", {"max_tokens": 270}),
    ("llama", {}, "plain", {"temperature": 2.5, "prior_weight": 0.3}),
    ("qwen2", {}, "alpaca", {"softmax": "catalogue", "temperature": 0.7}),
    ("gemma2", GEMMA, "plain", {"softmax": "catalogue", "temperature": 2.5, "prior_weight": 0.3, "detach": True}),
    ("phi", {}, "plain", {"softmax": "catalogue", "temperature": 2.5, "effect_weight": 0.0}),
]
MODELS = [
    ("llama", {"tie_word_embeddings": True}, "plain", {}),
    ("qwen2", {"tie_word_embeddings": True}, "alpaca", {"prior_weight": 0.3}),
    ("gpt2", {"tie_word_embeddings": False}, "plain", {}),
    ("mistral", {"sliding_window": 9}, "plain", {}),
    ("gemma2", GEMMA, "plain", {"prior_weight": 0.3}),  # caps its logits, so the effect is no affine function
    ("gemma2", GEMMA, "plain", {"softmax": "catalogue", "detach": True}),
    ("cohere", {"logit_scale": 0.3}, "plain", {}),  # scales its logits
    ("phi", {}, "plain", {"prior_weight": 0.3}),  # has a bias in the head
    ("qwen3", {}, "plain", {}),
    ("gemma3_text", GEMMA3, "plain", {"prior_weight": 0.3}),
    ("opt", OPT, "alpaca", {}),
    ("granite", GRANITE, "plain", {"prior_weight": 0.3}),
]
PADDED = [  # the first two could run on forests
    ("llama", {}, "plain", {"prior_weight": 0.3}),
    ("gemma2", GEMMA, "alpaca", {}),
    ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "plain", {"prior_weight": 0.3}),
    ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "plain", {"softmax": "catalogue"}),
    ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "plain", {"detach": True}),
    ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "alpaca", {"softmax": "catalogue"}),
    ("qwen3_next", HYBRIDS["qwen3_next"], "plain", {}),
    ("falcon_h1", HYBRIDS["falcon_h1"], "plain", {}),  # scales its logits
    ("jamba", HYBRIDS["jamba"], "plain", {}),
]


ADAPTED = [
    ("llama", {}, "plain", {"prior_weight": 0.3}, "all-linear"),
    ("gpt2", {}, "alpaca", {}, "all-linear"),  # its layers are transposed
    ("gemma2", GEMMA, "plain", {"softmax": "catalogue"}, "all-linear"),
    ("llama", {}, "plain", {"softmax": "catalogue", "prior_weight": 0.3}, "q_proj,lm_head"),
    ("gemma2", GEMMA | {"tie_word_embeddings": False}, "plain", {"detach": True}, "v_proj,lm_head"),
    ("phi", {}, "alpaca", {}, "fc1,lm_head"),  # has a bias in the head
    ("qwen2", {}, "plain", {"effect_weight": 0.0}, "lm_head"),
    ("qwen2", {}, "plain", {"prior_weight": 0.3}, "lm_head"),
    ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "plain", {"prior_weight": 0.3}, "all-linear"),  # padded
]


def make_collator(dataset, prompt, catalogue, split="train", *, forest=True, pass_tokens=150, **options):
    return StepCollator(
        data=dataset,
        samples=Samples(dataset, split, WINDOW, STRIDE),
        prompt=prompt,
        catalogue=catalogue,
        softmax=options.get("softmax", "vocabulary"),
        beta=0.25,
        counterfactual=options.get("effect_weight", 0.1) > 0 or options.get("prior_weight", 0.0) > 0,
        layout=Layout(forest, pass_tokens, CALL),
        weighting=options.get("weighting", "linear"),
        weighted_terms=options.get("weighted_terms", "both"),
    )


def random_weights(collator, positions) -> torch.Tensor:
    """Give every weighted token of every item a weight of its own; return those of the targets, one after another."""
    table = 0.1 + torch.rand(len(collator.weights), generator=torch.Generator().manual_seed(0))
    collator.weights = table
    return table[torch.from_numpy(collator.scored.of_items(collator.data.events[positions]).values)]


def make_step(model, method):
    choose_batching(model, "auto")
    return CFTStep(
        model,
        method.get("effect_weight", 0.1),
        method.get("prior_weight", 0.0),
        method.get("detach", False),
        Temperature(method.get("temperature", 1.0)),
    )


def check(model, dataset, prompt, catalogue, batch, positions, weights, method, effect_weights=None, double=True):
    """Compare a step with the oracle in double precision; return the errors of the loss and of the gradients."""
    exact = copy.deepcopy(model).double() if double else model
    method = {name: value for name, value in method.items() if name not in ("counterfactual", "max_tokens")}
    options = {"window": WINDOW, "stride": STRIDE} | method
    effect_weights = None if effect_weights is None else effect_weights.double()
    expected = naive_step(exact, dataset, prompt, catalogue, positions, weights.double(), effect_weights, **options)
    step = make_step(model, method).train()
    found = step(batch, method.get("denominator"))
    for name, mine, theirs in zip(found._fields, found, expected, strict=True):
        counted = name in ("loss", "normal") or "counterfactual" in batch
        if counted and (name != "prior" or method.get("prior_weight")):
            assert relative_error(mine, theirs.detach()) < 1e-6, name
        else:
            assert mine.item() == 0
    found.loss.backward()
    errors, gradients = {}, naive_gradients(exact, expected.loss)
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        mine = model.get_parameter(name).grad
        mine = torch.zeros_like(gradient) if mine is None else mine
        if gradient.abs().max() < 1e-12 * largest:  # none at all but for rounding, such as of a bias of keys
            errors[name] = mine.abs().max().item() / largest
        else:
            errors[name] = relative_error(mine, gradient)
    assert max(errors.values()) < 1e-5, errors
    return relative_error(found.loss, expected.loss.detach()), max(errors.values())


@pytest.mark.parametrize(("kind", "shape", "preset", "method"), BASE + METHOD + MODELS)
def test_loss_and_gradients_are_those_of_the_published_formula(
    dataset, assembled, tiny_model, kind, shape, preset, method
):
    text = {name: method[name] for name in ("counterfactual", "max_tokens") if name in method}
    prompt, catalogue = assembled(prompt=preset, **text)
    vocabulary = int(max(catalogue.tokens.max(), *prompt.factual([]), *prompt.counterfactual())) + 3
    model = tiny_model(kind, vocabulary, **shape)
    tokens = 140 if preset == "plain" else 400
    collator = make_collator(dataset, prompt, catalogue, pass_tokens=tokens, **method)
    chosen = np.random.default_rng(0).choice(len(collator.samples), 9, replace=False)
    chosen = np.append(chosen, chosen[:1])  # a sample may come twice
    positions = collator.samples.positions[chosen].tolist()
    weights = random_weights(collator, positions)
    batch = collator(chosen.tolist())
    assert len(batch["factual"]) > 1, "the step shall take several passes"
    check(model, dataset, prompt, catalogue, batch, positions, weights, method)


@pytest.mark.parametrize(("kind", "shape", "preset", "method"), PADDED)
def test_padded_rows_give_the_same(dataset, assembled, tiny_model, kind, shape, preset, method):
    prompt, catalogue = assembled(prompt=preset)
    vocabulary = int(max(catalogue.tokens.max(), *prompt.factual([]), *prompt.counterfactual())) + 3
    collator = make_collator(dataset, prompt, catalogue, forest=False, pass_tokens=300, **method)
    chosen = np.append(np.random.default_rng(0).choice(len(collator.samples), 9, replace=False), 3)
    positions = collator.samples.positions[chosen].tolist()
    weights = random_weights(collator, positions)
    batch = collator(chosen.tolist())
    assert len(batch["factual"]) > 1
    assert sum(len(part["tokens"]) for part in batch["factual"]) == len(chosen), "every sequence is a row"
    assert all(set(part) == {"tokens", "nodes"} for part in batch["factual"] + batch["counterfactual"])
    model = tiny_model(kind, vocabulary, **shape)
    double = kind != "qwen3_next"  # whose linear attention computes in fp32 in any case, to 1.4e-5
    check(model, dataset, prompt, catalogue, batch, positions, weights, method, double=double)


@pytest.mark.parametrize("softmax", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("terms", ["both", "normal", "effect"])
@pytest.mark.parametrize("weighting", ["linear", "uniform", "information-gain"])
def test_weightings_and_the_terms_they_are_for(dataset, assembled, tiny_model, weighting, terms, softmax):
    prompt, catalogue = assembled(prompt="plain")
    counts = np.where(np.arange(len(catalogue)) % 3 == 0, 0, catalogue.counts)  # some items training has never seen
    catalogue = dataclasses.replace(catalogue, counts=counts)
    method = {"softmax": softmax, "prior_weight": 0.3}
    collator = make_collator(dataset, prompt, catalogue, weighting=weighting, weighted_terms=terms, **method)
    batch = collator(list(range(14)))
    assert len(batch["factual"]) > 1
    positions = collator.samples.positions[:14].tolist()
    weights = naive_weights(dataset, catalogue, positions, weighting, 0.25, softmax)
    if weighting == "information-gain":
        assert set(weights.tolist()) == {0.25, 1.0}
    ones = torch.ones_like(weights)
    normal, effect = {"both": (weights, weights), "normal": (weights, ones), "effect": (ones, weights)}[terms]
    model = tiny_model("llama", 310)
    check(model, dataset, prompt, catalogue, batch, positions, normal, method, effect)


@pytest.mark.parametrize(("kind", "shape", "preset", "method", "target"), ADAPTED)
def test_adapters_get_the_gradients_of_the_published_formula(
    dataset, assembled, tiny_model, small_config, kind, shape, preset, method, target
):
    prompt, catalogue = assembled(prompt=preset)
    vocabulary = int(max(catalogue.tokens.max(), *prompt.factual([]), *prompt.counterfactual())) + 3
    config = small_config(model="a folder", lora_rank=3, lora_alpha=2, lora_target=target)
    model = add_lora(tiny_model(kind, vocabulary, **shape), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # they begin with 0, where A has no gradient
                parameter.normal_(std=0.3)
    tokens = 140 if preset == "plain" else 400
    collator = make_collator(dataset, prompt, catalogue, forest=kind != "bloom", pass_tokens=tokens, **method)
    chosen = list(range(0, len(collator.samples), 4))
    positions = collator.samples.positions[chosen].tolist()
    weights = random_weights(collator, positions)
    batch = collator(chosen)
    assert len(batch["factual"]) > 1, "the step shall take several passes"
    check(model, dataset, prompt, catalogue, batch, positions, weights, method)
    assert all((parameter.grad is not None) == ("lora_" in name) for name, parameter in model.named_parameters())


def first_logits(model, dataset, prompt, catalogue, positions):
    """For each target, at the first place where the catalogue leaves a choice: its logit and all candidates'."""
    sequences = [tuple(catalogue.sequence(item).tolist()) for item in range(len(catalogue))]
    found = []
    for position in positions:
        target = sequences[int(dataset.events[position])]
        place = next(place for place in range(len(target)) if len(continuations(sequences, target[:place])) > 1)
        seen = [np.array(sequences[item]) for item in history(dataset, position, WINDOW, STRIDE)]
        before = prompt.factual(seen, max(map(len, sequences))).tolist()
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*before, *target[:place]]]), use_cache=False).logits[0, -1]
        found.append((logits[target[place]].item(), logits[continuations(sequences, target[:place])].tolist()))
    return found


@pytest.mark.parametrize(
    ("kind", "shape", "preset", "batching"),
    [
        ("llama", {}, "plain", "forest"),
        ("qwen2", {}, "alpaca", "forest"),
        ("gemma2", GEMMA, "plain", "forest"),
        ("phi", {}, "plain", "padded"),
    ],
)
@pytest.mark.parametrize("effect_weight", [0.1, 0.0])
def test_an_adaptive_temperature_sees_every_titles_first_choice(
    dataset, assembled, tiny_model, kind, shape, preset, batching, effect_weight
):
    prompt, catalogue = assembled(prompt=preset)
    vocabulary = int(max(catalogue.tokens.max(), *prompt.factual([]), *prompt.counterfactual())) + 3
    model = tiny_model(kind, vocabulary, **shape)
    tokens = 140 if preset == "plain" else 400
    method = {"softmax": "catalogue", "effect_weight": effect_weight}
    collator = make_collator(dataset, prompt, catalogue, forest=batching == "forest", pass_tokens=tokens, **method)
    step = make_step(model, method).train()
    step.temperature = Temperature.adapting()
    chosen = [7, 0, 3, 7, 21, 20, 12, 5]
    batches = [collator(chosen), collator(chosen[:3])]
    assert len(batches[0]["factual"]) > 1
    for batch in batches:
        step(batch)
    positions = collator.samples.positions[chosen].tolist()
    found = first_logits(copy.deepcopy(model).double(), dataset, prompt, catalogue, positions)
    found += found[:3]
    pool = torch.tensor([value for _, logits in found for value in logits], dtype=torch.float64)
    expected = [len(found), sum(own for own, _ in found), len(pool), pool.sum(), pool.square().sum()]
    assert step.temperature.sums.tolist() == pytest.approx([float(value) for value in expected], rel=1e-5, abs=1e-5)
    assert step.temperature.value == 1.5, "only the end of the step moves it"


def test_where_every_title_begins_alike_the_first_choice_is_the_next_token(dataset, assembled, tiny_model):
    from cftrec.text import Catalogue

    prompt, catalogue = assembled(prompt="plain")
    sequences = [[1, 2, *catalogue.sequence(item).tolist()] for item in range(len(catalogue))]
    names = [str(item) for item in range(len(catalogue))]
    later = Catalogue.build(names, names, [np.array(sequence, dtype=np.int32) for sequence in sequences])
    model, sums = tiny_model("llama", 310), []
    for known in (catalogue, later):
        collator = make_collator(dataset, prompt, known, softmax="catalogue")
        step = make_step(model, {}).train()
        step.temperature = Temperature.adapting()
        step(collator(list(range(8))))
        sums.append(step.temperature.sums.tolist())
        found = first_logits(model, dataset, prompt, known, collator.samples.positions[:8].tolist())
        assert sums[-1][1] == pytest.approx(sum(own for own, _ in found), rel=1e-4, abs=1e-4)
    assert [sums[0][0], sums[0][2]] == [sums[1][0], sums[1][2]]
    assert sums[0] != sums[1]


def test_without_gradients_the_temperature_is_one_and_stays(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain")
    batch = make_collator(dataset, prompt, catalogue, softmax="catalogue")(list(range(9)))
    model = tiny_model("llama", 310)
    plain, step = make_step(model, {"prior_weight": 0.2}).eval(), make_step(model, {"prior_weight": 0.2})
    step.temperature = Temperature.adapting()
    with torch.no_grad():
        found = [step.eval()(batch), step.train()(batch)]
    assert [[value.item() for value in losses] for losses in found] == [[v.item() for v in plain(batch)]] * 2
    assert not step.temperature.sums.any()
    assert step.train()(batch).loss.item() != found[0].loss.item()


def test_a_share_of_lambda_is_a_smaller_lambda_in_training_alone(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain")
    batch = make_collator(dataset, prompt, catalogue)(list(range(9)))
    found = []
    for weight, share in ((0.4, 0.25), (0.1, 1.0)):
        step = make_step(tiny_model("llama", 310), {"effect_weight": weight}).train()
        step.effect_share = share
        losses = step(batch)
        losses.loss.backward()
        found.append([losses.loss, *(value.grad for value in step.parameters())])
        step.eval()
        evaluated = step(batch)
        assert evaluated.loss.item() == pytest.approx((evaluated.normal + weight * evaluated.effect).item(), rel=1e-6)
    torch.testing.assert_close(*found)


def test_a_temperature_makes_no_number_of_nothing(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain")
    batch = make_collator(dataset, prompt, catalogue, softmax="catalogue")(list(range(6)))
    batch["weights"] = torch.zeros_like(batch["weights"])
    step = make_step(tiny_model("llama", 310), {"temperature": 5.0, "effect_weight": 9.0, "prior_weight": 9.0}).train()
    losses = step(batch)
    losses.loss.backward()
    assert [value.item() for value in losses] == [0, 0, 0, 0]
    assert all(p.grad is None or not p.grad.any() for p in step.parameters())


def test_several_counterfactual_passes(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain", counterfactual="placeholder")
    collator = make_collator(dataset, prompt, catalogue, pass_tokens=25)
    positions = collator.samples.positions[:12].tolist()
    weights = random_weights(collator, positions)
    batch = collator(list(range(12)))
    assert len(batch["counterfactual"]) > 1
    check(tiny_model("llama", 310), dataset, prompt, catalogue, batch, positions, weights, {"prior_weight": 0.2})


@pytest.mark.parametrize("split", ["validation", "test"])
def test_samples_with_an_empty_history(dataset, assembled, tiny_model, split):
    """Under a split by time, or with one event alone, a target has no history; both branches then agree in `plain`."""
    prompt, catalogue = assembled(prompt="plain")
    collator = make_collator(dataset, prompt, catalogue, split)
    numbers = list(range(5))
    positions = collator.samples.positions[:5].tolist()
    firsts = set(dataset.offsets[:-1].tolist())
    assert firsts & set(positions)
    weights = random_weights(collator, positions)
    batch = collator(numbers)
    check(tiny_model("gpt2", 310), dataset, prompt, catalogue, batch, positions, weights, {})


def test_weights_overwritten_in_the_batch(dataset, assembled, tiny_model):
    """Weights that depend on the target token alone can be put into a finished batch, whatever its order."""
    prompt, catalogue = assembled(prompt="plain")
    collator = make_collator(dataset, prompt, catalogue)
    batch = collator(list(range(8)))
    table = torch.rand(320, generator=torch.Generator().manual_seed(3))
    batch["weights"] = table[batch["targets"]]
    positions = collator.samples.positions[:8].tolist()
    targets = np.concatenate([catalogue.sequence(int(dataset.events[position])) for position in positions])
    check(tiny_model("qwen2", 310), dataset, prompt, catalogue, batch, positions, table[targets.astype(np.int64)], {})


def test_passes_are_a_matter_of_memory_alone(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain")
    results = []
    for pass_tokens in (100_000, 150, 1):
        model = tiny_model("llama", 310)
        batch = make_collator(dataset, prompt, catalogue, pass_tokens=pass_tokens)(list(range(9)))
        losses = make_step(model, {"prior_weight": 0.2}).train()(batch)
        losses.loss.backward()
        results.append((len(batch["factual"]), losses, {n: p.grad for n, p in model.named_parameters()}))
    assert results[0][0] == 1 < results[1][0] < results[2][0] == 9
    for _, losses, gradients in results[1:]:
        for mine, theirs in zip(losses, results[0][1], strict=True):
            assert relative_error(mine, theirs) < 1e-6
        for name, gradient in gradients.items():
            assert relative_error(gradient, results[0][2][name]) < 1e-5, name


def test_evaluation_gives_the_same_losses_without_gradients(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain")
    batch = make_collator(dataset, prompt, catalogue)(list(range(9)))
    step = make_step(tiny_model("llama", 310), {"prior_weight": 0.2})
    training = step.train()(batch)
    for silent in (step.eval()(batch), step.train()(batch)):
        for mine, theirs in zip(silent, training, strict=True):
            assert relative_error(mine, theirs) < 1e-6
    with torch.no_grad():
        assert not step.train()(batch).loss.requires_grad
    assert all(parameter.grad is None for parameter in step.parameters())
    (3 * training.loss).backward()
    tripled = {name: p.grad.clone() for name, p in step.named_parameters()}
    step.zero_grad()
    step.train()(batch).loss.backward()
    for name, parameter in step.named_parameters():
        assert relative_error(tripled[name], 3 * parameter.grad) < 1e-6


def test_frozen_parameters_get_no_gradient(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain")
    batch = make_collator(dataset, prompt, catalogue)(list(range(6)))
    free, frozen = tiny_model("llama", 310), tiny_model("llama", 310)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_("layers.1" in name)
    for model in (free, frozen):
        make_step(model, {}).train()(batch).loss.backward()
    for name, parameter in frozen.named_parameters():
        if parameter.requires_grad:
            assert relative_error(parameter.grad, free.get_parameter(name).grad) < 1e-6
        else:
            assert parameter.grad is None


def test_a_catalogue_without_any_choice_is_a_loss_of_zero(dataset, assembled, tiny_model):
    from cftrec.text import Catalogue

    prompt, catalogue = assembled(prompt="plain")
    alone = Catalogue.build(["i"] * len(catalogue), ["t"] * len(catalogue), [catalogue.sequence(0)] * len(catalogue))
    batch = make_collator(dataset, prompt, alone, softmax="catalogue")(list(range(4)))
    assert len(batch["targets"]) == 0
    step = make_step(tiny_model("llama", 310), {"prior_weight": 0.2}).train()
    losses = step(batch)
    losses.loss.backward()
    assert [value.item() for value in losses] == [0, 0, 0, 0]
    assert all(p.grad is None or not p.grad.any() for p in step.parameters())


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "gemma2"])
@pytest.mark.parametrize("rank", [0, 3])
def test_checkpointing_changes_nothing(dataset, assembled, tiny_model, small_config, kind, rank):
    prompt, catalogue = assembled(prompt="plain")
    batch = make_collator(dataset, prompt, catalogue)(list(range(6)))
    gradients, calls = [], []
    for enable in (None, CFTStep.activation_checkpointing_enable, CFTStep.gradient_checkpointing_enable):
        model = tiny_model(kind, 310, **(GEMMA if kind == "gemma2" else {}))
        model = add_lora(model, small_config(model="a folder", lora_rank=rank)) if rank else model
        step = make_step(model, {}).train()
        if enable:
            enable(step)
        calls.append(0)
        mlp = next(layer for name, layer in model.named_modules() if name.endswith("mlp"))
        mlp.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1))
        step(batch).loss.backward()
        gradients.append({name: p.grad for name, p in step.named_parameters() if p.requires_grad})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            assert relative_error(other[name], gradient) < 1e-6, name
    assert calls[1:] == [2 * calls[0]] * 2
