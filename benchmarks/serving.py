"""A RUN behind HTTP, under clients that ask as fast as they are answered, and at half of that.

Both sides share this machine: the clients' own work counts against the service. Histories are drawn from the catalogue
by the training counts, so that nothing but the RUN is needed.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command sets it; torch, loaded later, reads it

HEAD = "POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "


@dataclass
class Load:
    """What some clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lasted_s: float = 0.0  # until the last answer, which a slow model gives long after the last question

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.seconds, share))


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[str, bool]:
    """Send one request and return its status, and whether the connection stays."""
    writer.write(HEAD.encode() + str(len(body)).encode() + b"\r\n\r\n" + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
    return head.split()[1], "connection: close" not in head


async def client(port: int, bodies: list[bytes], until: float, load: Load, rng: random.Random) -> None:
    """Ask until the time is up, or the service has closed its door."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            load.statuses["door closed"] += 1
            return
        stays = True
        try:
            while stays and time.monotonic() < until:
                begin = time.monotonic()
                status, stays = await ask(reader, writer, rng.choice(bodies))
                load.statuses[status] += 1
                load.seconds.append(time.monotonic() - begin)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            load.statuses[type(error).__name__] += 1
        writer.close()


async def clients(port: int, bodies: list[bytes], count: int, seconds: float) -> Load:
    """Let clients ask for some seconds, as fast as they are answered."""
    load, begin = Load(), time.monotonic()
    await asyncio.gather(*(client(port, bodies, begin + seconds, load, random.Random(n)) for n in range(count)))
    load.lasted_s = time.monotonic() - begin
    return load


async def arrivals(port: int, bodies: list[bytes], rate: float, seconds: float) -> Load:
    """Ask at random times, `rate` requests a second on average, whether or not those before are answered.

    Each has a connection of its own, and its time counts from when it was due.
    """
    load, begin, rng = Load(), time.monotonic(), random.Random(0)
    due, asked = rng.expovariate(rate), []
    while due < seconds:
        await asyncio.sleep(begin + due - time.monotonic())
        asked.append(asyncio.create_task(arrival(port, rng.choice(bodies), begin + due, load)))
        due += rng.expovariate(rate)
    await asyncio.gather(*asked)
    load.lasted_s = time.monotonic() - begin
    return load


async def arrival(port: int, body: bytes, due: float, load: Load) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _ = await ask(reader, writer, body)
        writer.close()
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        load.statuses[type(error).__name__] += 1
        return
    load.statuses[status] += 1
    load.seconds.append(time.monotonic() - due)


def batch_rate(recommender: Any, histories: list[list[str]], size: int, k: int, seconds: float) -> float:
    """Return the histories a second that the recommender itself answers, in batches of a size."""
    recommender.recommend(histories[:size], k)
    begin, done = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        chosen = [histories[(done + n) % len(histories)] for n in range(size)]
        done += len(recommender.recommend(chosen, k))
    return done / (time.monotonic() - begin)


def explain_ratio(recommender: Any, histories: list[list[str]], k: int, softmax: str, turns: int) -> float:
    """Return the median time of an explanation over that of the recommendation it explains, in turn."""
    asked = replace(recommender, softmax=softmax)
    ratios = []
    for history in histories[: turns + 1]:
        begin = time.perf_counter()
        best = asked.recommend([history], k)[0][0]
        middle = time.perf_counter()
        asked.explain(history, best.title)
        ratios.append((time.perf_counter() - middle) / (middle - begin))
    return float(np.median(ratios[1:]))


def main(args: argparse.Namespace) -> None:
    from cftrec import Recommender
    from common import report

    rng = np.random.default_rng(0)
    recommender = Recommender.from_pretrained(args.run)
    titles, share = recommender.catalogue.titles, recommender.counts / recommender.counts.sum()
    histories = [
        [titles[item] for item in rng.choice(len(titles), args.history, replace=False, p=share)] for _ in range(500)
    ]
    bodies = [json.dumps({"histories": [history], "k": args.k}).encode() for history in histories]
    part = args.seconds / 4
    explained = {
        softmax: explain_ratio(recommender, histories, args.k, softmax, args.explanations) for softmax in args.softmax
    }
    before = batch_rate(recommender, histories, args.clients, args.k, part)
    serve = ["serve", str(args.run), "--port", "0", "--timeout", str(args.timeout)]
    command = [sys.executable, "-m", "cftrec.cli", *serve]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert service.stdout is not None
    port = int(service.stdout.readline().rstrip("/\n").rsplit(":", 1)[1])
    process = psutil.Process(service.pid)
    try:
        uvloop.run(clients(port, bodies, args.clients, part))
        memory = process.memory_info().rss
        full = uvloop.run(clients(port, bodies, args.clients, args.seconds))
        rate = len(full.seconds) / full.lasted_s
        half = uvloop.run(arrivals(port, bodies, rate / 2, args.seconds))
        grown = process.memory_info().rss / memory - 1
        ending = uvloop.run(with_sigterm(service, port, bodies, args.clients))
        code = service.wait(60)
    finally:
        service.kill()
    after = batch_rate(recommender, histories, args.clients, args.k, part)
    result = {
        "options": {name: value for name, value in vars(args).items() if name not in ("run", "save")},
        "model": {
            "parameters": sum(p.numel() for p in recommender.model.parameters()),
            "items": len(titles),
            "dtype": str(recommender.model.dtype).removeprefix("torch."),
        },
        "explain_over_recommend": explained,
        "batch_per_s": [before, after],
        "served_per_s": rate,
        "served_over_batch": rate / ((before + after) / 2),
        "full_load": {"statuses": full.statuses, "p50_s": full.quantile(0.5), "p99_s": full.quantile(0.99)},
        "half_load": {
            "asked_per_s": rate / 2,
            "statuses": half.statuses,
            "p50_s": half.quantile(0.5),
            "p99_s": half.quantile(0.99),
        },
        "half_load_p99_over_p50": half.quantile(0.99) / half.quantile(0.5),
        "memory": {"requests": len(full.seconds) + len(half.seconds), "growth": grown, "mib": memory / 2**20},
        "sigterm": {"statuses": ending.statuses, "exit_code": code},
    }
    report(f"serving-{args.name or args.run.name}", result, args.save)


async def with_sigterm(service: subprocess.Popen[str], port: int, bodies: list[bytes], count: int) -> Load:
    """Tell the service to end while clients ask; each goes on until it finds the door closed."""
    asked = asyncio.create_task(clients(port, bodies, count, 30))
    await asyncio.sleep(1)
    service.send_signal(signal.SIGTERM)
    return await asked


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    options.add_argument("run", type=Path, help="RUN folder")
    options.add_argument("--name", help="of the setting, in the result's name; the RUN's without it")
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--seconds", type=float, default=60, help="of full load, and of half")
    options.add_argument(
        "--timeout", type=float, default=30, help="seconds, of the service; longer than all clients take"
    )
    options.add_argument("--history", type=int, default=10, help="titles of a history")
    options.add_argument("--explanations", type=int, default=10, help="timed under each softmax")
    softmaxes = ("catalogue", "vocabulary")
    options.add_argument(
        "--softmax",
        nargs="+",
        choices=softmaxes,
        default=softmaxes,
        help="a large model's exact search under the vocabulary's takes minutes a history",
    )
    options.add_argument("-k", type=int, default=10)
    main(options.parse_args())
