"""docs/results.md is what benchmarks/evidence_page.py makes of the committed results."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
evidence_page = pytest.importorskip("evidence_page")
evidence = importlib.import_module("evidence")


def row(model, value):
    metrics = {"NDCG@10": value, "HR@10": 2 * value, "MRR@10": value / 2, "coverage@10": 0.5, "Gini@10": 0.25}
    return {"model": model, **metrics, "NDCG@10_ci": [value - 0.01, value + 0.01]}


def pair(a, b, difference, p, permuted=None):
    low, high = difference - 0.01, difference + 0.01
    return {
        "a": a,
        "b": b,
        "metric": "NDCG@10",
        "difference": difference,
        "ci": [low, high],
        "p": p,
        "p_holm": min(1.0, 3 * p),
        "p_permutation": p if permuted is None else permuted,
        "p_permutation_holm": min(1.0, 3 * (p if permuted is None else permuted)),
    }


FACTS = {
    "options": {},
    "search": [{"options": {"learning_rate": "0.00123"}, "value": 0.07, "state": "complete", "seconds": 90.0}],
    "parameters": 1_900_000,
    "steps": [10, 10],
    "epochs": [1.5, 1.5],
    "tokens_a_step": 4321.0,
    "train_seconds": [60.0, 120.0],
    "evaluate_seconds": [5.0, 5.0],
}
RESULT = {
    "machine": {"cpu": "C", "threads": 1, "python": "3.11", "jobs": 2},
    "study": {"title": "A log", "options": {"max_steps": 10}, "seeds": [1, 2], "search": {"trials": 1}},
    "data": {"counts": {"users": 50, "items": 40, "events": 3000}, "split": "leave-one-out", "targets": 50},
    "methods": {"plain": FACTS, "cft": FACTS},
    "baselines": {
        "sasrec": {
            "config": {},
            "searched": ["dropout"],
            "trials": [{"settings": {"dropout": 0.3}, "NDCG@10": 0.08}],
            "epochs": 3,
            "seconds": 30.0,
            "libraries": {},
        }
    },
    "summary": {
        "headline": "",
        "seeds": {"plain": [{}, {}], "cft": [{}, {}]},
        "rows": [row("sasrec", 0.09), row("plain", 0.07), row("cft", 0.08)],
        "tests": [
            pair("plain", "sasrec", -0.02, 0.01),
            pair("cft", "sasrec", -0.01, 0.2),
            pair("cft", "plain", 0.01, 0.4),
        ],
        "slices": [
            {"slice": "cold target", "value": "no", "targets": 49} | row(n, 0.1) for n in ("sasrec", "plain", "cft")
        ],
        "popularity": {"training": [0.5, 0.5], "histories": [0.4, 0.6], "recommended": {"cft": [0.9, 0.1]}},
        "effects": {
            "cft": {
                "effect": {"mean": 0.5, "ci": [0.4, 0.6]},
                "by_choice": [{"choice": 1, "mean": 0.5}, {"choice": 2, "mean": None}],
                "fade": {"sentence": "It does not fade."},
            }
        },
    },
}


def test_the_page_is_made_of_the_committed_results():
    studies = evidence.read_studies()
    found = evidence_page.load(studies)
    made = evidence_page.page(found, evidence_page.waiting(studies, found))
    assert evidence_page.PAGE.read_text(encoding="utf-8") == made, "run python benchmarks/evidence.py"


def opening(results) -> str:
    """What came out, as one line of text and the table's lines."""
    return evidence_page.verdict(results).replace("\n", " ")


def told(results) -> list[str]:
    """The lines of the table of what came out."""
    lines = evidence_page.verdict(results).splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith(("| log", "| ---"))]


def test_readme_begins_its_results_as_the_page_does():
    page = evidence_page.PAGE.read_text(encoding="utf-8")
    first = page[: page.index("\n\nMade by")].removeprefix("# Results\n\n")
    assert len(first.split("\n\n")) == 3
    assert first in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_begins_with_what_came_out():
    assert evidence_page.page({"a": RESULT}, []).startswith(f"# Results\n\n{evidence_page.verdict({'a': RESULT})}\n\n")
    first = opening({"a": RESULT})
    assert "CFT is not surely above or below plain fine-tuning in any study (1)." in first
    assert "Our best method is not surely above or below the tuned SASRec in any study (1)." in first
    gain = "+0.0100 (1.000)"
    assert told({"a": RESULT}) == [f"| A log | 2 | {gain} | cft | 0.0800 | {gain} | -0.0100 (0.600) |  |"]


