"""Write docs/results.md and its pictures from the results under benchmarks/results/quality/, whichever there are."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cftrec.evaluation import verdict as verdicts
from cftrec.evaluation.verdict import METRIC, SURE, is_sure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quality"
PAGE = ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "results"
BASELINES = ("popular", "itemknn", "ease", "sasrec", "bert4rec")
INTRODUCTION = """\
Made by `benchmarks/evidence.py` from `benchmarks/results/quality/`; nothing here is typed by hand. A study is a
file of `benchmarks/quality/`, run by the commands of cftrec. Our methods in a study have equal steps, and each its
own search of equally many trials on the validation split, whatever number of options it has to search; baselines
have the search of `cftrec baseline`. "plain with sasrec" is plain's RUNs ranking with the scores of that SASRec
mixed in (`cftrec evaluate --helper`), weight and scale chosen on validation. Settings are chosen on validation alone;
"our best" is the method, or the mixed row, with the best number on the test split. Every list ranks the whole
catalogue, less what the user has. Intervals (95 %) are bootstraps over users, and over training seeds where a
method has several; a baseline is one training. p is of the paired bootstrap, adjusted by Holm for all pairs of a
study; sure means that it and the permutation test's, adjusted alike, are below .05. Minutes are those of commands
that ran side by side.
"""

Result = dict[str, Any]
Test = dict[str, Any]


def write_page(studies: dict[str, Any]) -> None:
    """Write page and pictures; studies in the order of their files, those of one base after it."""
    found = load(studies)
    PAGE.write_text(page(found, waiting(studies, found)), encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    for name, result in found.items():
        picture(result, PICTURES / f"{name}.svg")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def load(studies: dict[str, Any]) -> dict[str, Result]:
    """Return the results that are there, by study."""
    order = sorted(studies, key=lambda name: (studies[name].get("base", name), "base" in studies[name], name))
    paths = {name: RESULTS / f"{name}.json" for name in order}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def waiting(studies: dict[str, Any], found: dict[str, Result]) -> list[str]:
    """Return the titles of the studies that have no result."""
    return [study["title"] for name, study in studies.items() if name not in found]


def page(results: dict[str, Result], missing: list[str]) -> str:
    """Return the page of some studies' results, which names those that have none."""
    sections = [section(name, result) for name, result in results.items()]
    if missing:
        sections.append("\n".join(["## Not run yet", "", *(f"- {title}" for title in missing), ""]))
    return "\n".join(["# Results\n", verdict(results) + "\n", INTRODUCTION, *sections])


def verdict(results: dict[str, Result]) -> str:
    """Return the first paragraph: whether our best is above SASRec and above plain, data set by data set."""
    mains = {name: result for name, result in results.items() if "base" not in result["study"]}
    told = [
        f"{result['study']['title']}: our best is {standing(result, best_of(result), rivals(result))}."
        for result in mains.values()
        if result["methods"]
    ]
    for result in results.values():
        base = results.get(result["study"].get("base", ""))
        if base is not None and "sasrec" in result.get("baselines", {}) and not result.get("mixed"):
            of = f"{base['study']['title']}, {lowered(result['study']['title'])}"
            told.append(f"{of}: our best is {standing(result, best_of(result), rivals(result))}.")
    for result in results.values():
        mixed = best_of(result, "mixed")
        if mixed is not None:
            log = results.get(result["study"].get("base"), result)["study"]["title"]
            helper = helper_of(result, mixed)
            others = standing(result, mixed, tuple(dict.fromkeys((*rivals(result), helper, f"plain with {helper}"))))
            told.append(f"{log}, with a helper's scores mixed in: our best is {others}.")
    if not told:
        return prose("No study has been run yet.")
    return prose(" ".join([conclusion(mains, results), *told]))


def lowered(title: str) -> str:
    return title[:1].lower() + title[1:]


def rivals(result: Result) -> tuple[str, ...]:
    """Return what our best is told against: plain, SASRec, and whichever baseline is best."""
    best = best_of(result, "baselines")
    return ("plain", "sasrec", *([best] if best not in (None, "sasrec") else []))


def standing(result: Result, name: str | None, others: tuple[str, ...]) -> str:
    """Say how good a row is, and how far above others."""
    assert name is not None
    value = next(row[METRIC] for row in result["summary"]["rows"] if row["model"] == name)
    against = [
        f"{lead(result, name, other)['difference']:+.4f} against {other} ({sureness(lead(result, name, other))})"
        for other in others
        if has(result, other) and other != name
    ]
    return ", ".join([f"{name} with {METRIC} {value:.4f}", *against])


