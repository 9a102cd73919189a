"""Write docs/results.md and its pictures from the results under benchmarks/results/quality/, whichever there are."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cftrec.evaluation import verdict as verdicts
from cftrec.evaluation.verdict import METRIC, is_sure

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
method has several; a baseline is one training. p is of the paired bootstrap unless said otherwise; sure means
that it and the permutation test's, both adjusted by Holm for all pairs of a study, are below .05. Minutes are those of
commands that ran side by side.
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
    """Return what came out: whether CFT is above plain and our best above SASRec, in words and study by study."""
    told = [line for result in results.values() for line in told_of(results, result)]
    if not told:
        return "No study has been run yet."
    measured = ("CFT over plain", "our best", METRIC, "over plain", "over SASRec", "over other baselines")
    head = ("log and model", "seeds", *measured)
    note = (
        "Differences of NDCG@10 on the test split. In brackets p, the larger one of bootstrap and permutation, "
        "adjusted by Holm for all pairs of a study; bold is sure."
    )
    return "\n\n".join([prose(conclusion(results)), table(head, told), prose(note)])


def told_of(results: dict[str, Result], result: Result) -> list[tuple[str, ...]]:
    """Return a line each of a study's best method and best mixture: of those that all can be told against SASRec."""
    base, title = results.get(result["study"].get("base", "")), result["study"]["title"]
    lines, count = [], str(len(result["study"]["seeds"]))
    method, mixed = best_of(result), best_mixed(result)
    if method is not None and mixed is None and (is_main(result) or (base and "sasrec" in result["baselines"])):
        name = title if base is None or is_main(result) else f"{base['study']['title']}, {lowered(title)}"
        again = {"cft", "plain"} <= {*result["methods"]}  # both trained once more
        gain = over(result, own(result, "cft"), own(result, "plain")) if is_main(result) or again else ""
        lines.append((name, count, gain, *standing(result, method)))
    if mixed is not None:
        log, helper = (base or result)["study"]["title"], helper_of(result, mixed)
        gain = over(result, f"cft with {helper}", f"plain with {helper}")
        lines.append((f"{log}, with {helper}'s scores mixed in", count, gain, *standing(result, mixed)))
    return lines


def is_main(result: Result) -> bool:
    """Say whether a study compares CFT with plain fine-tuning on a log or of a model that no other study has."""
    kinds = {name.split()[0] for name in result["methods"]}
    return "base" not in result["study"] or ("model" in result["study"]["options"] and {"plain", "cft"} <= kinds)


def lowered(title: str) -> str:
    return title[:1].lower() + title[1:]


def own(result: Result, kind: str) -> str:
    """Return the study's own method that is plain fine-tuning or CFT, such as "cft SmolLM2"; else what its base has."""
    return next((name for name in result["methods"] if name.split()[0] == kind), kind)


def standing(result: Result, name: str) -> tuple[str, ...]:
    """Return a row's name, how good it is, and how far above plain, SASRec and the best baselines."""
    plain, is_mixed = own(result, "plain"), name in result.get("mixed", {})
    helper, rivals = ([helper_of(result, name)], result.get("rivals", {})) if is_mixed else ([], {})
    given = [row["model"] for row in result["summary"]["rows"] if row["model"] in {*BASELINES, *result["baselines"]}]
    told = result["study"].get("baselines", {})
    foreign = [one for one in given if "data" in (told.get(one) or {})]  # trained on another log
    alike = [one for one in given if one not in foreign]
    best = sorted(alike, key=lambda one: -value_of(result, one))[:1]
    others = [one for one in dict.fromkeys((*best, *foreign, *helper, *rivals)) if one != "sasrec"]
    return (
        name,
        f"{value_of(result, name):.4f}",
        over(result, name, plain),
        over(result, name, "sasrec"),
        ", ".join(f"{one} {over(result, name, one)}" for one in others),
    )


def over(result: Result, name: str, other: str) -> str:
    """Return by how much a row is above another, and p; bold where that is sure, empty where one is not there."""
    if name == other or not has(result, name) or not has(result, other):
        return ""
    test = lead(result, name, other)
    told = f"{round(test['difference'], 4) + 0.0:+.4f} ({p_value(max(test['p_holm'], test['p_permutation_holm']))})"
    return f"**{told}**" if is_sure(test) else told


