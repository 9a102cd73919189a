"""Everything that decides a training run, in one dataclass."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

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
    decode_softmax: str = _option(
        "catalogue", "recommending normalises over the same two sets", ("catalogue", "vocabulary")
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

    # The model and the machine.
    model: str = _option("nano", "nano (from scratch), smollm2 (135M, offline), or a local Hugging Face folder")
    nano_vocab_size: int = _option(4096, "nano: most tokens of the tokenizer trained on the catalogue")
    nano_hidden_size: int = _option(128, "nano: width")
    nano_layers: int = _option(4, "nano: layers")
    nano_heads: int = _option(4, "nano: attention heads")
    row_tokens: int = _option(512, "bound on a row of a forest, in tokens; attention costs its square")
    pass_tokens: int = _option(8192, "bound on a pass, in tokens; bounds the memory of activations")

    # Defaults of transformers that the authors' code sets otherwise.
    per_device_train_batch_size: int = _option(64, "samples of a step on each device")
    per_device_eval_batch_size: int = _option(64, "samples of a validation batch on each device")
    learning_rate: float | None = _option(  # type: ignore[assignment]
        None, "peak learning rate of AdamW; unset: 1e-4 as the authors, and 2e-3 for nano, which starts from scratch"
    )
    warmup_steps: float = _option(20, "linear warm-up, in steps; below 1 a share of all steps")
    logging_steps: float = _option(10, "steps between two log lines")
    save_strategy: str = _option("no", "checkpoints: no, steps, epoch or best")
    disable_tqdm: bool | None = _option(True, "cftrec shows its own progress bar")
    remove_unused_columns: bool = _option(False, "samples are positions of a log and have no columns")
    dataloader_pin_memory: bool = _option(False, "pinning pays on a GPU only")

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            self.learning_rate = 2e-3 if self.model == "nano" else 1e-4
        super().__post_init__()
        self._check()

    def _check(self) -> None:
        """Refuse values that make no run, and options of transformers that this trainer would not read."""
        bounds = {
            "effect_weight": (self.effect_weight >= 0, "at least 0"),
            "beta": (self.beta >= 0, "at least 0"),
            "prior_weight": (self.prior_weight >= 0, "at least 0"),
            "window": (self.window >= 1, "at least 1 item"),
            "history_stride": (1 <= self.history_stride <= self.window, f"from 1 to window ({self.window})"),
            "row_tokens": (self.row_tokens >= 1, "at least 1 token"),
            "pass_tokens": (self.pass_tokens >= 1, "at least 1 token"),
            "nano_hidden_size": (self.nano_hidden_size % self.nano_heads == 0, "a multiple of nano_heads"),
            "per_device_train_batch_size": (self.per_device_train_batch_size >= 1, "at least 1 sample"),
        }
        for name, (holds, wanted) in bounds.items():
            if not holds:
                raise InputError(f"option {name}={getattr(self, name)}: must be {wanted}")
        for item in dataclasses.fields(self):
            choices = item.metadata.get("choices")
            if choices and item.name in _OWN and getattr(self, item.name) not in choices:
                raise InputError(f"option {item.name}={getattr(self, item.name)!r}: choose one of {', '.join(choices)}")
        for name, unused in _UNREAD.items():
            if getattr(self, name) != unused:
                raise InputError(f"option {name}: cftrec does not use it; leave it out")

    def to_options(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, with every option of the method, as plain YAML values."""
        default = {item.name: item.default for item in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in default}
        plain = {name: getattr(value, "value", value) for name, value in values.items()}
        own = {name: plain[name] for name in _OWN}
        other = {
            name: value
            for name, value in plain.items()
            if name not in own and name not in _LOCAL and value != default[name] and isinstance(value, _Scalar)
        }
        return own | other


_Scalar = str | int | float | bool
_OWN = frozenset(name for name in CFTConfig.__annotations__)
_LOCAL = frozenset({"output_dir", "run_name", "local_rank", "logging_dir"})
_UNREAD = {
    "label_smoothing_factor": 0.0,
    "use_liger_kernel": False,
    "neftune_noise_alpha": None,
    "train_sampling_strategy": "random",
    "push_to_hub": False,
    "auto_find_batch_size": False,
}


def load_config(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> CFTConfig:
    """Make a config from a YAML file and overrides, each value checked against its option's type.

    Args:
        file: YAML with `option: value` lines; None for defaults.
        overrides: options that go before the file's; strings are read as the command line's.

    Raises:
        InputError: no such file, no YAML mapping, an unknown option, a value of a wrong type or out of its bounds.
    """
    values = (_read_yaml(file) if file else {}) | dict(overrides or {})
    known = {item.name for item in dataclasses.fields(CFTConfig) if item.init}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"options of the method: {', '.join(sorted(_OWN))}"
            raise InputError(f"{file or '--set'}: unknown option {name!r}; {hint}")
    arguments = [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]
    try:
        (config,) = _Parser(CFTConfig, allow_abbrev=False).parse_args_into_dataclasses(arguments)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"{file or '--set'}: {str(error).splitlines()[0]}") from error
    return config


class _Parser(HfArgumentParser):
    """Raises where argparse would print its usage and exit."""

    def error(self, message: str) -> Any:
        raise InputError(f"option {message.removeprefix('argument --')}")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: must hold lines of `option: value`")
    return values