def conclusion(mains: dict[str, Result], results: dict[str, Result]) -> str:
    """Say whether counterfactual fine-tuning helps, and whether our best is the best there is."""
    told = []

    def mixed(result: Result) -> str | None:
        return best_of(result, "mixed")

    questions: tuple[
        tuple[str, dict[str, Result], Callable[[Result], str | None], Callable[[Result, str], str]], ...
    ] = (
        ("CFT is {} plain fine-tuning", mains, lambda one: "cft" if has(one, "cft") else None, lambda *_: "plain"),
        ("Our best method is {} the tuned SASRec", mains, best_of, lambda *_: "sasrec"),
        (
            "With a helper's scores mixed in, as D3 does, our best is {} the tuned SASRec",
            results,
            mixed,
            lambda *_: "sasrec",
        ),
        ("It is {} the helper alone", results, mixed, helper_of),
    )
    for sentence, among, asked, rival in questions:
        pairs = [
            (result, name, rival(result, name)) for result in among.values() if (name := asked(result)) is not None
        ]
        tests = [lead(result, name, other) for result, name, other in pairs if name != other and has(result, other)]
        sure = [test["difference"] > 0 for test in tests if is_sure(test)]
        counts = {"surely above": sum(sure), "surely below": len(sure) - sum(sure)}
        for how, count in counts.items():
            if count:
                told.append(sentence.format(how) + f" in {count} of {len(tests)} studies.")
        if tests and not sure:
            told.append(f"{sentence.format('not surely above or below')} in any study ({len(tests)}).")
    return " ".join(told)


def has(result: Result, name: str) -> bool:
    return any(row["model"] == name for row in result["summary"]["rows"])


def best_of(result: Result, kind: str = "methods") -> str | None:
    """Return our method (or mixed row, or baseline, by kind) with the best NDCG@10; None where there is none."""
    values = {row["model"]: row[METRIC] for row in result["summary"]["rows"]}
    return max(result.get(kind, {}), key=lambda name: values[name], default=None)


def helper_of(result: Result, mixed: str) -> str:
    return result["mixed"][mixed]["helper"]


