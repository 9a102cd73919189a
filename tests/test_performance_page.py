"""docs/performance.md is what benchmarks/page.py makes of the committed results."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "page.py")
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)

PACKAGES = {"cftrec": "1", "torch": "2", "transformers": "3", "numpy": "4"}
STEP = {
    "benchmark": "train_step-x",
    "machine": {"cpu": "C", "threads": 2, "python": "3.11"},
    "packages": PACKAGES,
    "options": {
        "model": "nano",
        "data": "games",
        "prompt": "alpaca",
        "window": 10,
        "stride": 1,
        "sampler": "users",
        "samples": 64,
        "bf16": True,
        "set": ["softmax=catalogue"],
        "tokens_computed": 4000.0,
        "tokens_naive_cft": 30000.0,
        "repeats": 3,
    },
    "sides": {"ours": {"median_s": 0.25, "min_s": 0.2, "max_s": 2.0, "over_ours": 1.0}},
}


def test_the_page_is_made_of_the_committed_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.load()), "run python benchmarks/page.py"


def test_a_page_of_some_results():
    made = page.page([STEP])
    assert "### nano, Games, preset alpaca, W 10 s 1, whole users, 64 samples a step, bf16, `softmax=catalogue`" in made
    assert "4,000 tokens computed a step, 30,000 naively; 3 turns." in made
    assert "| cftrec, CFT | 250 ms | 200 ms to 2 s | 256.0 | 1.00 |" in made
    assert made.count("No results yet.") == 11
    ours = STEP["sides"]["ours"] | {"linear_over_gemm": 0.5}
    assert "run at 0.50 of the rate" in page.page([STEP | {"sides": {"ours": ours}}])
    peaks = {"ours": 10.0, "published_cft": 200.0}
    memory = {"benchmark": "step_memory-x", "peak_mib": peaks, "ours_over_published": 0.05}
    assert "bf16, `softmax=catalogue` | 10 MiB | 200 MiB | 0.050 |" in page.page([STEP | memory])
    assert "| `train_step-x` | C, 2 threads | 3.11 | 1 | 2 | 3 | 4 |" in made


def test_decoding_on_the_page():
    side = {"users_per_s": 4.0, "over_exact": 1.0, "search_tokens_a_user": 61.4, "recall": 1.0, "mean_score": -5.0}
    result = STEP | {
        "benchmark": "decode-x",
        "options": {"model": "smollm2", "data": "games", "titles": 16859, "users": 9, "k": 10, "repeats": 3}
        | {"beams": 10, "steps": 48, "bf16": False, "vocabulary_users": 8, "check": 2},
        "sides": {"exact": side, "generate": side | {"over_exact": 5.5, "recall": 0.75}},
        "generate": {"batch": 4, "seconds_of_16_users": {"4": 1.0}},
        "certified": {"catalogue": 1.0, "vocabulary": 0.25},
        "recall_of_exact_by_brute_force": None,
    }
    made = page.page([result])
    assert "### SmolLM2-135M, Games, 16,859 titles, fp32" in made
    assert "| exact search | 4.00 | 1.00 | 61 | 1.0000 | -5.0000 |" in made
    assert "| `generate`, 10 beams, batch 4 | 4.00 | 5.50 | 61 | 0.7500 | -5.0000 |" in made
    assert "100.0% of users, under the vocabulary softmax 25.0% of 8." in " ".join(made.split())
    checked = page.page([result | {"recall_of_exact_by_brute_force": 1.0}])
    assert "every title's log p (2 users) recall 1.0000." in " ".join(checked.split())
