"""A million titles: how long the trie takes to build, save and open, and whether a search in it costs more a node.

Titles are recombined: the first half of one title of a real log and the second half of another, so that beginnings
are shared as real ones share them. The model is `nano` with random weights; scores are worthless, times are not.

    python benchmarks/large_trie.py --data games --items 1000000
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import common
from cftrec.decoding import search
from cftrec.decoding.tree import TokenTree
from cftrec.ragged import Ragged, ranges
from cftrec.text import Catalogue
from cftrec.text.trie import Trie, build_trie
from cftrec.training.run import assemble, quiet_transformers

_NODES = 36  # beginnings of a user: so few that in both catalogues every user comes to them


def main() -> None:
    """Measure and print."""
    options = common.parser(__doc__)
    options.add_argument("--data", choices=list(common.LOGS), default="games")
    options.add_argument("--games", type=Path, default=common.GAMES, help="folder of the Amazon Video Games files")
    options.add_argument("--items", type=int, default=1_000_000)
    options.add_argument("--users", type=int, default=32, help="searched at once")
    options.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.build:  # in a process of its own, so that its peak memory is known
        print(*built(args.build))
        return
    torch.set_num_threads(1)
    quiet_transformers()
    data, category = common.load_log(args.data, args.games)
    config = common.load_config(None, {"category": category})
    model, _, prompt, real = assemble(data, config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        many = recombined(real, args.items, closing=len(prompt.closing))
        np.savez(path / "tokens.npz", values=many.values, lengths=many.lengths)
        command = [sys.executable, __file__, "--build", folder]
        build_s, save_s, peak = map(
            float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        )
        begin = time.perf_counter()
        trie = Trie.load(path)
        open_s = time.perf_counter() - begin
        begin = time.perf_counter()
        trie.chain_end, trie.places  # noqa: B018
        first_use_s = time.perf_counter() - begin
        names = list(map(str, range(args.items)))
        large = Catalogue(names, names, trie, np.zeros(args.items), np.ones(args.items, dtype=bool), real.columns)
        searches = {
            "small": searched(model, real, prompt, args.users),
            "large": searched(model, large, prompt, args.users),
        }
        found = {name: call() for name, call in searches.items()}  # warm
        seconds = common.interleaved(searches, args.repeats)
        beginnings = {name: int(result.expanded.sum()) for name, result in found.items()}
        tokens = {name: tokens_run(call) for name, call in searches.items()}
        ratio = float(np.median(np.array(seconds["large"]) / np.array(seconds["small"])))
        result: dict[str, Any] = {
            "options": common.plain(args),
            "items": {"small": len(real), "large": args.items},
            "nodes": {"small": len(real.trie), "large": len(trie)},
            "tokens": len(many.values),
            "build_s": build_s,
            "build_peak_bytes": peak,
            "save_s": save_s,
            "stored_bytes": sum(file.stat().st_size for file in path.glob("*.npy")),
            "open_s": open_s,
            "first_use_s": first_use_s,
            "searches": common.summarise(seconds, "small"),
            "exact_share": {name: float(result.exact.mean()) for name, result in found.items()},
            "beginnings": beginnings,
            "nodes_run": tokens,
            "per_node_over_small": ratio * tokens["small"] / tokens["large"],
            "per_beginning_over_small": ratio * beginnings["small"] / beginnings["large"],
        }
    common.report(f"large_trie-{args.data}", result, args.save)


def recombined(real: Catalogue, count: int, closing: int) -> Ragged:
    """Return token sequences: the first half of one real title, the second half of another, the closing tokens."""
    rng = np.random.default_rng(0)
    lengths = np.diff(real.offsets) - closing
    first, second = rng.integers(0, len(real), (2, count))
    half = (lengths[first] + 1) // 2
    rest = lengths[second] // 2 + closing
    starts = np.column_stack([real.offsets[first], real.offsets[second + 1] - rest])
    sizes = np.column_stack([half, rest])
    return Ragged(real.tokens[ranges(starts.ravel(), sizes.ravel())], sizes.sum(1))


def built(folder: Path) -> tuple[float, float, int]:
    """Build and save the trie: seconds of both, and the most bytes the process held, its libraries included."""
    arrays = np.load(folder / "tokens.npz")
    values, offsets = arrays["values"], np.concatenate(([0], np.cumsum(arrays["lengths"])))
    begin = time.perf_counter()
    trie = build_trie(values, offsets)
    middle = time.perf_counter()
    trie.save(folder)
    end = time.perf_counter()
    facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return middle - begin, end - middle, 1024 * int(facts["VmHWM"].split()[0])


def tokens_run(call: Callable[[], Any]) -> int:
    """Return how many trie nodes a search runs through the model; a beginning is one and the forced ones behind it."""
    counted = []
    append = TokenTree.append

    def counting(tree: TokenTree, row: Any, parent: Any, tokens: Any, sizes: Any) -> Any:
        counted.append(len(tokens))
        return append(tree, row, parent, tokens, sizes)

    TokenTree.append = counting  # type: ignore[method-assign]
    try:
        call()
    finally:
        TokenTree.append = append  # type: ignore[method-assign]
    return sum(counted)


def searched(model: Any, catalogue: Catalogue, prompt: Any, users: int) -> Any:
    """Return the search for users who have seen five random items each."""
    rng = np.random.default_rng(1)
    seen = [[catalogue.sequence(int(item)) for item in rng.integers(0, len(catalogue), 5)] for _ in range(users)]
    prompts = [prompt.factual(items, catalogue.longest) for items in seen]
    return lambda: search(model.eval(), catalogue, prompts, 10, budget=_NODES)


if __name__ == "__main__":
    main()