def section(name: str, result: Result) -> str:
    study = result["study"]
    parts = [f"## {study['title']}"]
    if "question" in study:
        parts.append(prose(study["question"] + seeds(study)))
    else:
        parts.append(prose(setting(result)))
    parts += [f"![{METRIC} of every row with its interval](results/{name}.svg)", rows_table(result)]
    parts.append(tests_text(result))
    if result.get("mixed") and "base" in study:
        parts.append(searches(result))
    if "base" not in study:
        parts += ["### What the searches found", searches(result), "### Where", where(result)]
        parts += ["### Popularity", popularity(result), "### Does the effect fade along a title?", fading(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def setting(result: Result) -> str:
    counts, study = result["data"]["counts"], result["study"]
    options = ", ".join(f"{key} {value}" for key, value in study["options"].items())
    search = study.get("search", {})
    first = next(iter(result["methods"].values()), {"epochs": [0.0], "parameters": 0})
    return (
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['events']:,} events; "
        f"{result['data']['targets']:,} test targets. Our methods: {options}; {first['epochs'][0]:.1f} epochs, "
        f"{first['parameters'] / 1e6:.1f} million parameters, seeds {', '.join(map(str, study['seeds']))}, "
        f"{search.get('trials', 0)} trials a method. Machine: {result['machine']['cpu']}, {result['machine']['jobs']} "
        "commands at once."
    )


def seeds(study: dict[str, Any]) -> str:
    """Say with which seeds a question's methods are trained, or mixed; those beside them may have more."""
    if not study.get("methods") and not study.get("mixed"):
        return ""
    return f" {'Seeds' if len(study['seeds']) > 1 else 'One seed:'} {', '.join(map(str, study['seeds']))}."


def rows_table(result: Result) -> str:
    head = ("", METRIC, "95 % interval", "HR@10", "MRR@10", "coverage@10", "Gini@10", "minutes", "tokens a step")
    rows = []
    for row in result["summary"]["rows"]:
        low, high = row[f"{METRIC}_ci"]
        facts = result["methods"].get(row["model"], {})
        rows.append(
            (
                row["model"],
                f"{row[METRIC]:.4f}",
                f"{low:.4f} to {high:.4f}",
                *(f"{row[metric]:.4f}" for metric in ("HR@10", "MRR@10")),
                *(f"{row[metric]:.2f}" for metric in ("coverage@10", "Gini@10")),
                minutes(result, row["model"]),
                f"{facts['tokens_a_step']:,.0f}" if facts else "",
            )
        )
    note = (
        "Minutes are those of one training and, after a plus, of the search; what an interruption lost is not in them."
    )
    return table(head, rows) + "\n\n" + prose(note)


def minutes(result: Result, name: str) -> str:
    if name in result["methods"]:
        facts = result["methods"][name]
        training = sum(facts["train_seconds"]) / len(facts["train_seconds"]) / 60
        searching = sum(cell.get("seconds", 0) for cell in facts["search"]) / 60
        return f"{training:.1f}" + (f" + {searching:.1f}" if searching else "")
    if name in result["baselines"]:
        return f"{result['baselines'][name]['seconds'] / 60:.1f} in all"
    return ""


def tests_text(result: Result) -> str:
    """Return the tests of each row against plain (or the first of ours), one line each."""
    names = [row["model"] for row in result["summary"]["rows"]]
    reference = next(name for name in ("plain", *names) if name in names)
    rows = []
    for name in names:
        if name != reference:
            test = lead(result, name, reference)
            low, high = test["ci"]
            rows.append(
                (
                    name,
                    f"{test['difference']:+.4f}",
                    f"{low:+.4f} to {high:+.4f}",
                    p_value(test["p"]),
                    p_value(test["p_holm"]),
                    p_value(test["p_permutation_holm"]),
                )
            )
    head = (f"against {reference}", METRIC, "95 % interval", "p", "p, Holm", "p of the permutation test, Holm")
    return table(head, rows) if rows else ""


def searches(result: Result) -> str:
    rows = []
    for name, facts in result["methods"].items():
        for place, cell in enumerate(facts["search"]):
            options = ", ".join(f"{key} {shown(value)}" for key, value in cell["options"].items())
            value = "" if cell.get("value") is None else f"{cell['value']:.4f}"
            rows.append((name if place == 0 else "", options, value, cell["state"]))
    for name, facts in result["baselines"].items():
        best = sorted(facts["trials"], key=lambda trial: -trial["NDCG@10"])
        for place, trial in enumerate(best):
            options = ", ".join(f"{key} {trial['settings'][key]}" for key in facts["searched"])
            rows.append((name if place == 0 else "", options, f"{trial['NDCG@10']:.4f}", "complete"))
    for name, facts in result.get("mixed", {}).items():
        judged = sorted(facts["tried"], key=lambda tried: -tried[2])
        for place, (weight, scale, value) in enumerate(judged):
            options = f"helper_weight {weight}" + ("" if scale == 1 else f", helper_scale {scale}")
            rows.append((name if place == 0 else "", options, f"{value:.4f}", "complete"))
    losses = result["study"].get("search", {}).get("metric") == "eval_normal"
    head = f"validation {METRIC}" + (", of our methods the plain loss" if losses else "")
    return table(("", "options", head, ""), rows)


def shown(value: Any) -> str:
    """Return a number in three digits, and what is none as it is."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return str(value)


def where(result: Result) -> str:
    """Return NDCG@10 by kind of target."""
    cut: dict[tuple[str, str], dict[str, Any]] = {}
    for row in result["summary"]["slices"]:
        cut.setdefault((row["slice"], row["value"]), {})[row["model"]] = row
    names = [row["model"] for row in result["summary"]["rows"]]
    rows = [
        (
            f"{kind} {value}",
            f"{next(iter(models.values()))['targets']:,}",
            *(f"{models[name][METRIC]:.4f}" if METRIC in models[name] else "" for name in names),
        )
        for (kind, value), models in cut.items()
    ]
    return table(("targets", "number", *names), rows)


def popularity(result: Result) -> str:
    found = result["summary"]["popularity"]
    groups = range(1, len(found["training"]) + 1)
    rows = [("histories", *(f"{share:.2f}" for share in found["histories"]))]
    rows += [(name, *(f"{share:.2f}" for share in shares)) for name, shares in found["recommended"].items()]
    text = (
        "The share of the first ten recommendations that falls into each of five groups of items of equal training "
        "mass, the few most popular items first."
    )
    return prose(text) + "\n\n" + table(("", *(f"group {group}" for group in groups)), rows)


def fading(result: Result) -> str:
    lines = []
    for name, found in result["summary"]["effects"].items():
        curve = ", ".join(
            f"{one['choice']}: {one['mean']:.2f}" for one in found["by_choice"] if one["mean"] is not None
        )
        low, high = found["effect"]["ci"]
        mean = f"{found['effect']['mean']:.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"- {name}: effect on the true title {mean} nats; by choice {curve}. {found['fade']['sentence']}")
    return "\n".join(textwrap.fill(line, 118, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def lead(result: Result, name: str, other: str) -> Test:
    """Return the test of one row against another, a positive difference speaking for the first."""
    return verdicts.lead(result["summary"]["tests"], name, other)


def sureness(test: Test) -> str:
    told = f"p = {p_value(test['p'])}, {p_value(test['p_holm'])} by Holm"
    if test["p_holm"] < SURE <= test["p_permutation_holm"]:
        told += f", {p_value(test['p_permutation_holm'])} by permutation"
    return f"{told}: {'sure' if is_sure(test) else 'not sure'}"


def p_value(p: float) -> str:
    return f"{p:.3f}"


def picture(result: Result, path: Path) -> None:
    """Draw NDCG@10 of every row with its interval."""
    rows = result["summary"]["rows"]
    others = {*BASELINES, *result["baselines"]}
    with matplotlib.rc_context({"svg.hashsalt": "cftrec", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure((6.4, 0.8 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(rows):
            low, high = row[f"{METRIC}_ci"]
            ours = row["model"] not in others
            axes.plot([low, high], [place, place], color="#2266aa" if ours else "#888888", linewidth=2)
            axes.plot([row[METRIC]], [place], "o", color="#2266aa" if ours else "#888888")
        axes.set_yticks(range(len(rows)), [row["model"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{METRIC} on the test split, 95 % intervals")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")


def prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 118, break_on_hyphens=False, break_long_words=False)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
