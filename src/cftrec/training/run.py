"""From a Dataset folder to a RUN folder: everything a recommender needs, and how it came about."""

import copy
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback, get_scheduler
from transformers.utils import logging as transformers_logging

from cftrec.artefacts import (
    MANIFEST,
    held,
    new_folder,
    part_of,
    read_json,
    refuse_if_taken,
    refuse_unspellable,
    remove_unfinished,
    sha256,
    write_json,
)
from cftrec.data import Dataset
from cftrec.errors import InputError
from cftrec.text import Catalogue, Prompt, build_prompt, item_sequences, item_texts, load_template
from cftrec.text.template import PRESETS
from cftrec.training.callbacks import last_complete_checkpoint
from cftrec.training.config import CFTConfig
from cftrec.training.lora import merge, save_weights
from cftrec.training.machine import warn_of_slow_bf16
from cftrec.training.models import load_model
from cftrec.training.trainer import CFTTrainer, Diverged, Measure

CONFIG, PROMPT, LOG, MODEL, ADAPTER = "config.yaml", "prompt.json", "log.json", "model", "adapter"
CATALOGUE = "catalogue"
_LAYOUT = "layout.json"  # beside the checkpoints: what was measured once


def train(
    data: Path,
    out: Path,
    config: CFTConfig,
    callbacks: list[TrainerCallback] | None = None,
    measure: Measure | None = None,
) -> Path:
    """Fine-tune a model on a Dataset folder and write a RUN folder, whole or not at all.

    Checkpoints live in a hidden folder beside `out` until the RUN is finished; the same call after an interruption goes
    on from the last whole one, to the same weights. Of several ranks (torchrun) the first writes, and all return when
    it has.

    A RUN holds `model/` (a transformers folder with its tokenizer), the catalogue, `prompt.json`, `config.yaml`,
    `log.json` (what was logged, and the work done), `manifest.json`, and `tensorboard/` where that was asked for.
    Nothing else is needed to recommend. Where LoRA adapters were trained, `model/` has them merged into its weights,
    and `adapter/` holds them alone (a PEFT folder).

    Args:
        data: a Dataset folder.
        out: the RUN folder to make; its name names the model in comparisons.
        config: the options.
        callbacks: transformers callbacks, such as a progress bar.
        measure: further validation metrics (`CFTTrainer`), needed for `metric_for_best_model=eval_ndcg@10`.

    Returns:
        `out`.

    Raises:
        InputError: the dataset, the model or an option cannot be used, `out` is taken, or another call trains it.
        Diverged: the loss, or a weight, has become no finite number; nothing is kept.
    """
    out = out.resolve()  # "." has no name, which a RUN needs
    checkpoints = out.with_name(f".{out.name}.checkpoints")
    if (out / MANIFEST).is_file() and checkpoints.is_dir():  # a kill came between the RUN and the end
        with held(checkpoints):
            shutil.rmtree(checkpoints)
    refuse_if_taken(out)
    refuse_unspellable(out)
    if out.name == "popular":
        raise InputError(f"{out}: 'popular' is the popularity baseline's name in comparisons; name another folder")
    config = copy.copy(config)
    dataset = Dataset.load(data)
    quiet_transformers()
    model, tokenizer, prompt, catalogue = assemble(dataset, config)
    if not len(dataset.targets("train")):
        raise InputError(f"{data}: no user has two training events, so there is nothing to learn from")
    source = {"path": str(data), "sha256": sha256(data / MANIFEST)} | _dataset_facts(dataset)
    options = config.to_options()
    identity = {"dataset": source["sha256"], "config": options, "files": _files_of(config), "ranks": config.world_size}
    checkpoints.mkdir(parents=True, exist_ok=True)
    first = config.process_index == 0  # of several ranks, the one that writes
    with held(checkpoints) if first else nullcontext():
        if first:
            _claim(checkpoints, identity)
            remove_unfinished(out)
        _wait_for_ranks()
        last = last_complete_checkpoint(checkpoints)
        config.output_dir = str(checkpoints)
        begin = time.perf_counter()
        try:
            trainer = _make_trainer(last, model, config, dataset, prompt, catalogue, callbacks, measure)
            _wait_for_ranks()  # all have read the layout, if there was one
            if first:
                write_json(checkpoints / _LAYOUT, trainer.layout._asdict())
            if trainer.objection and first:
                print(f"cftrec: batches are padded, since {trainer.objection}", file=sys.stderr)
            if config.bf16 and first:
                warn_of_slow_bf16("bf16=true", model.device)
            result = trainer.train(resume_from_checkpoint=str(last) if last else None)
            _refuse_no_numbers(model)
        except BaseException as error:
            if first and (isinstance(error, Diverged) or last_complete_checkpoint(checkpoints) is None):
                shutil.rmtree(checkpoints)  # nothing to go on from
            raise
        manifest = {
            "name": out.name,
            "dataset": source,
            "steps": result.global_step,
            "seconds": time.perf_counter() - begin,
            "resumed_from_step": int(last.name.split("-")[1]) if last else 0,
        }
        if first:
            _write(out, manifest, options, trainer, tokenizer)
            shutil.rmtree(checkpoints)
        _wait_for_ranks()
    return out


