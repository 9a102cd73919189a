"""Write docs/performance.md from the results under benchmarks/results/, whichever there are."""

import argparse
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
DATA = {"ml-100k": "ML-100K", "games": "Games"}
MODELS = {"nano": "nano", "smollm2": "SmolLM2-135M"}
SAMPLERS = {"users": "whole users", "windows": "whole windows", "random": "random samples"}
SIDES = {
    "ours": "cftrec, CFT",
    "ours_compiled": "cftrec, CFT, `torch_compile=true`",
    "ours_catalogue": "cftrec, CFT under the catalogue softmax",
    "ours_plain": "cftrec, plain fine-tuning",
    "published_cft": "published CFT: two padded passes, full logits",
    "padded_plain": "plain fine-tuning, padded, full logits",
    "unpadded_plain": "plain fine-tuning, a sample at a time, target logits only",
    "trl_padded": "TRL SFTTrainer, padded",
    "trl_packed": "TRL SFTTrainer, packed",
}
DECODERS = {
    "exact": "exact search",
    "beam": "the same search by levels, {beams} beams",
    "generate": "`generate`, {beams} beams, batch {batch}",
}
INTRODUCTION = """# Performance

Made by `benchmarks/page.py` from the JSON under `benchmarks/results/`; nothing here is typed by hand. `make bench`
measures again, but for TRL (`benchmarks/peers/README.md`), compiled layers (`train_step.py --compiled`,
`compiled_step.py`) and serving (`serving.py`). Where a table has sides, they took turns in one process; times are
medians, and ratios are medians over the turns of one side's time over the other's in the same turn. Preparing a long
log and serving are single runs.
"""

