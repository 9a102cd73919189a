"""Models on forests: what a forest gives is what each sequence gives alone; models that cannot are refused."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from cftrec.errors import InputError
from cftrec.forest import build_forest
from cftrec.forest.backbone import choose_batching, forest_hidden, head_of
from cftrec.forest.rows import cut_blocks
from small_shapes import HYBRIDS

GEMMA = {"query_pre_attn_scalar": 8}
MODELS = {
    "llama": ("llama", {}),
    "llama, eager": ("llama", {"attn_implementation": "eager"}),
    "qwen2": ("qwen2", {}),
    "qwen2, window in one layer": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen2, window in all layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
    "gpt2": ("gpt2", {}),
    "mistral": ("mistral", {"sliding_window": 4}),
    "mistral, eager": ("mistral", {"sliding_window": 4, "attn_implementation": "eager"}),
    "gemma2": ("gemma2", {"sliding_window": 4, "final_logit_softcapping": 3.0, **GEMMA}),
    "gemma3": ("gemma3_text", {"sliding_window": 4, "sliding_window_pattern": 2, **GEMMA}),
    "cohere, scaled logits": ("cohere", {"logit_scale": 0.3}),
    "granite, scaled logits": ("granite", {"logits_scaling": 3.0}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 24}),
    "phi, a bias in the head": ("phi", {}),
}
LENGTHS = [(30, 8), (30, 1), (22, 12), (5, 40), (0, 20), (12, 3)]  # of the trunk shared, and of the tail


def branching() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    trunk = rng.integers(1, 97, 30)
    return [np.concatenate([trunk[:cut], rng.integers(1, 97, tail)]) for cut, tail in LENGTHS]


def hidden_of(model, forest, call: int = 0):
    """The hidden states [L, H] of a forest, with attention in blocks of 32 nodes or so."""
    arrays = (forest.depth, forest.end, cut_blocks(forest.depth, call))
    return forest_hidden(model, torch.from_numpy(forest.tokens)[None], *map(torch.from_numpy, arrays))[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_forest_gives_what_each_sequence_gives_alone(tiny_model, name):
    kind, options = MODELS[name]
    model = tiny_model(kind, **options).eval()
    choose_batching(model, "forest")
    sequences = branching()
    forest = build_forest(sequences)
    head = head_of(model)
    with torch.no_grad():
        hidden = hidden_of(model, forest)
        logits = torch.nn.functional.linear(hidden, head.weight, head.bias)
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        model.set_attn_implementation("eager" if "eager" in name or kind == "gemma2" else "sdpa")
        for sequence, path in zip(sequences, forest.paths, strict=True):
            alone = model(input_ids=torch.from_numpy(sequence)[None], use_cache=False).logits[0]
            assert (logits[path] - alone).abs().max() <= 5e-6 * alone.abs().max()


@pytest.mark.parametrize(
    ("kind", "target"), [("llama", "all-linear"), ("llama", ["q_proj", "lm_head"]), ("gpt2", "all-linear")]
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_a_model_with_adapters_on_a_forest(tiny_model, kind, target):
    """Also one that a user has made with PEFT; a trained head is W + scaling * B A."""
    model = get_peft_model(tiny_model(kind), LoraConfig(r=2, target_modules=target, init_lora_weights=False)).eval()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    choose_batching(model, "forest")
    assert frozen == [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    sequence = branching()[0]
    forest = build_forest([sequence])
    with torch.no_grad():
        logits = torch.nn.functional.linear(hidden_of(model, forest), head_of(model).weight)
        alone = model(input_ids=torch.from_numpy(sequence)[None], use_cache=False).logits[0]
        with model.disable_adapter():
            plain = torch.nn.functional.linear(hidden_of(model, forest), head_of(model).weight)
    assert (logits - alone).abs().max() <= 5e-6 * alone.abs().max()
    assert (plain - alone).abs().max() > 1e-2 * alone.abs().max()
    assert head_of(model).weight.requires_grad is (target[-1] == "lm_head")


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["lm_head"], "lora_dropout": 0.1},
        {"target_modules": ["lm_head"], "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_a_head_that_is_no_longer_one_weight_is_refused(tiny_model, options):
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, **options))
    with pytest.raises(InputError, match="the head has an adapter"):
        choose_batching(model, "forest")


@pytest.mark.parametrize("training", [True, False])
def test_the_probe_leaves_the_model_as_it_was(tiny_model, training):
    model = tiny_model("qwen2").train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    choose_batching(model, "forest")
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_probe_works_in_bf16_and_with_dropout(tiny_model):
    choose_batching(tiny_model("llama").bfloat16(), "forest")
    choose_batching(tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train(), "forest")


REFUSED = pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),  # a state, no attention
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),  # ALiBi
        (  # a window counted along the row: wider than the probe's sequences, which must not hide it
            "gpt_neo",
            {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
            | {"window_size": 64, "max_position_embeddings": 512},
        ),
        *HYBRIDS.items(),
    ],
)


@REFUSED
def test_models_that_compute_something_else_on_a_forest_are_refused(tiny_model, kind, options):
    model = tiny_model(kind, **options)
    with pytest.raises(InputError, match="choose another model") as error:
        choose_batching(model, "forest")
    assert "\n" not in str(error.value)
    assert type(model).__name__ in str(error.value)


@REFUSED
def test_models_that_are_refused_run_padded(tiny_model, kind, options):
    model = tiny_model(kind, **options).eval()
    batching, reason = choose_batching(model, "auto")
    assert batching == "padded"
    assert type(model).__name__ in reason
    assert "\n" not in reason
    assert choose_batching(model, "padded") == ("padded", "")
    with pytest.raises(InputError, match="set batching=padded"):
        choose_batching(model, "forest")
    sequences = branching()
    rows = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(sequence) for sequence in sequences], batch_first=True)
    head = head_of(model)
    with torch.no_grad():
        hidden = forest_hidden(model, rows)
        for row, sequence in zip(hidden, sequences, strict=True):
            logits = torch.nn.functional.linear(row[: len(sequence)], head.weight, head.bias)
            alone = model(input_ids=torch.from_numpy(sequence)[None], use_cache=False).logits[0]
            assert (logits - alone).abs().max() <= 5e-6 * alone.abs().max()


@pytest.mark.parametrize("wanted", ["auto", "forest", "padded"])
def test_models_that_take_masks_run_as_wanted(tiny_model, wanted):
    batching, reason = choose_batching(tiny_model("llama"), wanted)
    assert batching == ("padded" if wanted == "padded" else "forest")
    assert reason == ""


def test_layers_are_known_by_their_kind_however_little_they_show():
    """Fresh from initialisation a convolution hardly changes the logits, so that comparing them would find nothing."""
    from transformers import AutoModelForCausalLM, Lfm2Config

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Lfm2Config(vocab_size=97, num_key_value_heads=2, layer_types=["conv", "full_attention"], **shape)
    batching, reason = choose_batching(AutoModelForCausalLM.from_config(config), "auto")
    assert batching == "padded"
    assert "layers of kind conv" in reason


def test_a_head_that_is_not_what_the_configuration_says_is_refused(tiny_model):
    model = tiny_model("bloom", hidden_size=32, n_layer=2, n_head=4)
    model.config.logits_scaling = 2.0  # Bloom does not read it
    for wanted in ("auto", "padded"):
        with pytest.raises(InputError, match=r"head.*choose another model"):
            choose_batching(model, wanted)
