"""The ten best titles for users: exact search against beam search of transformers under a prefix function.

The same fine-tuned model, users and question on all sides: log p under the catalogue softmax, nothing left out.

- exact: `Recommender.search`, with a certificate;
- beam: the same code with a level rule, as wide as generate's beams;
- generate: `transformers` `generate` with `prefix_allowed_tokens_fn` and --beams beams, renormalised over what may
  follow and without length normalisation, at each batch size of --batches; the fastest one takes part.

Recall is that of the true ten: exact's, where all their certificates are there, checked with every title's log p for
--check users. Under the vocabulary softmax exact is asked once, for --vocabulary-users users, how often the default
budget suffices. Without --run a model is trained first. Some minutes with nano; hours with SmolLM2 on Games and its
defaults, most of which is training.
"""

import argparse
import inspect
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from cftrec import Recommender
from cftrec.artefacts import read_json
from cftrec.data import Dataset
from cftrec.decoding.tree import TokenTree
from cftrec.text import Catalogue
from cftrec.training import load_config, train
from common import GAMES, LOGS, interleaved, load_log, parser, plain, report, summarise

CLOSE = 1e-4  # scores within which two titles may swap
Lists = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""int [users, k] items, -1 for none, and float [users, k] scores."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", choices=list(LOGS), default="ml-100k")
    options.add_argument("--games", type=Path, default=GAMES, help="folder of the Amazon Video Games files")
    options.add_argument("--run", type=Path, help="a RUN trained on --data; left out, one is trained")
    options.add_argument("--model", default="nano", help="what is trained: nano, smollm2 or a local folder")
    options.add_argument("--steps", type=int, default=300, help="steps it is trained for")
    options.add_argument("--users", type=int, default=64, help="test users, evenly spaced")
    options.add_argument("--k", type=int, default=10)
    options.add_argument("--beams", type=int, default=10)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="users a call of generate")
    options.add_argument("--check", type=int, default=2, help="users of whom every title is scored")
    options.add_argument("--vocabulary-users", type=int, default=8, help="0: that question is not asked")
    options.add_argument("--bf16", action="store_true", help="weights in bf16 on all sides")
    args = options.parse_args()
    data, category = load_log(args.data, args.games)
    with tempfile.TemporaryDirectory() as folder:
        run = args.run or trained(data, category, args, Path(folder))
        recommender = Recommender.from_pretrained(run)
        args.steps = read_json(run / "manifest.json")["steps"]  # a given RUN has its own number
    if args.bf16:
        recommender.model.to(torch.bfloat16)
    histories = users_of(data, recommender, args.users)
    result = compare(replace(recommender, softmax="catalogue"), histories, args)
    device = recommender.model.device.type
    name = f"decode-{args.data}-{args.model}" + ("-bf16" if args.bf16 else "")
    name += "" if device == "cpu" else f"-{device}"
    result = {"options": plain(args) | {"titles": len(recommender.catalogue), "device": device}} | result
    report(name, result, args.save)
    if args.vocabulary_users:  # last, since a model that gives titles little of the vocabulary's mass spends the budget
        asked = histories[: args.vocabulary_users]
        found = replace(recommender, softmax="vocabulary").search(asked, args.k, keep_history=True)
        result["certified"]["vocabulary"] = float(found.exact.mean())
        report(name, result, args.save)


def trained(data: Dataset, category: str, args: argparse.Namespace, folder: Path) -> Path:
    data.save(folder / "data")
    options = {"model": args.model, "category": category, "max_steps": args.steps, "bf16": args.model != "nano"}
    return train(folder / "data", folder / "run", load_config(None, options))


def users_of(data: Dataset, recommender: Recommender, count: int) -> list[np.ndarray[Any, Any]]:
    """Return the histories before evenly spaced test targets, in the RUN's items."""
    known = {item_id: item for item, item_id in enumerate(recommender.catalogue.item_ids)}
    to_run = np.array([known[item_id] for item_id in data.items["item_id"].to_list()])
    targets = data.targets("test")
    chosen = targets[np.linspace(0, len(targets) - 1, min(count, len(targets))).astype(int)]
    return [to_run[data.history(int(position))] for position in chosen]