def conclusion(results: dict[str, Result]) -> str:
    """Say whether counterfactual fine-tuning helps, and whether our best is the best there is."""
    mains = [result for result in results.values() if is_main(result)]
    mixtures = [result for result in results.values() if result.get("mixed")]
    questions: tuple[tuple[str, list[Result], Callable[[Result], str | None], Callable[[Result, str], str]], ...] = (
        ("CFT is {} plain fine-tuning", mains, lambda one: own(one, "cft"), lambda one, _: own(one, "plain")),
        ("Our best method is {} the tuned SASRec", mains, best_of, lambda *_: "sasrec"),
        (
            "With a helper's scores mixed in, as D3 does, our best is {} the tuned SASRec",
            mixtures,
            best_mixed,
            lambda *_: "sasrec",
        ),
        ("It is {} the helper alone", mixtures, best_mixed, helper_of),
        (
            "It is {} a mixture of two baselines",
            [result for result in mixtures if result.get("rivals")],
            best_mixed,
            lambda result, _: str(best_of(result, "rivals")),
        ),
    )
    told = []
    for sentence, among, asked, rival in questions:
        pairs = [(result, name, rival(result, name)) for result in among if (name := asked(result)) is not None]
        tests = [
            lead(result, name, other)
            for result, name, other in pairs
            if name != other and has(result, name) and has(result, other)
        ]
        sure = [test["difference"] > 0 for test in tests if is_sure(test)]
        counts = {"surely above": sum(sure), "surely below": len(sure) - sum(sure)}
        for how, count in counts.items():
            if count:
                told.append(sentence.format(how) + f" in {count} of {len(tests)} studies.")
        if tests and not sure:
            told.append(f"{sentence.format('not surely above or below')} in any study ({len(tests)}).")
    return " ".join(told)


def value_of(result: Result, name: str) -> float:
    return float(next(row[METRIC] for row in result["summary"]["rows"] if row["model"] == name))


def has(result: Result, name: str) -> bool:
    return any(row["model"] == name for row in result["summary"]["rows"])


def best_of(result: Result, kind: str = "methods") -> str | None:
    """Return our method (or mixed row, or baseline, or rival, by kind) with the best NDCG@10, or None."""
    return max(result.get(kind, {}), key=lambda name: value_of(result, name), default=None)


def best_mixed(result: Result) -> str | None:
    return best_of(result, "mixed")


def helper_of(result: Result, mixed: str) -> str:
    return result["mixed"][mixed]["helper"]


def section(name: str, result: Result) -> str:
    study = result["study"]
    parts = [f"## {study['title']}"]
    if "question" in study:
        parts.append(prose(study["question"] + seeds(result)))
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


def seeds(result: Result) -> str:
    """Say with which seeds a question's methods are trained, or mixed, and which rows beside them have others."""
    study, own_rows = result["study"], {*result["methods"], *result.get("mixed", {})}
    if not own_rows:
        return ""
    beside = {name: len(runs) for name, runs in result["summary"]["seeds"].items() if name not in own_rows}
    told = [f"{name} {count}" for name, count in beside.items() if count != len(study["seeds"])]
    text = f" {'Seeds' if len(study['seeds']) > 1 else 'One seed:'} {', '.join(map(str, study['seeds']))}."
    return text + (f" Trainings of the rows beside: {', '.join(told)}." if told else "")


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
    """Return the tests of each row against the study's plain fine-tuning (or the first row), one line each."""
    names = [row["model"] for row in result["summary"]["rows"]]
    reference = next(name for name in (own(result, "plain"), *names) if name in names)
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
    for name, facts in (result.get("mixed", {}) | result.get("rivals", {})).items():
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


def p_value(p: float) -> str:
    return f"{p:.3f}"


def picture(result: Result, path: Path) -> None:
    """Draw NDCG@10 of every row with its interval."""
    rows = result["summary"]["rows"]
    others = {*BASELINES, *result["baselines"], *result.get("rivals", {})}
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
