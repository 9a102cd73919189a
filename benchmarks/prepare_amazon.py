"""Speed of reading Amazon-shaped reviews (2018, JSON lines, gzip) and of preparing them, on a log made here.

Sides:

- read: `read_source` of the folder: decompressed, parsed, checked, hashed, the metadata too;
- prepare: the whole of `prepare` (titles cleaned, 5-core, leave-one-out), in memory;
- plain_python: `gzip` and `json.loads` a line, keeping the same three fields, as the field's scripts do.

Beside the time on the clock stands the processor's, of all threads. A review is about 640 bytes with text of random
length from 2,000 words of Zipf frequency, which gzip shrinks about as it does real ones. About a minute and a half on
two cores.
"""

import gzip
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip

from cftrec.data import PrepareOptions, prepare
from cftrec.data.sources import SourceOptions, read_source
from common import interleaved, parser, plain, report, summarise

USERS, ITEMS, TEXTS = 60_000, 20_000, 20_000


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--reviews", type=int, default=500_000)
    options.set_defaults(repeats=3)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = make_log(folder, args.reviews)
        sides = {
            "read": lambda: read_source(folder, "auto", SourceOptions()),
            "prepare": lambda: prepare(folder, "auto", PrepareOptions(min_user_events=5, min_item_events=5)),
            "plain_python": lambda: plain_python(folder / "Video_Games.json.gz"),
        }
        cpu = {name: cpu_seconds(call) for name, call in sides.items()}  # and warms the sides up
        summary = summarise(interleaved(sides, args.repeats), "read")
    found = {name: side | {"cpu_s": cpu[name]} for name, side in summary.items()}
    speeds = {name: args.reviews / side["median_s"] for name, side in found.items()}
    report("read_amazon", {"options": plain(args), "log": sizes, "sides": found, "reviews_per_s": speeds}, args.save)


def cpu_seconds(call: Callable[[], Any]) -> float:
    """Return the processor time of a call, all threads together, which other processes do not stretch."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def make_log(folder: Path, reviews: int) -> dict[str, int]:
    """Write reviews and metadata; return bytes of the reviews, written and compressed."""
    rng = np.random.default_rng(0)
    texts = make_texts(rng)
    users = (USERS * rng.random(reviews) ** 2).astype(int)
    items = (ITEMS * rng.random(reviews) ** 3).astype(int)
    times = np.sort(rng.integers(1_000_000_000, 1_538_000_000, reviews))
    chosen = rng.integers(0, TEXTS, reviews)
    size = 0
    with igzip.open(folder / "Video_Games.json.gz", "wb", compresslevel=2) as file:
        for user, item, time, text in zip(users, items, times, chosen, strict=True):
            line = (
                f'{{"overall": 5.0, "verified": true, "reviewTime": "10 17, 2015", "reviewerID": "A{user:013d}", '
                f'"asin": "B{item:09d}", "style": {{"Format:": " Video Game"}}, "reviewerName": "Reader {user}", '
                f'"reviewText": "{texts[text]}", "summary": "Good but not great", "unixReviewTime": {time}}}\n'
            ).encode()
            size += file.write(line)
    with igzip.open(folder / "meta_Video_Games.json.gz", "wt") as file:
        for item in range(ITEMS):
            file.write(json.dumps({"asin": f"B{item:09d}", "title": f"Game {item}", "brand": "Maker"}) + "\n")
    return {"bytes": size, "gzip_bytes": (folder / "Video_Games.json.gz").stat().st_size}


def make_texts(rng: np.random.Generator) -> list[str]:
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(2000)]
    frequency = 1 / np.arange(1, len(words) + 1)
    lengths = 1 + rng.exponential(60, TEXTS).astype(int)
    drawn = rng.choice(len(words), lengths.sum(), p=frequency / frequency.sum())
    ends = np.cumsum(lengths)
    return [
        " ".join(words[word] for word in drawn[end - length : end]) for end, length in zip(ends, lengths, strict=True)
    ]


def plain_python(path: Path) -> list[tuple[str, str, int]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = (json.loads(line) for line in file)
        return [(record["reviewerID"], record["asin"], record["unixReviewTime"]) for record in records]


if __name__ == "__main__":
    main()