def compare(
    recommender: Recommender, histories: list[np.ndarray[Any, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    k, beams = args.k, args.beams
    prefixes = Prefixes(recommender.catalogue)
    calls: dict[str, Callable[[], Lists]] = {
        "exact": lambda: lists(recommender.search(histories, k, keep_history=True))
    }
    calls["beam"] = lambda: lists(recommender.search(histories, k, keep_history=True, beam=beams))
    sizes = {
        size: seconds_of(lambda size=size: generate(recommender, histories[:16], prefixes, k, beams, size))
        for size in args.batches
    }
    best = min(sizes, key=lambda size: sizes[size])
    calls["generate"] = lambda: generate(recommender, histories, prefixes, k, beams, best)
    answers, tokens = {}, {}
    for name, call in calls.items():  # the first call, which is not timed
        with counted(recommender.model) as count:
            answers[name] = call()
        tokens[name] = count["search"] / len(histories)
    sides = summarise(interleaved(calls, args.repeats), "exact")
    certified = recommender.search(histories, k, keep_history=True).exact
    for name, side in sides.items():
        side |= {
            "users_per_s": len(histories) / side["median_s"],
            "search_tokens_a_user": tokens[name],
            "recall": recall(answers[name], answers["exact"]),
            "mean_score": float(answers[name][1].mean()),
        }
    return {
        "sides": sides,
        "generate": {"batch": best, "seconds_of_16_users": sizes},
        "certified": {"catalogue": float(certified.mean())},
        "recall_of_exact_by_brute_force": brute_force_recall(recommender, histories[: args.check], answers["exact"]),
    }


def lists(found: Any) -> Lists:
    return found.items, found.scores


def seconds_of(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class Prefixes:
    """What may follow each beginning of a title, in a dictionary, as public prefix functions have it."""

    def __init__(self, catalogue: Catalogue) -> None:
        trie = catalogue.trie
        beginnings: list[tuple[int, ...]] = [()]
        for node in range(1, len(trie)):
            beginnings.append((*beginnings[trie.parent[node]], int(trie.token[node])))
        self.end = int(catalogue.tokens[-1])  # every title ends with the closing token
        self.item_of = {beginnings[node]: item for item, node in reversed(list(enumerate(trie.item_node)))}
        self.allowed = {
            beginning: trie.token[trie.children[trie.child_offsets[node] : trie.child_offsets[node + 1]]].tolist()
            or [self.end]
            for node, beginning in enumerate(beginnings)
        }


def generate(
    recommender: Recommender, histories: list[np.ndarray[Any, Any]], prefixes: Prefixes, k: int, beams: int, size: int
) -> Lists:
    """Search with `generate`, `size` users a call, of like length together, and the attention of transformers."""
    items, scores = np.full((len(histories), k), -1), np.full((len(histories), k), -np.inf)
    order = np.argsort([len(history) for history in histories], kind="stable")
    for begin in range(0, len(order), size):
        batch = order[begin : begin + size]
        prompts = [recommender._shown(histories[user]) for user in batch]
        with its_own_attention(recommender.model):
            lists = beam_search(recommender, prompts, prefixes, beams)
        for user, found in zip(batch, lists, strict=True):
            for place, (item, score) in enumerate(found[:k]):
                items[user, place], scores[user, place] = item, score
    return items, scores


@contextmanager
def its_own_attention(model: Any) -> Iterator[None]:
    ours = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(ours)


@torch.no_grad()
def beam_search(
    recommender: Recommender, prompts: list[np.ndarray[Any, Any]], prefixes: Prefixes, beams: int
) -> list[list[tuple[int, float]]]:
    width = max(map(len, prompts))
    tokens, mask = torch.zeros(2, len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.from_numpy(prompt), 1
    asked = GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        max_new_tokens=recommender.catalogue.longest,
        length_penalty=0.0,
        renormalize_logits=True,
        eos_token_id=prefixes.end,
        pad_token_id=prefixes.end,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = recommender.model.generate(
        tokens,
        attention_mask=mask,
        generation_config=asked,
        prefix_allowed_tokens_fn=lambda _, sent: prefixes.allowed.get(tuple(sent[width:].tolist()), [prefixes.end]),
    )
    titles = [tuple(row[: row.index(prefixes.end) + 1]) for row in found.sequences[:, width:].tolist()]
    named = [
        (prefixes.item_of[title], score) for title, score in zip(titles, found.sequences_scores.tolist(), strict=True)
    ]
    return [named[begin : begin + beams] for begin in range(0, len(named), beams)]


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Count tokens computed after the prompts: ours as the tree appends them, those of generate at the embedding."""
    count = {"search": 0}
    append = TokenTree.append

    def counting(self: TokenTree, row: Any, parent: Any, tokens: Any, sizes: Any) -> Any:
        count["search"] += len(tokens)
        return append(self, row, parent, tokens, sizes)

    def steps(module: Any, given: Any) -> None:
        if given[0].shape[1] == 1 and not inside_tree():
            count["search"] += given[0].numel()

    hook = model.get_input_embeddings().register_forward_pre_hook(steps)
    TokenTree.append = counting  # type: ignore[method-assign]
    try:
        yield count
    finally:
        TokenTree.append = append  # type: ignore[method-assign]
        hook.remove()


def inside_tree() -> bool:
    return any(frame.function == "counting" for frame in inspect.stack(0))


def recall(found: Lists, true: Lists) -> float:
    """Return the share of the true lists that was found; of titles within `CLOSE` of the last true one any will do."""
    shares = []
    for items, scores, best, values in zip(*found, *true, strict=True):
        last = values[np.isfinite(values)].min()
        hit = np.isin(items, best) | (scores >= last - CLOSE)
        shares.append(min(1.0, hit[items >= 0].sum() / (best >= 0).sum()))
    return float(np.mean(shares))


def brute_force_recall(recommender: Recommender, histories: list[np.ndarray[Any, Any]], found: Lists) -> float | None:
    """Return the recall of some users' lists against every title's log p."""
    if not histories:
        return None
    k, every = found[0].shape[1], np.arange(len(recommender.catalogue))
    runs = [recommender.log_probs([history], [every])[0] for history in histories]
    scores = np.array([np.add.reduceat(run.values, run.starts) for run in runs])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return recall((found[0][: len(histories)], found[1][: len(histories)]), (best, np.take_along_axis(scores, best, 1)))


if __name__ == "__main__":
    main()
