"""Options: their types and bounds, what is refused and how, and the way into YAML and back."""

import dataclasses

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.training_args import ParallelMode

from cftrec.errors import InputError
from cftrec.training import CFTConfig, load_config
from cftrec.training.config import _LOCAL, PRESETS, refuse_idle

CPU = {"use_cpu": True}


def refused(*arguments, **options) -> str:
    with pytest.raises(InputError) as error:
        load_config(*arguments, overrides=options or None)
    message = str(error.value)
    assert "\n" not in message
    return message


def write(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_the_defaults_are_the_authors():
    config = load_config(overrides=CPU)
    known = {"effect_weight": 0.1, "beta": 0.25, "prior_weight": 0.0, "detach_counterfactual": False}
    known |= {
        "softmax": "vocabulary",
        "decode_softmax": "catalogue",
        "window": 20,
        "history_stride": 10,
        "warmup_steps": 20,
    }
    assert {name: getattr(config, name) for name in known} == known
    assert config.per_device_train_batch_size == 64


@pytest.mark.parametrize(("model", "rate"), [("nano", 2e-3), ("smollm2", 1e-4), ("some/folder", 1e-4)])
def test_the_learning_rate_depends_on_the_model_unless_it_is_given(model, rate):
    assert load_config(overrides=CPU | {"model": model}).learning_rate == rate
    assert load_config(overrides=CPU | {"model": model, "learning_rate": 0.5}).learning_rate == 0.5


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("effect_weight", "1e-1", 0.1),
        ("effect_weight", 0, 0.0),
        ("window", "12", 12),
        ("detach_counterfactual", "true", True),
        ("detach_counterfactual", True, True),
        ("detach_counterfactual", False, False),
        ("category", 5, "5"),
        ("category", "-x", "-x"),
        ("category", "--set a=b", "--set a=b"),
        ("item_text", "{title} ({brand})", "{title} ({brand})"),
        ("max_tokens", "99", 99),
        ("max_tokens", None, None),
        ("max_tokens", "null", None),
        ("category", "null", "null"),
        (
            "activation_checkpointing_kwargs",
            {"preserve_rng_state": True},
            {"preserve_rng_state": True, "use_reentrant": False},
        ),
        ("save_strategy", False, "no"),
        ("eval_strategy", "steps", "steps"),
        ("lr_scheduler_type", "cosine", "cosine"),
        ("lr_scheduler_kwargs", {"num_cycles": 2}, {"num_cycles": 2}),
        ("report_to", "none", []),
        ("lora_target", ["q_proj", "v_proj"], "q_proj,v_proj"),
        ("seed", "7", 7),
    ],
)
def test_values_become_what_their_option_is(name, given, value):
    found = getattr(load_config(overrides=CPU | {"window": 20, name: given}), name)
    assert found == value
    assert isinstance(found, type(value))


@pytest.mark.parametrize(
    ("metric", "high"),
    [("eval_loss", False), ("normal", False), ("eval_effect", False), ("prior", False), ("eval_ndcg@10", True)],
)
def test_whether_high_is_better_follows_from_the_metric(metric, high):
    options = CPU | {"metric_for_best_model": metric}
    assert load_config(overrides=options).greater_is_better is high
    assert load_config(overrides=options | {"greater_is_better": high}).greater_is_better is high
    assert "the worst model" in refused(**options, greater_is_better=not high)


@pytest.mark.parametrize(("gpu", "workers"), [(False, 0), (True, 2)])
def test_what_the_machine_decides_unless_it_is_given(monkeypatch, gpu, workers):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    config = CFTConfig.__new__(CFTConfig)
    config.__dict__ |= load_config(overrides=CPU).__dict__ | {"use_cpu": False}
    config.dataloader_num_workers = None
    config._fill_in()
    assert config.dataloader_num_workers == workers
    given = load_config(overrides=CPU | {"dataloader_num_workers": 3})
    assert given.dataloader_num_workers == 3
    assert "dataloader_num_workers" not in given.to_options()