def test_what_is_sure_is_said_with_its_sign_and_what_a_study_lacks_is_passed_over():
    tests = [
        pair("plain", "sasrec", -0.02, 0.01),
        pair("cft", "sasrec", 0.02, 0.001),
        pair("cft", "plain", -0.03, 0.002),
    ]
    sure = RESULT | {"summary": RESULT["summary"] | {"tests": tests}}
    first = opening({"a": sure, "b": RESULT})
    assert "CFT is surely below plain fine-tuning in 1 of 2 studies." in first
    assert "Our best method is surely above the tuned SASRec in 1 of 2 studies." in first
    loss = "**-0.0300 (0.006)**"
    assert told({"a": sure}) == [f"| A log | 2 | {loss} | cft | 0.0800 | {loss} | **+0.0200 (0.003)** |  |"]
    alone = RESULT | {
        "methods": {"plain": FACTS},
        "baselines": {},
        "summary": {"rows": [row("plain", 0.1)], "tests": []},
    }
    assert told({"a": alone}) == ["| A log | 2 |  | plain | 0.1000 |  |  |  |"]
    assert evidence_page.verdict({}) == "No study has been run yet."


def test_a_question_with_a_sasrec_of_its_own_is_told_of_under_its_log_s_name():
    asked = RESULT | {"study": RESULT["study"] | {"title": "Another way", "base": "a"}}
    both = {"a": RESULT, "b": asked}
    line = "| A log, another way | 2 | +0.0100 (1.000) | cft | 0.0800 | +0.0100 (1.000) | -0.0100 (0.600) |  |"
    assert told(both)[1] == line
    assert "in any study (1)" in opening(both), "what its log's main study says is not counted twice"
    assert len(told({"a": RESULT, "b": asked | {"baselines": {}}})) == 1


def test_another_model_s_plain_and_cft_are_compared_with_each_other():
    study = RESULT["study"] | {"title": "Large", "base": "a", "options": {"model": "large"}}
    names = ("plain large", "cft large")
    tests = [
        *RESULT["summary"]["tests"],
        pair("cft large", "plain large", 0.02, 0.002),
        *(pair(name, "sasrec", 0.01, 0.5) for name in names),
        *(pair(name, "ease", -0.03, 0.001) for name in names),
    ]
    rows = [*RESULT["summary"]["rows"], row("plain large", 0.08), row("cft large", 0.1), row("ease", 0.13)]
    large = RESULT | {
        "study": study,
        "methods": dict.fromkeys(names, FACTS),
        "baselines": {},
        "summary": RESULT["summary"] | {"tests": tests, "rows": rows},
    }
    both = {"a": RESULT, "b": large}
    assert "CFT is surely above plain fine-tuning in 1 of 2 studies." in opening(both)
    gain = "**+0.0200 (0.006)**"
    best = f"| Large | 2 | {gain} | cft large | 0.1000 | {gain} | +0.0100 (1.000) | ease **-0.0300 (0.003)** |"
    assert told(both)[1] == best


def test_the_best_baseline_of_the_same_data_is_told_beside_those_of_more():
    study = RESULT["study"] | {"baselines": {"sasrec": {}, "ease": None, "everybody": {"data": "more"}}}
    names = {"itemknn": 0.05, "ease": 0.1, "everybody": 0.2}
    tests = [*RESULT["summary"]["tests"], *(pair("cft", name, 0.08 - value, 0.9) for name, value in names.items())]
    rows = [*RESULT["summary"]["rows"], *(row(name, value) for name, value in names.items())]
    beside = RESULT | {
        "study": study,
        "baselines": RESULT["baselines"] | dict.fromkeys(names, RESULT["baselines"]["sasrec"]),
        "summary": RESULT["summary"] | {"tests": tests, "rows": rows},
    }
    assert told({"a": beside})[0].endswith("| ease -0.0200 (1.000), everybody -0.1200 (1.000) |")


def test_what_the_permutation_test_doubts_is_not_sure():
    tests = [pair("cft", "plain", 0.03, 0.001, permuted=0.02), *RESULT["summary"]["tests"][:2]]
    doubted = {"a": RESULT | {"summary": RESULT["summary"] | {"tests": tests}}}
    assert "CFT is not surely above or below plain fine-tuning in any study (1)." in opening(doubted)
    assert "| A log | 2 | +0.0300 (0.060) |" in told(doubted)[0]


