"""From a RUN to a plain folder of transformers with a model card, which needs no cftrec."""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from cftrec.artefacts import MANIFEST, new_folder, read_json, read_manifest, refuse_unspellable, sha256, write_json
from cftrec.text import Prompt
from cftrec.training.run import ADAPTER, MODEL, PROMPT, catalogue_of, quiet_transformers

CARD, EXPORT = "README.md", "export"
_ADAPTER_CONFIG = "adapter_config.json"
_SHOWN_ITEMS = 3  # in the card's example, the one to predict included
_BASES = {
    "nano": "none, trained from scratch",
    "smollm2": "SmolLM2-135M-Instruct, its weights dequantised from 4 bits",
}
Part = str | list[int]
_LOAD_MODEL = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
model = AutoModelForCausalLM.from_pretrained(".")
"""
_LOAD_ADAPTER = """\
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

BASE = "path or name of the base model"
tokenizer = AutoTokenizer.from_pretrained(BASE)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ".")  # this folder
"""
_SCORE = """

def ids(part):  # a list is token ids already, which no text gives back
    return part if isinstance(part, list) else tokenizer(part, add_special_tokens=False).input_ids


prompt = [token for part in <PARTS> for token in ids(part)]
title = [token for part in <ANSWER> for token in ids(part)]
logits = model(input_ids=torch.tensor([prompt + title])).logits[0, len(prompt) - 1 : -1]
print(logits.log_softmax(1)[range(len(title)), title].sum().item())  # log p(title | history)

tokens = torch.tensor([prompt])
mask = torch.ones_like(tokens)
written = model.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=<LONGEST>, eos_token_id=<END>)
print(tokenizer.decode(written[0, len(prompt) :]))"""


def export(run: Path, out: Path | None = None, merge: bool = False) -> Path:
    """Write a RUN's model as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load alone, with a model card.

    Args:
        run: a RUN folder.
        out: folder to make; default `export` in the RUN.
        merge: of a RUN with LoRA adapters, write the whole model with the adapters merged into it. Without, such a RUN
            gives its adapters alone (a PEFT folder), which need the base model. A RUN without adapters is whole anyway.

    Returns:
        The folder.

    Raises:
        InputError: not a RUN, or `out` is taken.
    """
    run = Path(run)
    manifest = read_manifest(run, "run")
    quiet_transformers()
    out = run / EXPORT if out is None else out
    refuse_unspellable(out)
    content = ADAPTER if (run / ADAPTER).is_dir() and not merge else MODEL
    tokenizer = AutoTokenizer.from_pretrained(run / MODEL, local_files_only=True)
    source = {"name": manifest["name"], "content": content, "run_sha256": sha256(run / MANIFEST)}
    with new_folder(out, "export", source) as folder:
        shutil.copytree(run / content, folder, dirs_exist_ok=True)
        if content == MODEL:  # whatever the base model's says about sampling and lengths would cut titles short
            ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            GenerationConfig(**ends).save_pretrained(folder)
        else:
            adapter = read_json(folder / _ADAPTER_CONFIG)
            write_json(folder / _ADAPTER_CONFIG, _public(adapter))
        (folder / CARD).write_text(_card(run, manifest, content == ADAPTER, tokenizer), encoding="utf-8")
    return out


def _card(run: Path, manifest: dict[str, Any], adapter: bool, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the model card: what a stranger needs, and nothing of any user."""
    prompt, catalogue = Prompt.from_dict(read_json(run / PROMPT)), catalogue_of(run, manifest)
    window = manifest["config"]["window"]
    popular = np.argsort(-catalogue.counts, kind="stable")[:_SHOWN_ITEMS]
    *history, target = (catalogue.sequence(int(item)) for item in popular)
    shown, answer, unshown = (
        [_part(tokenizer, part) for part in parts if len(part)]
        for parts in (
            prompt.parts(history[-window:], catalogue.longest) if history else (prompt.without_history,),
            (target[: -len(prompt.closing)], prompt.closing),
            (prompt.without_history,),
        )
    )
    evaluated = (run / "evaluation.json").is_file()
    options = _public(manifest["config"])
    return _template().render(
        manifest | {"data": manifest["dataset"], "version": manifest["packages"]["cftrec"]},
        adapter=adapter,
        options=options,
        yaml=yaml.safe_dump(options, sort_keys=False, allow_unicode=True),
        base=_BASES.get(options["model"], f"`{options['model']}`"),
        shown=_text(tokenizer, shown),
        answer=_text(tokenizer, answer),
        unshown=_text(tokenizer, unshown),
        code=_code(
            adapter, {"PARTS": shown, "ANSWER": answer, "LONGEST": catalogue.longest, "END": prompt.closing[-1]}
        ),
        facts=read_json(run / "evaluation.json") if evaluated else None,
        metrics=read_json(run / "metrics.json") if evaluated else None,
        fenced=_fenced,
    )


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown: texts that nobody has checked stand in fences
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("export.md.j2")


def _code(adapter: bool, values: Mapping[str, Any]) -> str:
    """Return Python that loads the folder, scores the example's answer and lets the model write one."""
    code = (_LOAD_ADAPTER if adapter else _LOAD_MODEL) + _SCORE
    return re.sub("<([A-Z]+)>", lambda name: repr(values[name[1]]), code)


def _part(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> Part:
    """Return the text of some tokens, or the tokens themselves where the text gives others."""
    ids = [int(token) for token in tokens]
    text = tokenizer.decode(ids)
    return text if tokenizer(text, add_special_tokens=False).input_ids == ids else ids


def _text(tokenizer: PreTrainedTokenizerBase, parts: Iterable[Part]) -> str:
    return "".join(part if isinstance(part, str) else tokenizer.decode(part) for part in parts)


def _fenced(text: str, language: str = "text") -> str:
    """Put a text into a code block that it cannot end."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])
    return f"{fence}{language}\n{text.removesuffix(chr(10))}\n{fence}"


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where files lay on the machine that trained."""
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in config.items()
    }