def test_one_process_takes_one_of_several_gpus():
    config = load_config(overrides=CPU)
    assert config.n_gpu == 0
    config._n_gpu = 2  # what transformers counts
    assert config.n_gpu == 1
    assert config.train_batch_size == config.per_device_train_batch_size
    assert config.parallel_mode == ParallelMode.NOT_PARALLEL


def test_overrides_go_before_the_file(tmp_path):
    file = write(tmp_path, "beta: 0.5\nwindow: 7\nhistory_stride: 3\nuse_cpu: true\n")
    config = load_config(file, {"beta": "0.75", "window": None})
    assert (config.beta, config.window, config.history_stride) == (0.75, 20, 3)


def test_null_is_none_where_that_is_a_value(tmp_path):
    config = load_config(write(tmp_path, "save_total_limit: null\nuse_cpu: true\n"))
    assert config.save_total_limit is None
    assert_round_trip(config, tmp_path)


def test_a_message_is_whole():
    options = {"eval_strategy": "epoch", "load_best_model_at_end": True, "patience": 1}
    assert "Save strategy: SaveStrategy.STEPS" in refused(**options)


def test_a_preset_stands_behind_the_file_and_the_overrides(tmp_path):
    file = write(tmp_path, "beta: 0.5\nuse_cpu: true\n")
    config = load_config(file, {"window": 12}, "authors")
    assert (config.prompt, config.sampler, config.history_stride) == ("alpaca", "random", 1)
    assert (config.beta, config.window) == (0.5, 12)
    with pytest.raises(InputError, match=r"--preset nobody: unknown; choose one of authors"):
        load_config(preset="nobody")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_a_config(preset):
    assert load_config(None, {"use_cpu": True}, preset).to_options()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"effect_weigth": 1}, ["--set", "'effect_weigth'", "effect_weight"]),
        ({"histroy_stride": 1}, ["history_stride"]),
        ({"zzzz": 1}, ["'zzzz'", "beta", "history_stride"]),
        ({"_n_gpu": 1}, ["'_n_gpu'"]),
    ],
)
def test_an_unknown_option_is_refused_with_what_is_near(options, parts):
    message = refused(**options)
    assert all(part in message for part in parts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", "x"),
        ("beta", True),
        ("beta", [1]),
        ("beta", {"a": 1}),
        ("beta", -0.1),
        ("beta", "nan"),
        ("effect_weight", -1),
        ("effect_weight", "inf"),
        ("prior_weight", -1e-9),
        ("detach_counterfactual", "maybe"),
        ("window", 0),
        ("window", 2.5),
        ("window", ""),
        ("history_stride", 0),
        ("history_stride", 21),
        ("max_tokens", 0),
        ("max_tokens", "none"),
        ("attention_call", -1),
        ("memory_budget", 0),
        ("pass_tokens", 0),
        ("dataloader_num_workers", -1),
        ("category", ["movie"]),
        ("item_tokens", ["ids"]),
        ("model", {"a": 1}),
        ("nano_heads", 0),
        ("nano_heads", -4),
        ("nano_layers", 0),
        ("nano_hidden_size", 0),
        ("nano_hidden_size", 12),  # 3 a head: rotary positions take pairs
        ("nano_dropout", -0.1),
        ("nano_dropout", 1),
        ("lora_rank", -1),
        ("lora_rank", 8),  # of nano, which is random
        ("load_in_4bit", True),  # without adapters
        ("lora_alpha", 0),
        ("lora_dropout", 1),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("temperature", 0),
        ("temperature", "inf"),
        ("adaptive_temperature", True),  # of the vocabulary softmax
        ("learning_rate", -1),
        ("learning_rate", "nan"),
        ("num_train_epochs", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("data_seed", -1),
        ("warmup_steps", -1),
        ("softmax", "catalog"),
        ("counterfactual", "none"),
        ("sampler", "shuffled"),
        ("batching", "packed"),
        ("metric_for_best_model", "eval_ndcg@20"),
        ("weighting", "gain"),
        ("weighted_terms", "none"),
        ("decode_softmax", "both"),
        ("lr_scheduler_type", "cosin"),
        ("eval_strategy", "sometimes"),
        ("report_to", "paper"),
        ("report_to", ["paper"]),
        ("label_smoothing_factor", 0.1),
        ("auto_find_batch_size", True),
        ("save_only_model", True),
        ("ignore_data_skip", True),
        ("eval_on_start", True),
        ("debug", "underflow_overflow"),
        ("hub_token", "secret"),
        ("include_for_metrics", "loss"),
        ("fp16", True),
        ("save_steps", 0),
        ("save_steps", "inf"),
        ("eval_steps", "inf"),
        ("logging_steps", "inf"),
        ("warmup_steps", "nan"),
        ("eval_delay", "nan"),
        ("enable_jit_checkpoint", True),
        ("activation_checkpointing_kwargs", "abc"),
        ("activation_checkpointing_kwargs", '{"every_layer": 1}'),
        ("eval_steps", -2),
        ("logging_steps", -3),
        ("weight_decay", "nan"),
        ("dataloader_persistent_workers", True),  # of none
        ("activation_checkpointing_kwargs", '{"use_reentrant": true}'),
        ("accelerator_config", '{"dispatch_batches": true}'),
    ],
)
def test_a_value_that_makes_no_run_is_refused_by_name(name, value):
    assert name in refused(**{name: value})


