"""The small model from scratch, and its dropout."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from cftrec.training import train
from cftrec.training.run import assemble

TOKENS = torch.arange(3, 43)[None]


@pytest.fixture
def nano(dataset, small_config):
    def make(**options):
        return assemble(dataset, small_config(**options))[0]

    return make


def test_dropout_acts_in_training_only_and_takes_no_part_in_the_weights(nano):
    plain, dropped = nano(), nano(nano_dropout=0.4)
    assert all(torch.equal(value, dropped.state_dict()[name]) for name, value in plain.state_dict().items())
    with torch.no_grad():
        assert torch.equal(plain.eval()(TOKENS).logits, dropped.eval()(TOKENS).logits)
        plain.train(), dropped.train()
        assert torch.equal(plain(TOKENS).logits, plain(TOKENS).logits)
        assert not torch.equal(dropped(TOKENS).logits, dropped(TOKENS).logits)


def test_dropout_leaves_out_its_share_of_embeddings_and_of_what_layers_add(nano):
    model = nano(nano_dropout=0.25, nano_hidden_size=64, nano_layers=2).train()
    layer, seen = model.model.layers[-1], {}
    layer.self_attn.register_forward_hook(lambda module, given, found: seen.update(attention=found[0]))
    layer.mlp.register_forward_hook(lambda module, given, found: seen.update(network=found))
    with torch.no_grad():
        seen["embeddings"], whole = model.model.embed_tokens(TOKENS), model.model.embed_tokens.weight[TOKENS]
        model(TOKENS)
    for values in seen.values():
        assert (values == 0).float().mean() == pytest.approx(0.25, abs=0.05)
    kept = seen["embeddings"] != 0
    torch.testing.assert_close(seen["embeddings"][kept], whole[kept] / 0.75)


@pytest.mark.parametrize("batching", ["forest", "padded"])
def test_a_run_trained_with_dropout_is_a_plain_folder(dataset, small_config, tmp_path, batching):
    dataset.save(tmp_path / "data")
    options = {"max_steps": 2, "per_device_train_batch_size": 8, "batching": batching}
    runs = [
        train(tmp_path / "data", tmp_path / name, small_config(nano_dropout=share, **options))
        for name, share in (("none", 0.0), ("some", 0.5), ("same", 0.5))
    ]
    models = [AutoModelForCausalLM.from_pretrained(run / "model").train() for run in runs]
    with torch.no_grad():
        none, some, same = (model(TOKENS).logits for model in models)
        assert torch.equal(some, same) and not torch.equal(some, none)
        assert torch.equal(some, models[1](TOKENS).logits)
    assert (runs[0] / "model" / "config.json").read_text() == (runs[1] / "model" / "config.json").read_text()


def test_activations_computed_again_leave_out_the_same(dataset, small_config, tmp_path):
    dataset.save(tmp_path / "data")
    options = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    options |= {"max_steps": 1, "per_device_train_batch_size": 8}

    def trained(name, **more):
        run = train(tmp_path / "data", tmp_path / name, small_config(**options, **more))
        return AutoModelForCausalLM.from_pretrained(run / "model").state_dict()

    kept = trained("kept", nano_dropout=0.3)
    again = trained("again", nano_dropout=0.3, activation_checkpointing=True)
    whole = trained("whole", nano_dropout=0.0)
    assert all(torch.allclose(value, again[name], atol=1e-6) for name, value in kept.items())
    assert any((value - whole[name]).abs().max() > 1e-3 for name, value in kept.items())