def _wait_for_ranks() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _write(out: Path, manifest: dict[str, Any], options: dict[str, Any], trainer: CFTTrainer, tokenizer: Any) -> None:
    """Write the RUN folder of a finished training."""
    model, checkpoints = trainer.model.model, Path(trainer.args.output_dir)
    options = options | {"batching": trainer.batching}
    manifest = manifest | {
        "config": options,
        "batching": {"wanted": trainer.args.batching, "used": trainer.batching, "reason": trainer.objection},
        "layout": trainer.layout._asdict(),
        "epochs": trainer.state.epoch,
        "samples": len(trainer.train_samples),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    with new_folder(out, "run", manifest) as folder:
        if isinstance(model, PeftModel):
            save_weights(model, folder / ADAPTER)
            model = merge(model)
        manifest["parameters"] = sum(p.numel() for p in model.parameters())
        save_weights(model, folder / MODEL)
        tokenizer.save_pretrained(folder / MODEL)
        trainer.catalogue.save(folder)
        write_json(folder / PROMPT, trainer.prompt.to_dict())
        write_json(folder / LOG, {"log": trainer.state.log_history})
        (folder / CONFIG).write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
        if (checkpoints / "runs").is_dir():
            shutil.copytree(checkpoints / "runs", folder / "tensorboard")


def _refuse_no_numbers(model: torch.nn.Module) -> None:
    """Refuse weights that the last update has spoilt, which no loss has seen."""
    for name, values in model.named_parameters():
        if values.requires_grad and not values.isfinite().all():
            raise Diverged(f"training diverged: its last step left no numbers in {name}; lower learning_rate")


def _make_trainer(last: Path | None, model: Any, config: CFTConfig, *rest: Any) -> CFTTrainer:
    """Make the trainer; what transformers refuses while it sets itself up is an option's fault, not a bug."""
    checkpoints = Path(str(config.output_dir))
    if last is not None:  # other blocks would round otherwise
        found = read_json(checkpoints / _LAYOUT)
        config.pass_tokens, config.attention_call = found["pass_tokens"], found["attention_call"]
    try:
        if config.torch_compile and config.torch_compile_backend not in torch.compiler.list_backends(exclude_tags=()):
            raise ValueError(f"torch_compile_backend={config.torch_compile_backend!r} is unknown")
        trainer = CFTTrainer(model, config, *rest)
        _try_optimizer(trainer)
    except (ValueError, AssertionError, ImportError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the options of transformers do not make a trainer: {reason}") from error
    return trainer


def _try_optimizer(trainer: CFTTrainer) -> None:
    """Make optimizer and schedule of one weight, as training will: what they refuse, they refuse before it begins."""
    make, options = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    weight = [torch.nn.Parameter(torch.zeros(1))]
    own = {"params", "model", "optimizer_dict"} & options.keys()  # GaLore's and LOMO's know which weights they are for
    optimizer = torch.optim.SGD(weight) if own else make(weight, **options)
    kwargs = trainer.args.lr_scheduler_kwargs or {}
    get_scheduler(trainer.args.lr_scheduler_type, optimizer, 1, 9, scheduler_specific_kwargs=dict(kwargs))


def _claim(checkpoints: Path, identity: dict[str, Any]) -> None:
    """Take the hidden folder where checkpoints live until the RUN is finished, emptied if none is to go on from.

    Raises:
        InputError: it holds the checkpoints of a training with other data or options, or of other processes.
    """
    last, mark = last_complete_checkpoint(checkpoints), checkpoints / "training.json"
    if last is None or not mark.is_file():
        for left in checkpoints.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        write_json(mark, identity)
        return
    known = {"ranks": 1} | read_json(mark)
    if known != identity:
        then, now = known["config"], identity["config"]
        differs = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
        differs += [
            f"content of {path}" for path, own in identity["files"].items() if known.get("files", {}).get(path) != own
        ]
        if known["ranks"] != identity["ranks"]:  # a step, and with it the order of samples, would be another
            differs.append(f"number of processes ({known['ranks']}, not {identity['ranks']})")
        raise InputError(
            f"{checkpoints}: holds an interrupted training with other {', '.join(differs) or 'data'}; "
            "give the same to go on with it, or remove the folder to start anew"
        )


def _files_of(config: CFTConfig) -> dict[str, Any]:
    """Return what the files that options name hold: a prompt's template, and a model folder's files by SHA-256."""
    prompt = [] if config.prompt in PRESETS else [Path(config.prompt)]
    model = [] if config.model in ("nano", "smollm2") else sorted(Path(config.model).glob("*"))
    return {str(file): sha256(file) for file in (*prompt, *model) if file.is_file()}


def assemble(dataset: Dataset, config: CFTConfig) -> tuple[Any, PreTrainedTokenizerBase, Prompt, Catalogue]:
    """Make what a trainer needs of a dataset and a config: model, tokenizer, prompt and catalogue."""
    texts = item_texts(dataset.items, config.item_text)
    pieces: list[str] = []
    if config.item_tokens is not None and config.item_tokens in dataset.items.columns:
        cells = dataset.items[config.item_tokens].fill_null("").to_list()
        pieces = sorted({piece for cell in cells for piece in cell.split()})
    template = load_template(config.prompt)
    model, tokenizer = load_model(config, [*texts, *template.fill(config.category)], pieces)
    # Learned positions end somewhere, and no layer knows what to do beyond: the oldest items go, as by the option.
    positions = getattr(model.config, "max_position_embeddings", None)
    prompt = build_prompt(
        config.prompt,
        tokenizer,
        category=config.category,
        counterfactual=config.counterfactual,  # type: ignore[arg-type]
        max_tokens=min((bound for bound in (config.max_tokens, positions) if bound is not None), default=None),
    )
    sequences = item_sequences(dataset.items, config.item_text, config.item_tokens, tokenizer, prompt)
    ids, titles = (dataset.items[name].to_list() for name in ("item_id", "title"))
    columns = dataset.items.drop("item_id", "title")
    catalogue = Catalogue.build(ids, titles, sequences, dataset.item_counts(), columns)
    return model, tokenizer, prompt, catalogue


def catalogue_of(run: Path, manifest: dict[str, Any]) -> Catalogue:
    """Load a RUN's catalogue: the one of training, or the one with the items added since.

    Raises:
        InputError: a file is missing or broken.
    """
    return Catalogue.load(part_of(run, manifest, CATALOGUE))


def quiet_transformers() -> None:
    """Keep transformers' notices and bars off the terminal; errors still show."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _dataset_facts(dataset: Dataset) -> dict[str, int]:
    return {"users": len(dataset.users), "items": dataset.items.height, "events": len(dataset.events)}