@pytest.mark.parametrize("factor", [0, -1])
def test_workers_that_fetch_nothing_are_refused(factor):
    message = refused(dataloader_num_workers=2, dataloader_prefetch_factor=factor)
    assert f"dataloader_prefetch_factor={factor}: must be at least 1" in message


@pytest.mark.parametrize(
    ("metric", "kwargs", "mode"),
    [("eval_ndcg@10", {}, "max"), ("eval_ndcg@10", {"mode": "min"}, "min"), ("eval_loss", {}, None)],
)
@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_the_metric_knows_which_way_is_better(metric, kwargs, mode, schedule):
    told = {"eval_strategy": "steps", "metric_for_best_model": metric, "lr_scheduler_type": schedule}
    config = load_config(overrides=CPU | told | {"lr_scheduler_kwargs": {"patience": 1} | kwargs})
    assert config.lr_scheduler_kwargs == {"patience": 1} | ({"mode": mode} if mode else {})


def test_fp16_is_refused_on_a_gpu_too_and_bf16_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "choose bf16" in refused(fp16=True)


def test_an_adaptive_temperature_is_no_given_one():
    adaptive = CPU | {"softmax": "catalogue", "adaptive_temperature": "true"}
    assert load_config(overrides=adaptive).adaptive_temperature is True
    message = refused(**adaptive, temperature=2)
    assert "temperature=2.0" in message
    assert "leave one out" in message


def test_options_of_the_dataclass_are_checked_too(tmp_path):
    for options in ({"beta": -1}, {"softmax": "catalog"}, {"history_stride": 30}, {"nano_heads": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            CFTConfig(output_dir=str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n- b\n", "option: value"),
        ("just text", "option: value"),
        ("a: b: c\n", "YAML"),
        ("beta: [1\n", "YAML"),
        ("beta: " + "[" * 9999, "YAML"),
        (b"\xff\xfe\x00", "YAML"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
        ("windw: 3\n", "window"),
        ("beta: 0.5\nwindow: 3\nbeta: 1\n", "beta: given twice"),
        ("5: 3\n", "5"),
        ("true: 3\n", "True"),
        ("save_strategy: sometimes\n", "sometimes"),
    ],
)
def test_a_file_that_makes_no_config_is_refused_by_name(tmp_path, text, part):
    file = write(tmp_path, text)
    message = refused(file)
    assert str(file) in message
    assert part in message


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model": "smollm2", "lora_alpha": 32}, "lora_alpha=32: there are no adapters; give lora_rank"),
        ({"lora_dropout": 0.1}, "lora_dropout"),
        ({"lora_target": "q_proj"}, "lora_target"),
    ],
)
def test_an_option_without_effect_is_refused_where_it_was_set_by_hand(tmp_path, options, part):
    """A grid may vary it, and a RUN's options, which name all, may be given again."""
    config = load_config(overrides=CPU | options)
    assert_round_trip(config, tmp_path)
    refuse_idle(config, ["model", "beta"])
    with pytest.raises(InputError, match=part):
        refuse_idle(config, options)


