"""Everything that decides a training run, in one dataclass."""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import SchedulerType

from cftrec.errors import InputError


def _option(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    metadata: dict[str, Any] = {"help": text}
    if choices:
        metadata["choices"] = list(choices)
    return field(default=default, metadata=metadata)


@dataclass
class CFTConfig(TrainingArguments):
    """Options of counterfactual fine-tuning, on top of `transformers.TrainingArguments`.

    A batch is a whole optimizer step's samples; the step is cut into passes that fit memory by itself. With
    `gradient_accumulation_steps` the sums still run over the whole step, so 1 x 64 equals 4 x 16.
    `effect_weight=0 beta=1` is plain fine-tuning.
    """

    # The method. Defaults as in the authors' code (github.com/itsmeyjt/CFT) unless said otherwise.
    effect_weight: float = _option(0.1, "lambda, the weight of the effect term; 0 trains without a counterfactual")
    effect_schedule: str = _option(
        "constant",
        "lambda over a training's steps: constant (the paper), rising from 0 to effect_weight, or falling to 0, both "
        "in a straight line; the evaluated loss has effect_weight itself",
        ("constant", "rising", "falling"),
    )
    weighting: str = _option(
        "linear",
        "tokens of a title weigh: linear (from 1 to beta), uniform (1), or information-gain (1 where a token rules out "
        "an item that training has seen, else beta; arXiv 2506.13229)",
        ("linear", "uniform", "information-gain"),
    )
    weighted_terms: str = _option(
        "both",
        "terms of the loss that these weights are for; in the other every token weighs 1",
        ("both", "normal", "effect"),
    )
    beta: float = _option(0.25, "weight of a title's last token, from 1 at its first; 1 weighs all tokens alike")
    prior_weight: float = _option(0.0, "weight of CE(f(x_0), y), which keeps the history-free prior; 0 is the paper")
    detach_counterfactual: bool = _option(False, "stop the effect term's gradient through f(x_0)")
    counterfactual: str = _option(
        "dropped",
        "what x_0 shows for the history: its section dropped, an empty list, or a placeholder word",
        ("dropped", "empty", "placeholder"),
    )
    softmax: str = _option(
        "vocabulary",
        "training normalises over the whole vocabulary or over the tokens that continue some title of the catalogue",
        ("vocabulary", "catalogue"),
    )
    temperature: float = _option(
        1.0, "tau, by which training divides the logits (MSL, arXiv 2504.04178); recommending and evaluating leave it 1"
    )
    adaptive_temperature: bool = _option(
        False, "let tau follow the logits of the titles' first tokens, from 1.5 to 5 (MSL); needs softmax=catalogue"
    )
    decode_softmax: str = _option(
        "catalogue", "recommending normalises over the same two sets", ("catalogue", "vocabulary")
    )
    decode_bf16: bool = _option(
        False,
        "recommending and evaluating run the model in bf16, for processors that multiply it; log p to about two digits",
    )

    # Text.
    prompt: str = _option("plain", "preset plain, alpaca, d3 or chat, or a template file with {category} and {history}")
    category: str = _option("item", "what the items are, such as movie; goes into the prompt")
    item_text: str = _option("{title}", "an item's text, made of the item table's columns, such as '{title} ({brand})'")
    item_tokens: str | None = _option(None, "column with given tokens (semantic ids), instead of item_text")
    max_tokens: int | None = _option(None, "bound on a prompt with its target, in tokens; the oldest items go first")
    window: int = _option(20, "most recent items a prompt shows (W)")
    history_stride: int = _option(
        10,
        "a window's start moves every s items, so that samples share it; W - s + 1 to W items are seen; 1 is the paper",
    )
    sampler: str = _option(
        "windows",
        "what shuffling keeps together: windows (samples of a user that begin alike), whole users, or random samples",
        ("windows", "users", "random"),
    )

    sample: int | None = _option(
        None,
        "train on so many random samples, drawn by data_seed or seed: the few-shot protocol (BIGRec, arXiv 2308.08434, "
        "has 1024); unset: all",
    )

    # The model and the machine.
    model: str = _option("nano", "nano (from scratch), smollm2 (135M, offline), or a local Hugging Face folder")
    nano_vocab_size: int = _option(8192, "nano: most tokens of the tokenizer trained on the catalogue")
    nano_hidden_size: int = _option(128, "nano: width")
    nano_layers: int = _option(4, "nano: layers")
    nano_heads: int = _option(4, "nano: attention heads")
    nano_dropout: float = _option(
        0.0, "nano: dropout of the embeddings and of what each layer adds to them; at 0 a step is exact"
    )
    lora_rank: int = _option(0, "train low-rank adapters (LoRA, by PEFT) of this rank instead of all weights; 0: all")
    lora_alpha: int = _option(16, "LoRA: adapters count lora_alpha / lora_rank times; default as in BIGRec's code")
    lora_dropout: float = _option(0.0, "LoRA: dropout before the adapters; at 0 a step is exact")
    lora_target: str = _option(
        "all-linear", "LoRA: which linear layers: all-linear (all but the head), or names such as q_proj,v_proj"
    )
    load_in_4bit: bool = _option(
        False,
        "QLoRA: hold the frozen weights of a model folder's linear layers in 4 bits (NF4, double quantisation, by "
        "bitsandbytes); needs CUDA and lora_rank",
    )
    batching: str = _option(
        "auto",
        "forest (shared beginnings computed once), padded (every sequence a row), or auto: forest where the model can",
        ("auto", "forest", "padded"),
    )
    attention: str = _option(
        "auto",
        "of forests: blocks (anywhere), flex (FlexAttention, on CUDA), or auto: flex where model and device can",
        ("auto", "blocks", "flex"),
    )
    attention_call: int | None = _option(
        None,
        "what a call of attention costs, in pairs of query and key, by which blocks are cut; unset: measured once on "
        "each device and kept in the user's cache folder",
    )
    pass_tokens: int | None = _option(
        None, "bound on a pass, in tokens; unset: what fits memory_budget, at most 2048 on a CPU and 16384 on a GPU"
    )
    memory_budget: float | None = _option(
        None, "GiB that the activations of a pass may take; unset: half of what is free when training begins"
    )

    # Defaults of transformers that the authors' code sets otherwise.
    per_device_train_batch_size: int = _option(64, "samples of a step on each device")
    per_device_eval_batch_size: int = _option(64, "samples of a validation batch on each device")
    learning_rate: float | None = _option(
        None, "peak learning rate of AdamW; unset: 1e-4 as the authors, and 2e-3 for nano, which starts from scratch"
    )
    warmup_steps: float = _option(20, "linear warm-up, in steps; below 1 a share of all steps")
    logging_steps: float = _option(10, "steps between two log lines")
    save_strategy: str = _option("steps", "when to write a checkpoint, from which an interrupted training goes on")
    save_steps: float = _option(200, "steps between two checkpoints; below 1 a share of all steps")
    save_total_limit: int | None = _option(2, "checkpoints kept while training; a finished RUN has none")
    patience: int | None = _option(
        None,
        "stop early after this many evaluations without a better metric_for_best_model (eval_loss: the trained "
        "objective, eval_normal: its plain part, eval_ndcg@10: NDCG@10 of all validation targets, ranked as by "
        "`cftrec evaluate`, a search for each); needs eval_strategy, a save_strategy like it (or best), and "
        "load_best_model_at_end",
    )
    disable_tqdm: bool | None = _option(True, "cftrec shows its own progress bar")
    remove_unused_columns: bool = _option(False, "samples are positions of a log and have no columns")
    dataloader_num_workers: int = _option(
        None, "processes that build the next steps' forests; unset: 0 on a CPU, whose cores the step needs, 2 on a GPU"
    )
    dataloader_pin_memory: bool = _option(False, "pinning pays on a GPU only")

    def __post_init__(self) -> None:
        """Fill in what depends on other options, and check all of them."""
        self._fill_in()
        self._check_bounds()  # transformers makes integers of some
        super().__post_init__()
        self._fill_in_words()
        self._check_names()
        self._check_together()

    def _fill_in(self) -> None:
        """Set what was left open by the other options and the machine."""
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            # transformers takes everything but a name that ends with "loss" to be better high
            self.greater_is_better: Any = self.best_metric == RANKED
        if self.learning_rate is None:
            self.learning_rate = 2e-3 if self.model == "nano" else 1e-4
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 2 if torch.cuda.is_available() and not self.use_cpu else 0
        if self.gradient_checkpointing and self.activation_checkpointing is None:
            self.activation_checkpointing: Any = True  # the option's new name; the old one warns
        if self.bf16 and not torch.cuda.is_available():
            self.use_cpu: Any = True  # transformers allows bf16 on a CPU only where it is asked for by name

    def _fill_in_words(self) -> None:
        """Complete what is handed on to torch, which transformers has read by now."""
        by_metric = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
        if self.best_metric == RANKED and self.lr_scheduler_type in by_metric:  # torch takes a metric to be a loss
            given = self.lr_scheduler_kwargs or {}
            self.lr_scheduler_kwargs: Any = {"mode": "max"} | given if isinstance(given, dict) else given
        if (given := self.activation_checkpointing_kwargs) is not None:
            if not isinstance(given, dict) or not given.keys() <= _CHECKPOINTING | {"use_reentrant"}:
                raise InputError(
                    f"option activation_checkpointing_kwargs={given}: give a mapping of {', '.join(_CHECKPOINTING)}"
                )
            if given.get("use_reentrant"):
                raise InputError(
                    "option activation_checkpointing_kwargs: use_reentrant does not go with forests; leave it out"
                )
            self.activation_checkpointing_kwargs: Any = given | {"use_reentrant": False}  # torch's default is True

    def _check_bounds(self) -> None:
        """Refuse values out of their bounds."""
        if self.fp16:  # here, for transformers asks for a GPU first
            raise InputError(
                "option fp16=True: gradients are computed before a loss can be scaled, and small ones would be lost; "
                "leave it out, or choose bf16"
            )
        shape = (
            self.nano_heads >= 1 and self.nano_hidden_size >= 1 and self.nano_hidden_size % (2 * self.nano_heads) == 0
        )
        bounds = {
            "effect_weight": (0 <= self.effect_weight < math.inf, "at least 0"),
            "beta": (0 <= self.beta < math.inf, "at least 0"),
            "prior_weight": (0 <= self.prior_weight < math.inf, "at least 0"),
            "temperature": (0 < self.temperature < math.inf, "above 0"),
            "window": (self.window >= 1, "at least 1 item"),
            "history_stride": (1 <= self.history_stride <= self.window, f"from 1 to window ({self.window})"),
            "sample": (self.sample is None or self.sample >= 1, "at least 1 sample"),
            "max_tokens": (self.max_tokens is None or self.max_tokens >= 1, "at least 1 token"),
            "attention_call": (self.attention_call is None or self.attention_call >= 0, "at least 0 pairs"),
            "pass_tokens": (self.pass_tokens is None or self.pass_tokens >= 1, "at least 1 token"),
            "memory_budget": (self.memory_budget is None or 0 < self.memory_budget < math.inf, "above 0 GiB"),
            "nano_heads": (self.nano_heads >= 1, "at least 1"),
            "nano_layers": (self.nano_layers >= 1, "at least 1"),
            "nano_hidden_size": (shape, f"a multiple of twice nano_heads (2 x {self.nano_heads})"),
            "nano_dropout": (0 <= self.nano_dropout < 1, "at least 0 and below 1"),
            "lora_rank": (self.lora_rank >= 0, "at least 0"),
            "lora_alpha": (self.lora_alpha >= 1, "at least 1"),
            "lora_dropout": (0 <= self.lora_dropout < 1, "at least 0 and below 1"),
            "per_device_train_batch_size": (self.per_device_train_batch_size >= 1, "at least 1 sample"),
            "per_device_eval_batch_size": (self.per_device_eval_batch_size >= 1, "at least 1 sample"),
            "gradient_accumulation_steps": (self.gradient_accumulation_steps >= 1, "at least 1"),
            "learning_rate": (0 <= (self.learning_rate or 0) < math.inf, "at least 0"),
            "num_train_epochs": (0 <= self.num_train_epochs < math.inf, "at least 0"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
            "data_seed": (self.data_seed is None or self.data_seed >= 0, "at least 0"),
            "max_steps": (self.max_steps == -1 or self.max_steps >= 1, "at least 1, or -1 to go by num_train_epochs"),
            "dataloader_prefetch_factor": (
                self.dataloader_prefetch_factor is None or self.dataloader_prefetch_factor >= 1,
                "at least 1 batch",
            ),
            "dataloader_num_workers": (self.dataloader_num_workers >= 0, "at least 0"),
            "save_steps": (0 < self.save_steps < math.inf, "above 0 steps and finite (save_strategy=no for none)"),
            "eval_steps": (
                self.eval_steps is None or 0 < self.eval_steps < math.inf,
                "above 0 steps and finite (eval_strategy=no for none)",
            ),
            "eval_delay": (0 <= self.eval_delay < math.inf, "at least 0"),
            "logging_steps": (0 < self.logging_steps < math.inf, "above 0 steps and finite"),
            "warmup_steps": (0 <= self.warmup_steps < math.inf, "at least 0 steps"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "max_grad_norm": (0 <= self.max_grad_norm < math.inf, "at least 0"),
            "patience": (self.patience is None or self.patience >= 1, "at least 1 evaluation"),
            "metric_for_best_model": (
                self.metric_for_best_model is None or self.metric_for_best_model.removeprefix("eval_") in _MEASURED,
                f"one of {', '.join('eval_' + name for name in _MEASURED)}",
            ),
            "greater_is_better": (
                self.metric_for_best_model is None or self.greater_is_better == (self.best_metric == RANKED),
                f"left out: it follows from {self.best_metric}, and the other way the worst model would be the best",
            ),
        }
        for name, (holds, wanted) in bounds.items():
            if not holds:
                raise InputError(f"option {name}={getattr(self, name)}: must be {wanted}")

    def _check_together(self) -> None:
        """Refuse options that contradict each other."""
        if self.lora_rank and self.model == "nano":
            raise InputError(
                f"option lora_rank={self.lora_rank}: nano starts from random weights, which adapters cannot make good; "
                "leave it out, or choose model=smollm2 or a model folder"
            )
        if self.adaptive_temperature and self.softmax != "catalogue":
            raise InputError("option adaptive_temperature: needs softmax=catalogue, whose tokens it compares")
        if self.adaptive_temperature and self.temperature != 1:
            raise InputError(f"option temperature={self.temperature}: adaptive_temperature finds it; leave one out")
        if self.load_in_4bit and (not self.lora_rank or self.model in ("nano", "smollm2")):
            raise InputError(
                "option load_in_4bit=True: weights in 4 bits are frozen and come from a model folder; give "
                "model=FOLDER and lora_rank of at least 1, or leave it out"
            )
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise InputError("option dataloader_persistent_workers=True: there are none; give dataloader_num_workers")
        if self.accelerator_config.dispatch_batches or self.accelerator_config.split_batches:
            raise InputError("option accelerator_config: each rank makes its own batches; leave dispatch and split out")
        if self.patience is not None and not (self.load_best_model_at_end and self.eval_strategy != "no"):
            raise InputError(
                f"option patience={self.patience}: needs load_best_model_at_end=true and eval_strategy=steps or epoch"
            )

    def _check_names(self) -> None:
        """Refuse unknown choices, and options of transformers that this trainer would not read."""
        for item in dataclasses.fields(self):
            choices = item.metadata.get("choices")
            if choices and item.name in _OWN and getattr(self, item.name) not in choices:
                raise InputError(f"option {item.name}={getattr(self, item.name)!r}: choose one of {', '.join(choices)}")
        for name, unused in _UNREAD.items():
            if getattr(self, name) != unused:
                raise InputError(f"option {name}: cftrec does not use it; leave it out")
        trackers = get_available_reporting_integrations()
        for tracker in self.report_to:
            if tracker not in trackers:
                raise InputError(
                    f"option report_to={tracker!r}: not known or not installed; there are none, {', '.join(trackers)}"
                )

    @property
    def n_gpu(self) -> int:
        """One GPU at most: transformers would copy the step to several, which only torchrun does well."""
        return min(super().n_gpu, 1)

    @property
    def best_metric(self) -> str:
        """What `metric_for_best_model` is called in the log and in what `CFTTrainer.evaluate` returns; "" for None."""
        name = self.metric_for_best_model
        return "" if name is None else "eval_" + name.removeprefix("eval_")

    def to_options(self) -> dict[str, Any]:
        """Return what decides the run as plain YAML values: the options above, and others that are no defaults."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        default = {item.name: item.default for item in dataclasses.fields(TrainingArguments)}

        def differs(name: str, value: Any) -> bool:
            # transformers puts False or [] where the default is None; a 0 there is a choice.
            unset = value is None or value == [] or (value is False and default[name] is None)
            return not unset and value != default[name]

        return {
            name: getattr(value, "value", value)
            for name, value in values.items()
            if name not in _LOCAL and (name in _OWN or name in _SHOWN or differs(name, value))
        }


_OWN = tuple(CFTConfig.__annotations__)
# Asked before any parser is made: HfArgumentParser writes simpler types into the fields it has seen.
_LISTS = frozenset(item.name for item in dataclasses.fields(CFTConfig) if "list" in str(item.type))
_TEXTS = frozenset(item.name for item in dataclasses.fields(CFTConfig) if item.type in (str, str | None))
_NULLABLE = frozenset(item.name for item in dataclasses.fields(CFTConfig) if "None" in str(item.type))
_SHOWN = frozenset(
    {"seed", "num_train_epochs", "max_steps", "gradient_accumulation_steps", "bf16", "lr_scheduler_type"}
)
_LOCAL = frozenset(
    {"output_dir", "run_name", "local_rank", "accelerator_config", "use_cpu", "do_eval", "dataloader_num_workers"}
)
RANKED = "eval_ndcg@10"
"""The one validation metric that is better high, and that training cannot find by itself: it takes a search."""
_MEASURED = ("loss", "normal", "effect", "prior", RANKED.removeprefix("eval_"))  # what `CFTTrainer.evaluate` gives
_CHECKPOINTING = dict.fromkeys(  # what transformers and `torch.utils.checkpoint` take
    ("every_n_layers", "offload", "preserve_rng_state", "determinism_check", "early_stop", "debug")
).keys()
_UNREAD: dict[str, Any] = {
    "resume_from_checkpoint": None,  # the same command goes on by itself
    "do_train": False,
    "do_predict": False,
    "prediction_loss_only": False,
    "eval_accumulation_steps": None,
    "label_names": None,
    "label_smoothing_factor": 0.0,
    "use_liger_kernel": False,
    "neftune_noise_alpha": None,
    "train_sampling_strategy": "random",
    "push_to_hub": False,
    "auto_find_batch_size": False,
    "enable_jit_checkpoint": False,  # it ends a training as if it were finished
    "save_only_model": False,  # a training goes on from its optimizer's state
    "ignore_data_skip": False,  # and with the samples that it has not seen
    "eval_on_start": False,
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "include_for_metrics": [],
    "length_column_name": "length",
    "debug": [],
    "hub_token": None,
    "hub_model_id": None,
    "hub_private_repo": None,
    "hub_revision": None,
}


PRESETS = {path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.yaml"))}
"""Named sets of options: `authors`, those of the paper's code, and `best`, what docs/results.md found."""


def describe_options() -> list[tuple[str, Any, str]]:
    """Return name, default and meaning of every option that is not plainly transformers' own."""
    own = (item for item in dataclasses.fields(CFTConfig) if item.name in _OWN)
    return [(item.name, item.default, " ".join(item.metadata["help"].split())) for item in own]


def refuse_idle(config: CFTConfig, given: Collection[str]) -> None:
    """Refuse what was set beside its default and has no effect with the other options.

    For whoever asks for one training in words: a grid may hold cells where an option idles, and a RUN's options name
    every one.

    Args:
        config: the options.
        given: names of those that were set by hand.

    Raises:
        InputError: one of `lora_*` without `lora_rank`.
    """
    for item in dataclasses.fields(config):
        if item.name not in given or getattr(config, item.name) == item.default:
            continue
        if item.name.startswith("lora_") and not config.lora_rank:
            value = getattr(config, item.name)
            raise InputError(f"option {item.name}={value}: there are no adapters; give lora_rank, or leave it out")


def load_config(
    file: Path | None = None, overrides: Mapping[str, Any] | None = None, preset: str | None = None
) -> CFTConfig:
    """Make a config from a preset, a YAML file and overrides, each value checked against its option's type.

    Args:
        file: YAML with `option: value` lines; None for defaults.
        overrides: options that go before the file's; strings are read as the command line's, "null" as YAML's null.
        preset: one of `PRESETS`, whose options the file's and the overrides go before.

    Raises:
        InputError: no such preset or file, no YAML mapping, an unknown option, a value of a wrong type or out of its
            bounds.
    """
    if preset is not None and preset not in PRESETS:
        raise InputError(f"--preset {preset}: unknown; choose one of {', '.join(PRESETS)}")
    known = {item.name for item in dataclasses.fields(CFTConfig) if item.init}
    values: dict[str, Any] = {}
    sources = ((f"--preset {preset}", PRESETS.get(preset or "")), (str(file), file))
    read = [(source, _read_yaml(path) if path else {}) for source, path in sources]
    for source, options in (*read, ("--set", overrides or {})):
        for name, value in options.items():
            if name not in known:
                near = " or ".join(difflib.get_close_matches(str(name), sorted(known), n=3))
                hint = f"did you mean {near}?" if near else f"options of the method: {', '.join(sorted(_OWN))}"
                raise InputError(f"{source}: unknown option {name!r}; {hint}")
            if name == "output_dir":
                raise InputError(f"{source}: option output_dir: the RUN's folder is given by --out; leave it out")
            values[name] = value
    parser = _Parser(CFTConfig, allow_abbrev=False)
    lists = {name: value for name, value in values.items() if isinstance(value, list) and name in _LISTS}
    unset = {name for name, value in values.items() if value is None or (value == "null" and name in _NULLABLE)}
    nulls = dict.fromkeys(unset & _NULLABLE)  # else: the default
    parser.set_defaults(**lists, **nulls)
    rest = {name: value for name, value in values.items() if name not in unset and name not in lists}
    try:
        (config,) = parser.parse_args_into_dataclasses(
            [f"--{name}={_word(name, value)}" for name, value in rest.items()]
        )
    except InputError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"{file or '--set'}: {' '.join(str(error).split())}") from error
    return config


def _word(name: str, value: Any) -> str:
    """Write a value as on a command line.

    Raises:
        InputError: a list or a mapping for an option that is one text.
    """
    if name == "lora_target" and isinstance(value, list):
        return ",".join(map(str, value))
    if name in _TEXTS and isinstance(value, (list, dict)):
        raise InputError(f"option {name}={value}: must be text, in quotes where YAML takes it for something else")
    if value is False and name.endswith("_strategy"):
        return "no"  # what YAML makes of a bare `no`
    return json.dumps(value) if isinstance(value, dict) else str(value)


class _Parser(HfArgumentParser):
    """Raises where argparse would print its usage and exit."""

    def error(self, message: str) -> Any:
        raise InputError("option " + re.sub(r"^argument --(\w+)(/--[\w-]+)*", r"\1", message))


class _NoRepeats(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML takes the last without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping."""
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))}: given twice")
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _NoRepeats) or {}
    except RecursionError:
        raise InputError(f"{file}: cannot be read as YAML (brackets within too many others)") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: must hold lines of `option: value`")
    return values
