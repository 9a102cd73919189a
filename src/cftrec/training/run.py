"""From a Dataset folder to a RUN folder: everything a recommender needs, and how it came about."""

import time
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.utils import logging as transformers_logging

from cftrec.artefacts import MANIFEST, new_folder, refuse_if_taken, sha256, write_json
from cftrec.data import Dataset
from cftrec.errors import InputError
from cftrec.forest.backbone import check_forest
from cftrec.text import Catalogue, Prompt, build_prompt, given_tokens, item_texts, load_template, tokenise_items
from cftrec.training.config import CFTConfig
from cftrec.training.models import load_model
from cftrec.training.trainer import CFTTrainer

CONFIG, PROMPT, LOG, MODEL = "config.yaml", "prompt.json", "log.json", "model"


def train(data: Path, out: Path, config: CFTConfig, callbacks: list[TrainerCallback] | None = None) -> Path:
    """Fine-tune a model on a Dataset folder and write a RUN folder, whole or not at all.

    A RUN holds `model/` (a transformers folder with its tokenizer), the catalogue, `prompt.json`, `config.yaml`,
    `log.json` (what was logged, and the work done) and `manifest.json`. Nothing else is needed to recommend.

    Args:
        data: a Dataset folder.
        out: the RUN folder to make; its name names the model in comparisons.
        config: the options.
        callbacks: transformers callbacks, such as a progress bar.

    Returns:
        `out`.

    Raises:
        InputError: the dataset, the model or an option cannot be used, or `out` is taken.
    """
    refuse_if_taken(out)
    dataset = Dataset.load(data)
    quiet_transformers()
    model, tokenizer, prompt, catalogue = assemble(dataset, config)
    check_forest(model)
    if not len(dataset.targets("train")):
        raise InputError(f"{data}: no user has two training events, so there is nothing to learn from")
    checkpoints = out.with_name(f".{out.name}.checkpoints")
    config.output_dir = str(checkpoints)
    try:
        trainer = CFTTrainer(model, config, dataset, prompt, catalogue, callbacks)
        begin = time.perf_counter()
        result = trainer.train()
        seconds = time.perf_counter() - begin
    finally:  # transformers makes the folder even where nothing goes into it
        if checkpoints.is_dir() and not any(checkpoints.iterdir()):
            checkpoints.rmdir()
    manifest = {
        "name": out.name,
        "dataset": {"path": str(data), "sha256": sha256(data / MANIFEST)} | _dataset_facts(dataset),
        "config": config.to_options(),
        "steps": result.global_step,
        "epochs": trainer.state.epoch,
        "samples": len(trainer.train_samples),
        "seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    with new_folder(out, "run", manifest) as folder:
        model.save_pretrained(folder / MODEL)
        tokenizer.save_pretrained(folder / MODEL)
        catalogue.save(folder)
        write_json(folder / PROMPT, prompt.to_dict())
        write_json(folder / LOG, {"log": trainer.state.log_history})
        (folder / CONFIG).write_text(yaml.safe_dump(config.to_options(), sort_keys=False), encoding="utf-8")
    return out


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
    if config.item_tokens is None:
        sequences = tokenise_items(texts, tokenizer, prompt)
    else:
        sequences = given_tokens(dataset.items, config.item_tokens, tokenizer, prompt)
    titles = dataset.items["title"].to_list()
    catalogue = Catalogue.build(dataset.items["item_id"].to_list(), titles, sequences, dataset.item_counts())
    return model, tokenizer, prompt, catalogue


def quiet_transformers() -> None:
    """Keep transformers' notices and bars off the terminal; errors still show."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _dataset_facts(dataset: Dataset) -> dict[str, int]:
    return {"users": len(dataset.users), "items": dataset.items.height, "events": len(dataset.events)}
