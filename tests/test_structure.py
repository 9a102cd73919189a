"""The house: imports go one way, and the documentation says what is there."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

import cftrec
from cftrec.training.config import describe_options

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cftrec"
FLOW = ["data", "text", "forest", "objective", "training", "decoding", "recommender", "batch", "export", "evaluation"]
FLOW += ["baselines", "look", "serving", "demo", "commands", "cli"]
ANYWHERE = {"artefacts", "errors", "ragged", "terminal"}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    here = room(path)
    if here == "__init__":
        return
    assert here in FLOW or here in ANYWHERE
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cftrec."):
            there = node.module.split(".")[1]
            if there not in ANYWHERE:
                assert here in FLOW, f"{here} is for everybody and must not import {there}"
                assert FLOW.index(there) <= FLOW.index(here), f"{here} must not import {there}"


def test_public_names_are_there():
    for name in cftrec.__all__:
        assert getattr(cftrec, name).__module__.startswith("cftrec.")
    with pytest.raises(AttributeError):
        cftrec.nothing  # noqa: B018


def options_table() -> str:
    """Write docs/options.md's table from the config: the one place where options are described."""
    parents = {item.name for item in dataclasses.fields(TrainingArguments)}
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    for name, default, meaning in describe_options():
        mark = " (transformers)" if name in parents else ""
        rows.append(f"| `{name}`{mark} | `{default}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def test_docs_list_every_option():
    assert options_table() in (ROOT / "docs" / "options.md").read_text(encoding="utf-8")


def committed(name: str) -> Any:
    """Return a benchmark's committed result."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def demo_table() -> str:
    """Write README's table of the demo from the committed summary of one."""
    rows = committed("demo")["rows"]
    lines = ["| | HR@10 | NDCG@10 | 95 % interval | MRR@10 |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        low, high = row["NDCG@10_ci"]
        numbers = f"{row['HR@10']:.4f} | {row['NDCG@10']:.4f} | {low:.4f} to {high:.4f} | {row['MRR@10']:.4f}"
        lines.append(f"| {row['model']} | {numbers} |")
    return "\n".join(lines)


def baselines_table() -> str:
    """Write the table of docs/baselines.md from the committed result."""
    result = committed("baselines-ml-100k")
    lines = ["| | HR@10 | NDCG@10 | MRR@10 | trials | seconds |", "| --- | --- | --- | --- | --- | --- |"]
    for name, model in result["models"].items():
        numbers = " | ".join(f"{model['metrics'][metric]:.4f}" for metric in ("HR@10", "NDCG@10", "MRR@10"))
        lines.append(f"| {name} | {numbers} | {max(1, len(model['trials']))} | {model['seconds']:.0f} |")
    return "\n".join(lines)


def planted_table() -> str:
    """Write the table of docs/planted-world.md from the committed result."""
    result = committed("planted_world")
    strong = result["strong"]
    lines = [
        "| | NDCG@10 | of the best ranking's | of the law's optimum | effect, `counts` | effect, `counterfactual` |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    best = strong["ndcg@10_of_the_best_ranking"]
    lines += [
        f"| the best possible | {best:.4f} | 1 | {best / strong['ndcg@10']:.3f} | {strong['effect']:.3f} nats | |"
    ]
    for name, method in strong["methods"].items():
        shares = f"{method['share_realised']:.3f} | {method['share']:.3f}"
        effects = " | ".join(f"{method['effect_over_true'][prior]:.2f} x" for prior in ("counts", "counterfactual"))
        lines.append(f"| {name} | {method['ndcg@10']:.4f} | {shares} | {effects} |")
    return "\n".join(lines)


def speed_table() -> str:
    """Write README's table of speeds from the committed results."""
    lines = ["| samples/s over | " + " | ".join(SPEEDS.values()) + " |", "| --- |" + " --- |" * len(SPEEDS)]
    results = [committed(f"train_step-{name}")["sides"] for name in SPEEDS]
    rows = {label: [sides[side]["over_ours"] for sides in results] for side, label in SIDES.items()}
    peers = [committed(f"trl_sft-{name}")["sides"] for name in SPEEDS]
    rows[PEER] = [min(sides[way]["over_ours"] for way in ("trl_padded", "trl_packed")) for sides in peers]
    lines += [f"| {label} | " + " | ".join(f"{ratio:.1f}" for ratio in ratios) + " |" for label, ratios in rows.items()]
    return "\n".join(lines)


def decoding_sentence() -> str:
    """Write README's sentence on the speed of the search from the committed result."""
    result = committed("decode-games-smollm2")
    generate, titles = result["sides"]["generate"], result["options"]["titles"]
    return (
        f"Of Games' {titles:,} titles it finds SmolLM2's true ten best for {generate['over_exact']:.1f} times as many "
        f"users a second as `generate` of transformers with ten beams, which finds {generate['recall']:.0%} of them."
    )


SPEEDS = {
    "ml-100k-nano-plain-w20s10-users": "ML-100K, plain, W 20 s 10, nano fp32",
    "ml-100k-smollm2-plain-w20s10-users-bf16": "the same, SmolLM2-135M bf16",
    "games-smollm2-alpaca-w10s1-users-bf16": "Games, alpaca, W 10 s 1, SmolLM2-135M bf16",
    "games-smollm2-plain-w20s10-users-bf16": "Games, plain, W 20 s 10, the same",
}
SIDES = {
    "published_cft": "published CFT: two padded passes, full logits",
    "padded_plain": "plain fine-tuning, padded, full logits",
    "unpadded_plain": "plain fine-tuning, one sample at a time, target logits only",
}
PEER = "plain fine-tuning by TRL's SFTTrainer, the fastest of its sizes tried"


def test_readme_quotes_committed_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert demo_table() in readme
    assert speed_table() in readme
    assert decoding_sentence() in " ".join(readme.split())
    assert baselines_table() in (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    planted = (ROOT / "docs" / "planted-world.md").read_text(encoding="utf-8")
    assert planted_table() in planted
    result = committed("planted_world")
    assert f"in {result['zero_within']} of {len(result['zero'])} such worlds" in planted