def test_an_option_with_effect_or_at_its_default_is_not_refused():
    lora = {"model": "smollm2", "lora_rank": 2, "lora_alpha": 32, "lora_target": "q_proj"}
    for options in (lora, {"lora_alpha": 16}):
        refuse_idle(load_config(overrides=CPU | options), options)


def test_a_missing_file_is_refused_by_name(tmp_path):
    assert "nowhere.yaml" in refused(tmp_path / "nowhere.yaml")
    assert str(tmp_path) in refused(tmp_path)


def test_the_origin_of_an_unknown_option_is_named(tmp_path):
    file = write(tmp_path, "beta: 0.5\n")
    message = refused(file, windw=3)
    assert "--set" in message
    assert str(file) not in message


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_an_empty_file_is_all_defaults(tmp_path, text):
    assert load_config(write(tmp_path, text), CPU).to_options() == load_config(overrides=CPU).to_options()


def test_a_bare_no_in_yaml_is_no(tmp_path):
    config = load_config(write(tmp_path, "save_strategy: no\neval_strategy: no\nuse_cpu: yes\n"))
    assert (config.save_strategy, config.eval_strategy, config.use_cpu) == ("no", "no", True)


def assert_round_trip(config, tmp_path):
    options = config.to_options()
    again = load_config(write(tmp_path, yaml.safe_dump(options, sort_keys=False)))
    for item in dataclasses.fields(config):
        if item.name not in _LOCAL:
            one, other = getattr(config, item.name), getattr(again, item.name)
            assert one == other or str(one) == str(other), item.name
    assert again.to_options() == options


def test_options_survive_yaml(tmp_path):
    changed = {"effect_weight": 0.025, "detach_counterfactual": True, "item_tokens": "ids", "max_tokens": 77, "seed": 9}
    changed |= {
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "adam_beta2": 0.95,
    }
    changed |= {
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_strategy": "epoch",
        "optim": "sgd",
        "weight_decay": 0.1,
    }
    config = load_config(overrides=CPU | changed | {"report_to": "none", "data_seed": 0})
    assert_round_trip(config, tmp_path)
    assert config.to_options()["data_seed"] == 0
    assert_round_trip(load_config(overrides=CPU), tmp_path)
    text = yaml.safe_dump(config.to_options())
    assert "output" not in text
    assert "!!" not in text


@given(
    beta=st.floats(0, 10),
    effect_weight=st.floats(0, 1e6),
    category=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    window=st.integers(1, 99),
    learning_rate=st.floats(0, 1),
)
@settings(max_examples=20)
def test_any_value_survives_yaml(tmp_path_factory, **values):
    assert_round_trip(load_config(overrides=CPU | {"history_stride": 1} | values), tmp_path_factory.mktemp("yaml"))


def test_options_come_in_one_order():
    names = list(load_config(overrides=CPU).to_options())
    assert names == [item.name for item in dataclasses.fields(CFTConfig) if item.name in names]


@pytest.mark.parametrize(
    ("name", "value"), [("max_grad_norm", 0.0), ("adam_beta1", 0.0), ("average_tokens_across_devices", False)]
)
def test_a_zero_or_no_that_is_no_default_is_written_down(tmp_path, name, value):
    config = load_config(overrides=CPU | {name: value})
    assert config.to_options()[name] == value
    assert_round_trip(config, tmp_path)
