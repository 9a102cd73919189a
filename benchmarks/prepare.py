"""Speed and memory of preparing a long log, and of opening what came out, on MovieLens-25M-shaped CSVs made here.

For each size, each in a process of its own:

- prepare: the whole of `cftrec prepare`, from ratings.csv and movies.csv to the folder with its checksums;
- sort: what no preparation can do without, in polars: parse the CSV's columns as numbers, sort by user and time, write;
- opening: the dataset, and then random samples from it: the last 20 items before a target, and the target.

Times are without imports, memory is the process's whole; beside the time on the clock stands the processor's. About
three minutes on two idle cores.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cftrec.data import Dataset, PrepareOptions, prepare

MOVIES, EVENTS_OF_A_USER = 60_000, 154  # as 25M has them


def main() -> None:
    from common import parser, plain, report  # not in the children, whose memory counts: it imports torch

    options = parser(__doc__)
    options.add_argument("--sizes", type=float, nargs="+", default=[1, 5, 25], help="million events")
    options.set_defaults(repeats=1)
    args = options.parse_args()
    found = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            found.append(measure(Path(name), int(size * 1e6), args.repeats))
    per_event = [{at: size["sides"]["prepare"][at] / size["events"] for at in ("seconds", "cpu_s")} for size in found]
    growth = {at: per_event[-1][at] / per_event[0][at] for at in ("seconds", "cpu_s")}
    report("prepare", {"options": plain(args), "sizes": found, "time_per_event_last_over_first": growth}, args.save)


def measure(folder: Path, events: int, repeats: int) -> dict[str, Any]:
    """Run the sides on a log in turn; of each the run that took least is kept."""
    events = make_log(folder, events)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for _ in range(repeats):
        shutil.rmtree(folder / "dataset", ignore_errors=True)
        for name, times in runs.items():
            times.append(child(name, folder))
    least = {name: min(times, key=lambda run: run["seconds"]) for name, times in runs.items()}
    opened = least.pop("opening")
    over = least["prepare"]["seconds"] / least["sort"]["seconds"]
    return {"events": events, "sides": least, "prepare_over_sort": over, "opened": opened}


def child(side: str, folder: Path) -> dict[str, float]:
    """Measure a side in a new process, whose memory is its own."""
    command = (
        f"import json, prepare, pathlib; print(json.dumps(prepare.measured({side!r}, pathlib.Path({str(folder)!r}))))"
    )
    here = Path(__file__).parent
    return json.loads(
        subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=here).stdout
    )


def measured(side: str, folder: Path) -> dict[str, float]:
    """Return the time of a side, the processor's of all threads, and the most memory the process ever held."""
    begin, cpu = time.perf_counter(), time.process_time()
    more = SIDES[side](folder)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0])  # KiB; getrusage would count what the parent held
    return {"seconds": seconds, "cpu_s": cpu, "peak_mib": peak / 1024} | {name: call() for name, call in more.items()}


def prepare_it(folder: Path) -> dict[str, Callable[[], float]]:
    prepare(folder, "movielens", PrepareOptions()).save(folder / "dataset")
    return {}


def sort_it(folder: Path) -> dict[str, Callable[[], float]]:
    columns = ["userId", "movieId", "timestamp"]
    events = pl.read_csv(folder / "ratings.csv", columns=columns).sort("userId", "timestamp")
    events.write_ipc(folder / "sorted.arrow")
    return {}


def open_it(folder: Path) -> dict[str, Callable[[], float]]:
    data = Dataset.load(folder / "dataset")
    return {"sample_us": lambda: sample(data)}


def sample(data: Dataset, samples: int = 10_000) -> float:
    """Return the microseconds that a random sample takes: the last 20 items before a target, and the target."""
    positions = np.random.default_rng(0).choice(data.targets("train"), samples).tolist()
    begin = time.perf_counter()
    for position in positions:
        data.history(position, 20).tolist()
        int(data.events[position])
    return (time.perf_counter() - begin) / samples * 1e6


SIDES = {"prepare": prepare_it, "sort": sort_it, "opening": open_it}


def make_log(folder: Path, events: int) -> int:
    """Write ratings.csv and movies.csv of GroupLens's form; return the number of ratings."""
    rng = np.random.default_rng(0)
    users = max(1, events // EVENTS_OF_A_USER)
    activity = 20 + rng.lognormal(3.6, 1.3, users)
    counts = np.maximum(1, activity * (events / activity.sum())).astype(np.int64)
    user = np.repeat(np.arange(1, users + 1, dtype=np.int32), counts)
    movie = (MOVIES * rng.random(len(user), dtype=np.float32) ** 4).astype(np.int32) + 1
    times = rng.integers(789_652_009, 1_574_327_703, users)[user - 1] + rng.integers(0, 20_000, len(user))
    stars = rng.integers(1, 11, len(user), dtype=np.int8) / np.float32(2)
    ratings = pl.DataFrame({"userId": user, "movieId": movie, "rating": stars, "timestamp": times})
    ratings.write_csv(folder / "ratings.csv")
    numbers = range(1, MOVIES + 1)
    titles = [f"Movie {number}, The ({1930 + number % 90})" for number in numbers]
    movies = pl.DataFrame({"movieId": list(numbers), "title": titles, "genres": "Drama|War"})
    movies.write_csv(folder / "movies.csv")
    return len(user)


if __name__ == "__main__":
    main()