def test_a_mixture_is_told_of_under_its_log_s_name_with_its_weights(tmp_path):
    tests = [pair("both", "sasrec", 0.02, 0.001), pair("both", "plain", 0.03, 0.4), pair("plain", "sasrec", -0.02, 0.9)]
    mixture = RESULT | {
        "study": {"title": "Mixed", "question": "Is it better?", "base": "a", "options": {}, "seeds": [1]},
        "methods": {"plain": FACTS},
        "mixed": {"both": {"helper": "sasrec", "chosen": [0.8, 20], "tried": [[0.5, 1, 0.1], [0.8, 20, 0.2]]}},
        "summary": RESULT["summary"]
        | {"rows": [row("sasrec", 0.09), row("plain", 0.07), row("both", 0.1)], "tests": tests},
    }
    results = {"a": RESULT, "b": mixture}
    made, first = evidence_page.page(results, []), opening(results)
    assert "Our best method is not surely above or below the tuned SASRec in any study (1)." in first
    assert (
        "With a helper's scores mixed in, as D3 does, our best is surely above the tuned SASRec in 1 of 1 studies. "
        "It is surely above the helper alone in 1 of 1 studies." in first
    )
    sure = "**+0.0200 (0.003)**"
    log = "A log, with sasrec's scores mixed in"
    assert told(results)[1] == f"| {log} | 1 |  | both | 0.1000 | +0.0300 (1.000) | {sure} |  |"
    rival = {"two": {"helper": "sasrec", "chosen": [0.5, 1], "tried": [[0.5, 1, 0.3]]}}
    summary = mixture["summary"]
    summary |= {"rows": [*summary["rows"], row("two", 0.11)], "tests": [*tests, pair("both", "two", -0.01, 0.8)]}
    against = results | {"b": mixture | {"rivals": rival, "summary": summary}}
    assert told(against)[1].endswith(f"| {sure} | two -0.0100 (1.000) |")
    evidence_page.picture(against["b"], tmp_path / "b.svg")
    drawn = (tmp_path / "b.svg").read_text()
    assert drawn.count("#888888") == drawn.count("#2266aa") > 0  # two rows of others, two of ours
    fair = "It is not surely above or below a mixture of two baselines in any study (1)."
    assert fair in opening(against)
    assert "| both | helper_weight 0.8, helper_scale 20 | 0.2000 | complete |\n" in made
    assert "\n|  | helper_weight 0.5 | 0.1000 | complete |" in made


def test_a_question_says_which_rows_beside_it_have_more_trainings():
    study = RESULT["study"] | {"title": "Part", "question": "Which?", "base": "a", "seeds": [1]}
    summary = RESULT["summary"] | {"seeds": {"plain": [{}, {}], "cft": [{}, {}], "detached": [{}, {}]}}
    part = RESULT | {"study": study, "methods": {"detached": FACTS}, "summary": summary}
    assert evidence_page.seeds(part) == " One seed: 1. Trainings of the rows beside: plain 2, cft 2."
    assert evidence_page.seeds(part | {"study": study | {"seeds": [1, 2]}}) == " Seeds 1, 2."


def test_tables_hold_every_row_search_and_test():
    made = evidence_page.page({"a": RESULT}, ["Another log"])
    assert made.endswith("## Not run yet\n\n- Another log\n")
    assert "| cft | 0.0800 | 0.0700 to 0.0900 | 0.1600 | 0.0400 | 0.50 | 0.25 | 1.5 + 1.5 | 4,321 |" in made
    assert "| sasrec | 0.0900 | 0.0800 to 0.1000 | 0.1800 | 0.0450 | 0.50 | 0.25 | 0.5 in all |  |" in made
    assert "| sasrec | +0.0200 | +0.0100 to +0.0300 | 0.010 | 0.030 | 0.030 |" in made
    assert "| cft | learning_rate 0.00123 | 0.0700 | complete |" in made
    assert "- cft: effect on the true title 0.500 (0.400 to 0.600) nats; by choice 1: 0.50. It does not fade." in made


def test_studies_are_whole_and_bases_come_first():
    studies = evidence.read_studies()
    assert studies
    for name, study in studies.items():
        assert study["seeds"] and study["data"] and study["options"]["max_steps"] > 0
        for method in study.get("methods", {}).values():
            assert set(method) <= {"set", "vary", "like"}
        chain = evidence.in_order([name], studies)
        assert chain[-1] == name and chain[0] == study.get("base", name)


def test_finished_studies_are_those_whose_result_has_their_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    study = {"title": "x", "seeds": [1]}
    assert not evidence.finished("x", {"x": study})
    (tmp_path / "x.json").write_text(json.dumps({"study": study}))
    assert evidence.finished("x", {"x": study})
    assert not evidence.finished("x", {"x": study | {"seeds": [1, 2]}})


def test_the_folder_of_a_way():
    assert evidence.way_folder("--gamma 0.10 --prior trained") == "gamma-0.1-trained"
    assert evidence.way_folder("--gamma 0.5 --top 50") == "gamma-0.5-counts-top-50"
    assert evidence.way_folder("--gamma 0.5 --top 200") == "gamma-0.5-counts"
    assert evidence.way_folder("--beam 10") == "beam-10"