Result = dict[str, Any]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(load()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def load() -> list[Result]:
    """Return the results that benchmarks have kept, by name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return [result for result in found if "benchmark" in result]


def page(results: list[Result]) -> str:
    """Return the page; a section without results says so."""
    of = {name: [r for r in results if r["benchmark"].startswith(name)] for name in SECTIONS}
    sections = [INTRODUCTION]
    for name, (title, section) in SECTIONS.items():
        body = section(of[name]) if of[name] else ["No results yet."]
        sections.append("\n\n".join([f"## {title}", *body]) + "\n")
    if results:
        sections.append("\n\n".join(["## Machines", table(*machines(results))]) + "\n")
    return "\n".join(sections)


def steps(results: list[Result]) -> list[str]:
    """Write the sides of every setting: forward and backward of a step."""
    text = [
        prose(
            "Forward and backward of one optimizer step, no optimizer. Where it says bf16, ours computes in bf16 over "
            "fp32 weights and the others have bf16 weights; micro-batches of the padded sides are 16 samples. Tokens "
            "computed are a step's, of both branches and with padding; the naive count is that of two unpadded passes."
        )
    ]
    for result in results:
        options = result["options"]
        facts = f"{options['tokens_computed']:,.0f} tokens computed a step, {options['tokens_naive_cft']:,.0f} naively"
        rows = [
            (
                SIDES.get(side, side),
                seconds(times["median_s"]),
                f"{seconds(times['min_s'])} to {seconds(times['max_s'])}",
                f"{options['samples'] / times['median_s']:.1f}",
                f"{times['over_ours']:.2f}",
            )
            for side, times in result["sides"].items()
        ]
        share = result["sides"]["ours"].get("linear_over_gemm")
        if share is not None:
            facts += f"; linear layers and head run at {share:.2f} of the rate of their bare products"
        if "ours_compiled" in result["sides"]:
            facts += f", with compiled layers at {result['sides']['ours_compiled']['linear_over_gemm']:.2f}"
        most = options.get("most_tokens")
        told = (
            f" Steps with a sample longer than {most} tokens are left out, for the memory of the padded sides."
            if most
            else ""
        )
        text += [f"### {setting(options)}", f"{facts}; {options['repeats']} turns.{told}"]
        text.append(table(("side", "median", "range", "samples/s", "time over ours"), rows))
    return text


def compiled(results: list[Result]) -> list[str]:
    """Write what compiled layers gain and cost."""
    rows = [
        (
            setting(result["options"]),
            *(seconds(result["sides"][side]["median_s"]) for side in ("ours", "ours_compiled")),
            f"{result['sides']['ours_compiled']['over_ours']:.2f}",
            *(f"{result['sides'][side]['linear_over_gemm']:.2f}" for side in ("ours", "ours_compiled")),
            seconds(result["sides"]["ours_compiled"]["first_s"]),
        )
        for result in results
    ]
    return [
        prose(
            "`torch_compile=true` compiles the model's layers at the first steps of a run. The rate is that of linear "
            "layers and head over their bare products; the first two steps hold the compiling."
        ),
        table(("setting", "as they are", "compiled", "ratio", "rate", "rate, compiled", "first two steps"), rows),
    ]


def peers(results: list[Result]) -> list[str]:
    """Write the same for the peers, and what they were set to."""
    text = [
        prose(
            "Plain fine-tuning by TRL on the same samples and model, each kind at the fastest of the sizes tried. On a "
            "CPU it scores every token, on a GPU the targets' alone."
        )
    ]
    for result in results:
        chosen = ", ".join(f"`{name}`" for name in result["options"]["chosen"].values())
        first, *rest = steps([result])[1:]
        text += [first, f"TRL {result['options']['trl']}, chosen: {chosen}.", *rest]
    return text


def memory(results: list[Result]) -> list[str]:
    """Write the loss's extra memory."""
    text = []
    for result in results:
        options = result["options"]
        rows = [
            (
                f"{found['vocabulary']:,}",
                found["meaning"],
                *(f"{found['peak_mib'][side]:,.0f} MiB{grown(found, side)}" for side in ("ours", "full_logits")),
                f"{found['ours_over_full_logits']:.3f}",
                f"{found['time_over_full_logits']:.2f}",
            )
            for found in (*result["precisions"].values(), *result["vocabularies"].values())
        ]
        head = ("vocabulary", "precision", "ours", "full logits", "memory ratio", "time over full logits")
        text += [
            prose(
                f"Peak beyond the inputs and the head's own gradient: {options['tokens']:,} target tokens, width "
                f"{options['hidden']:,}, {options['device']}. In brackets: growth of a fresh process's resident set."
            ),
            table(head, rows),
        ]
    return text


def grown(found: Result, side: str) -> str:
    """Return the resident growth in brackets, where it was measured."""
    value = found.get("resident_growth_mib", {}).get(side)
    return "" if value is None else f" ({value:,.0f})"


def step_memory(results: list[Result]) -> list[str]:
    """Write the memory of a step's activations and loss."""
    rows = [
        (
            setting(result["options"]),
            *(f"{result['peak_mib'][side]:,.0f} MiB" for side in ("ours", "published_cft")),
            f"{result['ours_over_published']:.3f}",
        )
        for result in results
    ]
    return [
        prose("Peak beyond weights and one gradient of them, the same samples in flight on both sides."),
        table(("setting", "ours", "published CFT", "ratio"), rows),
    ]


def forests(results: list[Result]) -> list[str]:
    """Write how fast steps are laid out."""
    text = []
    for result in results:
        rows = [
            (
                setting(result["options"] | found | {"bf16": found["step"]["precision"] != "fp32"}),
                f"{found['collate']['tokens_put_in']:,.0f}",
                f"{found['tokens_computed']:,.0f}",
                seconds(found["collate"]["median_s"]),
                f"{found['collate']['tokens_per_s'] / 1e6:.1f}",
                f"{found['build_forest']['tokens_per_s'] / 1e6:.1f}",
                f"{100 * found['collate_over_step']:.2f} %",
            )
            for found in result["settings"]
        ]
        head = (
            "setting",
            "tokens put in",
            "computed",
            "collate",
            "collate, M tokens/s",
            "forest, M tokens/s",
            "of a step",
        )
        text += [
            prose(
                "Making a step's samples into tensors, on one thread: prompts, forests, rows of both branches. Tokens "
                "put in are those of the naive computation; `forest` is `build_forest` alone."
            ),
            table(head, rows),
        ]
    return text


def reviews(results: list[Result]) -> list[str]:
    """Write how fast Amazon-shaped reviews are read and prepared."""
    names = {
        "read": "read: decompressed, parsed, checked, hashed",
        "prepare": "read and prepared (5-core, leave-one-out)",
    }
    names["plain_python"] = "`gzip` and `json.loads` a line"
    text = []
    for result in results:
        size, packed = (result["log"][name] / 1e6 for name in ("bytes", "gzip_bytes"))
        count = result["options"]["reviews"]
        text.append(prose(f"{count:,} generated reviews as of Amazon 2018, {size:,.0f} MB, {packed:,.0f} MB in gzip."))
        rows = [
            (
                names[side],
                seconds(times["median_s"]),
                f"{count / times['median_s']:,.0f}",
                f"{count / times['cpu_s']:,.0f}",
                f"{times['over_read']:.2f}",
            )
            for side, times in result["sides"].items()
        ]
        text.append(table(("side", "median", "reviews/s", "reviews/s of processor time", "time over reading"), rows))
    return text


def logs(results: list[Result]) -> list[str]:
    """Write how fast long logs are prepared and opened."""
    text = []
    for result in results:
        growth = result["time_per_event_last_over_first"]
        text.append(
            prose(
                "Generated MovieLens-25M-shaped CSV (60,000 items) to a dataset on disk; sorting is polars parsing the "
                "same columns as numbers, sorting by user and time, and writing. Time for an event at the largest size "
                f"over that at the smallest: {growth['seconds']:.2f}, of processor time {growth['cpu_s']:.2f}."
            )
        )
        rows = [
            (
                f"{size['events']:,}",
                *(
                    f"{side['seconds']:.1f} s ({side['cpu_s']:.1f} s), {side['peak_mib']:,.0f} MiB"
                    for side in (size["sides"]["prepare"], size["sides"]["sort"])
                ),
                f"{size['prepare_over_sort']:.2f}",
                seconds(size["opened"]["seconds"]),
                f"{size['opened']['sample_us']:.1f} µs",
            )
            for size in result["sizes"]
        ]
        head = ("events", "prepare (processor), peak", "sorting alone", "ratio", "opening", "a random sample")
        text.append(table(head, rows))
    return text


def ranks(results: list[Result]) -> list[str]:
    """Write how long stored ranks take to evaluate."""
    rows = [
        (
            f"{result['options']['users']:,}",
            f"{result['options']['items']:,}",
            seconds(result["times"]["median_s"]),
            f"{seconds(result['times']['min_s'])} to {seconds(result['times']['max_s'])}",
            seconds(result["times"]["cpu_s"]),
        )
        for result in results
    ]
    facts = results[0]["options"]
    return [
        prose(
            f"From ranks.parquet to metrics.json and slices.json: {facts['metrics']} metrics with intervals, "
            f"{facts['slices']} slices, {facts['draws']:,} bootstrap draws; made-up ranks. CPU is that of all threads."
        ),
        table(("users", "items", "median", "range", "CPU"), rows),
    ]


def decoding(results: list[Result]) -> list[str]:
    """Write the sides of a search for the best titles."""
    text = [
        prose(
            "The best titles of test users by log p under the catalogue softmax, nothing left out: the exact search, "
            "and `generate` of transformers with a prefix function, renormalised, without length normalisation, at its "
            "fastest batch size. Search tokens come after the prompt. Recall is that of the true list; titles within "
            "1e-4 of its last one may stand for it."
        )
    ]
    for result in results:
        options, certified = result["options"], result["certified"]
        rows = [
            (
                DECODERS[side].format(**options, **result["generate"]),
                f"{facts['users_per_s']:.2f}",
                f"{facts['over_exact']:.2f}",
                f"{facts['search_tokens_a_user']:.0f}",
                f"{facts['recall']:.4f}",
                f"{facts['mean_score']:.4f}",
            )
            for side, facts in result["sides"].items()
        ]
        name = f"{MODELS.get(options['model'], options['model'])}, {DATA[options['data']]}"
        by_vocabulary = (
            f", under the vocabulary softmax {certified['vocabulary']:.1%} of {options['vocabulary_users']}"
            if "vocabulary" in certified
            else ""
        )
        checked = result["recall_of_exact_by_brute_force"]
        oracle = (
            "" if checked is None else f"; against every title's log p ({options['check']} users) recall {checked:.4f}"
        )
        text += [
            f"### {name}, {options['titles']:,} titles, {'bf16' if options['bf16'] else 'fp32'}",
            prose(
                f"{options['users']} users, top {options['k']}, {options['repeats']} turns, a model trained for "
                f"{options['steps']} steps. Certified with the default "
                f"budget: {certified['catalogue']:.1%} of users{by_vocabulary}{oracle}."
            ),
            table(("side", "users/s", "time over exact", "search tokens a user", "recall", "mean log p"), rows),
        ]
    return text


def large_tries(results: list[Result]) -> list[str]:
    """Write what a large catalogue's trie costs."""
    rows = [
        (
            f"{result['items']['large']:,}",
            f"{result['nodes']['large']:,}",
            seconds(result["build_s"]),
            f"{result['build_peak_bytes'] / 2**20:,.0f} MiB",
            f"{result['stored_bytes'] / 2**20:,.0f} MiB",
            seconds(result["open_s"]),
            seconds(result["first_use_s"]),
            f"{result['per_node_over_small']:.2f}",
            f"{result['per_beginning_over_small']:.2f}",
        )
        for result in results
    ]
    small = ", ".join(f"{result['items']['small']:,}" for result in results)
    users = ", ".join(str(result["options"]["users"]) for result in results)
    return [
        prose(
            "Titles recombined from real ones, one thread. Memory is the whole process's peak while it builds; opening "
            "maps the files, and the first use makes what is derived from them. The last columns are the time of a "
            f"search of {users} users by `nano` over that with the {small} real titles: per trie node that the model "
            "computes, and per beginning expanded, which is a node and the forced ones behind it."
        ),
        table(
            ("titles", "nodes", "build", "memory", "on disk", "open", "first use", "time a node", "time a beginning"),
            rows,
        ),
    ]


SOFTMAXES = ("catalogue", "vocabulary")


def serving(results: list[Result]) -> list[str]:
    """Write what a service does under load."""
    text = [
        prose(
            "A RUN behind HTTP, clients and service on one machine. The batch decoder answers the same histories in "
            "batches as large as there are clients, before and after. Half load is requests at random times, half as "
            "many a second as the full load had answered, whether or not those before are answered, each on a "
            "connection of its own; failed are those of either load that got no answer, or another than 200. An "
            "explanation is of one item over the whole history."
        )
    ]
    rows = [
        (
            f"{result['model']['parameters'] / 1e6:.1f} M, {result['model']['items']:,} items, "
            f"{result['model']['dtype']}",
            f"{result['options']['clients']} for {result['options']['seconds']:.0f} s"
            + (f", time-out {result['options']['timeout']:.0f} s" if "timeout" in result["options"] else ""),
            f"{result['served_per_s']:.3g}",
            f"{result['served_over_batch']:.2f}",
            " to ".join(seconds(result["half_load"][name]) for name in ("p50_s", "p99_s")),
            f"{result['half_load_p99_over_p50']:.1f}",
            f"{failed(result):,}",
            f"{100 * result['memory']['growth']:.1f} % in {result['memory']['requests']:,} requests",
            *(f"{found:.2f}" if found else "" for found in map(result["explain_over_recommend"].get, SOFTMAXES)),
        )
        for result in results
    ]
    head = (
        "model",
        "clients",
        "requests/s",
        "over batch decoder",
        "p50 to p99 at half load",
        "p99 over p50",
        "failed",
        "memory",
    )
    text.append(table((*head, "explain over recommend, catalogue", "vocabulary softmax"), rows))
    return text


def failed(result: Result) -> int:
    """Return how many requests of both loads did not come to their answer."""
    statuses = [result[load]["statuses"] for load in ("full_load", "half_load")]
    return sum(count for one in statuses for status, count in one.items() if status != "200")


def machines(results: list[Result]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return what each result was measured on and with."""
    packages = ("cftrec", "torch", "transformers", "numpy")
    rows = [
        (
            f"`{result['benchmark']}`",
            f"{result['machine']['cpu']}, {result['machine']['threads']} threads",
            result["machine"]["python"],
            *(result["packages"][name] for name in packages),
        )
        for result in results
    ]
    return ("result", "machine", "Python", *packages), rows


def setting(options: Result) -> str:
    """Say what was trained on what."""
    parts = [
        MODELS.get(options["model"], options["model"]),
        DATA.get(options["data"], options["data"]),
        f"preset {options['prompt']}",
        f"W {options['window']} s {options['stride']}",
        SAMPLERS[options["sampler"]],
        f"{options['samples']} samples a step",
        "bf16" if options["bf16"] else "fp32",
    ]
    return ", ".join([*parts, *(f"`{text}`" for text in options["set"])])


def prose(text: str) -> str:
    """Wrap a paragraph as the other pages are."""
    return textwrap.fill(text, 120, break_long_words=False)


def seconds(value: float) -> str:
    """Write a time with three digits."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Write a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


SECTIONS = {
    "train_step": ("A training step", steps),
    "compiled_step": ("Compiled layers", compiled),
    "trl_sft": ("Against TRL", peers),
    "step_memory": ("Memory of a step", step_memory),
    "loss_memory": ("Memory of the loss", memory),
    "forest_build": ("Laying out a step", forests),
    "prepare": ("Preparing a long log", logs),
    "read_amazon": ("Reading Amazon reviews", reviews),
    "evaluate_ranks": ("Evaluating stored ranks", ranks),
    "decode": ("Decoding", decoding),
    "large_trie": ("A catalogue of a million titles", large_tries),
    "serving": ("Serving", serving),
}

if __name__ == "__main__":
    main()
