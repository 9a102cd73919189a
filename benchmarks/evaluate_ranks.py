"""How long stored ranks take to evaluate: all metrics, slices, 2,000 bootstrap draws.

The ranks are made up: lists drawn by popularity (items by Zipf's law), targets in them at a rank that is uniform up to
twice the lists' length, histories of 5 to 100 items. Timed is what `cftrec evaluate` does after the search, from
ranks.parquet to the rows of metrics.json and slices.json. About half a minute.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from cftrec.evaluation.evaluate import SHOWN_HISTORY
from cftrec.evaluation.significance import DRAWS
from cftrec.evaluation.slices import evaluation_table
from common import parser, plain, report

K = 20


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--users", type=int, default=10_000)
    options.add_argument("--items", type=int, default=10_000, help="in the catalogue")
    args = options.parse_args()
    ranks, counts = made_up(args.users, args.items)
    item_ids = [f"i{item}" for item in range(args.items)]
    seconds: list[float] = []
    busy: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ranks.parquet"
        ranks.write_parquet(file)
        for _ in range(args.repeats + 1):
            begin, before = time.perf_counter(), time.process_time()
            table = evaluation_table(pl.read_parquet(file), item_ids, counts)
            seconds.append(time.perf_counter() - begin)
            busy.append(time.process_time() - before)
    times = {"median_s": statistics.median(seconds[1:]), "min_s": min(seconds[1:]), "max_s": max(seconds[1:])}
    times["cpu_s"] = statistics.median(busy[1:])  # of all threads; what a machine shared with others does not distort
    facts = {"draws": DRAWS, "slices": len(table) - 1, "metrics": sum(f"{name}_ci" in table[0] for name in table[0])}
    report("evaluate_ranks", {"options": plain(args) | facts, "times": times}, args.save)


def made_up(users: int, items: int) -> tuple[pl.DataFrame, np.ndarray]:
    """Return a table of ranks, one target a user, and training counts of a catalogue without its rarest tenth."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, items + 1)
    counts = np.floor(20 * users * weights / weights.sum()).astype(np.int64)
    counts[items - items // 10 :] = 0
    names = np.array([f"i{item}" for item in range(items)], dtype=object)
    cumulative = np.cumsum(weights / weights.sum())
    lengths = rng.integers(5, 101, size=users)
    lists, histories, targets, ranks = [], [], [], rng.integers(1, 2 * K + 1, size=users)
    for rank, length in zip(ranks, lengths, strict=True):
        drawn = list(dict.fromkeys(np.searchsorted(cumulative, rng.random(8 * K)).tolist()))[:K]
        lists.append(names[drawn].tolist())
        histories.append(names[rng.integers(0, items, size=min(length, SHOWN_HISTORY))].tolist())
        targets.append(lists[-1][rank - 1] if rank <= len(drawn) else f"i{rng.integers(items)}")
    columns = {
        "user": [f"u{user}" for user in range(users)],
        "target": targets,
        "history_length": lengths,
        "rank": [int(rank) if rank <= len(row) else None for rank, row in zip(ranks, lists, strict=True)],
        "items": lists,
        "history": histories,
    }
    return pl.DataFrame(columns), counts


if __name__ == "__main__":
    main()
