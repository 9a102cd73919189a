import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from evaluation_fakes import SCRIPT, Ranker, make_dataset, ranker_for, write_run

from cftrec.errors import InputError
from cftrec.evaluation import ALL_METRICS, METRICS, compare, evaluate, paired_test, per_target
from cftrec.evaluation.significance import holm
from cftrec.evaluation.ways import Way


@pytest.fixture
def two(evaluated):
    return [evaluated("plain", noise=30.0), evaluated("cft", noise=3.0)]


class Page(HTMLParser):
    """Collects tags with their attributes and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def test_summary(tmp_path, two):
    summary = compare(two, tmp_path / "out")
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    assert json.loads((tmp_path / "out/manifest.json").read_text())["kind"] == "comparison"
    assert [row["model"] for row in summary["rows"]] == ["popular", "plain", "cft"]
    assert (summary["users"], summary["targets"], summary["split"]) == (30, 30, "test")
    for row in summary["rows"]:
        assert set(row) == {"model", *ALL_METRICS, *(f"{metric}_ci" for metric in ALL_METRICS)}
        for metric in ALL_METRICS:
            low, high = row[f"{metric}_ci"]
            assert low <= row[metric] <= high
    metrics = json.loads((two[1] / "metrics.json").read_text())
    assert {name: summary["rows"][2][name] for name in ALL_METRICS} == metrics


def test_tests_of_every_pair(tmp_path, two):
    summary = compare(two, tmp_path / "out", draws=300, seed=5)
    tests = {(test["a"], test["b"], test["metric"]): test for test in summary["tests"]}
    pairs = {("plain", "popular"), ("cft", "popular"), ("cft", "plain")}
    assert set(tests) == {(*pair, metric) for pair in pairs for metric in ("HR@10", "NDCG@10", "MRR@10")}
    plain, cft = (pl.read_parquet(run / "ranks.parquet").sort("user") for run in two)
    expected = paired_test(
        per_target(cft["rank"])["NDCG@10"], per_target(plain["rank"])["NDCG@10"], cft["user"], draws=300, seed=5
    )
    found = tests["cft", "plain", "NDCG@10"]
    assert (found["difference"], found["ci"]) == (pytest.approx(expected.difference), pytest.approx(expected.ci))
    assert (found["p"], found["p_permutation"]) == (expected.p, expected.p_permutation)
    for p in ("p", "p_permutation"):
        family = [test for test in summary["tests"] if test["metric"] == "NDCG@10"]
        assert [test[f"{p}_holm"] for test in family] == holm([test[p] for test in family])


def test_popular_row_is_the_baseline(tmp_path, two):
    summary = compare(two, tmp_path / "out")
    popular = per_target(pl.read_parquet(two[0] / "popular.parquet")["rank"])
    for metric in METRICS:
        assert summary["rows"][0][metric] == pytest.approx(popular[metric].mean())
    shares = summary["popularity"]
    assert sum(shares["items"]) == 40
    for row in (shares["training"], shares["histories"], *shares["recommended"].values()):
        assert sum(row) == pytest.approx(1)


def test_equal_models_are_level(tmp_path, evaluated):
    summary = compare([evaluated("one", noise=2.0), evaluated("two", noise=2.0)], tmp_path / "out")
    for test in summary["tests"]:
        if {test["a"], test["b"]} == {"one", "two"}:
            assert (test["difference"], test["p"], test["ci"]) == (0.0, 1.0, [0.0, 0.0])
            assert test["p_permutation"] == 1.0


def test_a_run_named_popular_takes_the_place_of_the_baseline(tmp_path, evaluated):
    summary = compare([evaluated("cft", noise=4.0), evaluated("popular")], tmp_path / "out")
    assert [row["model"] for row in summary["rows"]] == ["cft", "popular"]


def test_one_run(tmp_path, evaluated):
    summary = compare([evaluated("cft")], tmp_path / "out")
    assert [row["model"] for row in summary["rows"]] == ["popular", "cft"]
    assert "level" in summary["headline"]
    compare([evaluated("popular")], tmp_path / "alone")
    assert "nothing to compare" in (tmp_path / "alone/report.html").read_text()


@pytest.mark.parametrize("targets_each", [1, 3])
def test_one_user_is_compared_without_intervals(tmp_path, evaluated, targets_each):
    one = make_dataset(users=1, seed=4, targets_each=targets_each)
    runs = [evaluated("plain", noise=30.0, of=one), evaluated("cft", noise=3.0, of=one)]
    summary = compare(runs, tmp_path / "out")
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    differences = {test["difference"] for test in summary["tests"]}
    assert len(differences) > 1
    for test in summary["tests"]:
        assert (test["ci"], test["p"], test["p_holm"], test["p_permutation"]) == (None, 1, 1, 1)
    for bounds in ("histories_ci", "recommended_ci", "shift_ci"):
        found = summary["popularity"][bounds]
        assert all(one is None for mine in ([found] if bounds == "histories_ci" else found.values()) for one in mine)
    assert summary["headline"].endswith("which may be chance (one user, so no interval, p = 1.000).")
    page = Page((tmp_path / "out/report.html").read_text())
    assert not page.open
    assert all("interval" not in of.get("aria-label", "").split(": ", 1)[-1] for tag, of in page.tags if tag == "svg")
    assert not re.search(r"\bnan\b|None", " ".join(page.text))


def test_the_same_comparison_twice_is_the_same(tmp_path, two):
    compare(two, tmp_path / "one")
    compare(two, tmp_path / "two")
    for name in ("summary.json", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_report_shows_what_it_must(tmp_path, two):
    summary = compare(two, tmp_path / "out")
    source = (tmp_path / "out/report.html").read_text()
    page = Page(source)
    assert not page.open
    text = re.sub(r"\s+", " ", " ".join(page.text))
    assert summary["headline"] in text.replace("\u00a0", " ")
    for needed in ("erases it", "counterfactual", "True next title", "with history", "1234", "1.5", "made up", "torch"):
        assert needed in text
    assert text.count("True next title") == 5
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 2 + 2 + 2 * 4 + 3
    for name in ("plain", "cft"):
        effects = summary["effects"][name]
        assert effects["fade"]["sentence"] in text.replace("\u00a0", " ")
        assert f"prior: {effects['prior']}, {effects['targets']} targets" in text
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_effects_not_measured_are_not_shown(tmp_path, dataset):
    run = write_run(tmp_path / "cft", ranker_for(dataset), dataset)
    evaluate(ranker_for(dataset), dataset, out=run, effect_targets=0)
    assert compare([run], tmp_path / "out")["effects"]["cft"]["targets"] == 0
    assert 'id="effects"' not in (tmp_path / "out/report.html").read_text()


@pytest.fixture
def seeds(evaluated):
    """Three seeds of cft and two of plain, mixed."""
    return [
        evaluated(f"{name}-{seed}", noise=noise, seed=seed, config={"seed": seed, "effect_weight": weight})
        for seed in (1, 2, 3)
        for name, noise, weight in (("plain", 30.0, 0), ("cft", 3.0, 0.1))
        if (name, seed) != ("plain", 3)
    ]


def test_seeds_of_a_method_are_one_row(tmp_path, seeds):
    summary = compare(seeds, tmp_path / "out", group_seeds=True, draws=500)
    rows = {row["model"]: row for row in summary["rows"]}
    assert list(rows) == ["popular", "plain", "cft"]
    assert [(member["run"], member["seed"]) for member in summary["seeds"]["cft"]] == [
        ("cft-1", 1),
        ("cft-2", 2),
        ("cft-3", 3),
    ]
    for name in ("plain", "cft"):
        stored = [json.loads((run / "metrics.json").read_text()) for run in seeds if run.name.startswith(name)]
        for metric in ALL_METRICS:
            assert rows[name][metric] == pytest.approx(np.mean([metrics[metric] for metrics in stored]))
        for member, metrics in zip(summary["seeds"][name], stored, strict=True):
            assert member["NDCG@10"] == pytest.approx(metrics["NDCG@10"])
    assert summary["bootstrap"]["resampled"] == "users and seeds"
    assert {(test["a"], test["b"]) for test in summary["tests"]} == {
        ("plain", "popular"),
        ("cft", "popular"),
        ("cft", "plain"),
    }
    assert any("cft is the mean of 3 RUNs" in note for note in summary["notes"])
    source = (tmp_path / "out/report.html").read_text()
    page = Page(source)
    assert not page.open
    assert "for plain, cft, the choice of the training seed" in " ".join(source.split())
    assert "cft-2" in " ".join(page.text)


def test_seeds_named_in_the_call(tmp_path, seeds):
    names = ["both", None, "both", None, None]
    summary = compare(seeds, tmp_path / "out", names=names, draws=50)
    assert [row["model"] for row in summary["rows"]] == ["popular", "both", "cft-1", "cft-2", "cft-3"]
    assert [member["run"] for member in summary["seeds"]["both"]] == ["plain-1", "plain-2"]
    mixed = compare(seeds, tmp_path / "mixed", names=["x", None, None, "x", None], draws=50)
    assert any("The RUNs of x differ not in their seed alone but also in effect_weight" in n for n in mixed["notes"])


def test_other_evaluations_of_a_run_are_rows_of_their_own(tmp_path, seeds, dataset):
    other = ranker_for(dataset, "x", 50.0)
    way = Way("last", {}, lambda cases, k: other.search(cases.histories, k, keep=cases.targets.tolist()))
    for run in seeds[1::2]:
        evaluate(ranker_for(dataset, run.name, 9.0), dataset, out=run, way=way)
        evaluate(ranker_for(dataset, run.name, 9.0), dataset, "validation", out=run)
    runs = [*seeds[1::2], *(run / "last" for run in seeds[1::2])]
    summary = compare(runs, tmp_path / "out", group_seeds=True, draws=50)
    assert [row["model"] for row in summary["rows"]] == ["popular", "cft", "cft/last"]
    (name, row) = [(row["model"], row["NDCG@10"]) for row in summary["rows"]][2]
    stored = [json.loads((run / "last" / "metrics.json").read_text())["NDCG@10"] for run in seeds[1::2]]
    assert row == pytest.approx(np.mean(stored))
    assert [member["run"] for member in summary["seeds"][name]] == ["cft-1/last", "cft-2/last"]

    again = compare([*seeds[1::2], *seeds[1::2]], tmp_path / "again", names=["a", "a", "b", "b"], draws=50)
    level = [test for test in again["tests"] if {test["a"], test["b"]} == {"a", "b"}]
    assert all((test["ci"], test["p"]) == ([0.0, 0.0], 1.0) for test in level)
    held = compare([run / "validation" for run in seeds[1::2]], tmp_path / "held", draws=50)
    assert held["split"] == "validation"
    with pytest.raises(InputError, match=r"beam-3: this RUN has no such evaluation; .*cft-1 DATASET`, with the"):
        compare([seeds[1] / "beam-3"], tmp_path / "none")
    with pytest.raises(InputError, match="validation: evaluated on other users or targets"):
        compare([seeds[1], seeds[1] / "validation"], tmp_path / "mixed")


def test_one_run_under_two_names_differs_by_nothing(tmp_path, evaluated):
    run = evaluated("cft", noise=3.0)
    summary = compare([run, run], tmp_path / "out", names=["one", "other"])
    (test,) = [t for t in summary["tests"] if (t["a"], t["b"], t["metric"]) == ("other", "one", "NDCG@10")]
    assert (test["difference"], test["p"], test["p_permutation"], test["ci"]) == (0.0, 1.0, 1.0, [0.0, 0.0])


def test_notes_and_provenance_tell_runs_of_one_name_by_those_given(tmp_path, evaluated):
    run = evaluated("cft", noise=3.0)
    facts = json.loads((run / "evaluation.json").read_text()) | {"unknown_targets": 3}
    (run / "evaluation.json").write_text(json.dumps(facts))
    summary = compare([run, run], tmp_path / "out", names=["one", "cft"], draws=50)
    told = [note for note in summary["notes"] if "does not know 3 of the targets" in note]
    assert [note.partition(" does")[0] for note in told] == ["one (cft)", "cft"]
    assert "Every option of one (cft)" in " ".join(Page((tmp_path / "out/report.html").read_text()).text)


def test_slices_of_every_model(tmp_path, two):
    summary = compare(two, tmp_path / "out")
    stored = json.loads((two[1] / "slices.json").read_text())["rows"]
    mine = [row for row in summary["slices"] if row["model"] == "cft"]
    assert [{key: value for key, value in row.items() if key != "model"} for row in mine] == stored[1:]
    for kind in ("history length", "target popularity", "cold target"):
        assert sum(row["targets"] for row in mine if row["slice"] == kind) == 30
    assert {row["model"] for row in summary["slices"]} == {"popular", "plain", "cft"}
    page = Page((tmp_path / "out/report.html").read_text())
    text = re.sub(r"\s+", " ", " ".join(page.text))
    for needed in (
        "For whom they work",
        "items in the history",
        "coverage@10",
        "Gini@10",
        "p, permutation",
        "shift@10",
    ):
        assert needed in text
    assert "Recall@10" not in text


def test_popularity_shares_have_intervals_and_a_shift(tmp_path, two):
    shares = compare(two, tmp_path / "out")["popularity"]
    for name, mine in shares["recommended"].items():
        shift = np.subtract(mine, shares["histories"])
        np.testing.assert_allclose(shares["shift"][name], shift, atol=1e-12)
        for values, bounds in ((mine, shares["recommended_ci"][name]), (shift, shares["shift_ci"][name])):
            assert all(
                low <= value + 1e-12 and value <= high + 1e-12
                for value, (low, high) in zip(values, bounds, strict=True)
            )


def test_users_of_several_targets_have_a_recall(tmp_path, evaluated):
    run = evaluated("cft", noise=3.0, of=make_dataset(users=12, targets_each=3))
    (_, row) = compare([run], tmp_path / "out")["rows"]
    assert row["Recall@10"] == pytest.approx(row["HR@10"])  # every user has as many targets
    assert "Recall@10" in " ".join(Page((tmp_path / "out/report.html").read_text()).text)


def test_progress_ends_with_the_last_table(tmp_path, evaluated):
    calls = []
    compare([evaluated("cft")], tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, len(calls)) for done in range(1, len(calls) + 1)]


def test_report_fetches_nothing(tmp_path, two):
    compare(two, tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text())
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")


def test_untrusted_text_is_escaped_once(tmp_path, evaluated, dataset):
    dataset = make_dataset(users=6)
    dataset.manifest["name"] = "<img src=x onerror=alert(2)>"
    run = evaluated('c$f$t<script>alert("name")</script>', of=dataset, folder="odd")
    compare([run], tmp_path / "out")
    source = (tmp_path / "out/report.html").read_text()
    assert "<script" not in source
    assert "<img" not in source
    text = " ".join(Page(source).text)
    assert SCRIPT in text
    assert "<img src=x onerror=alert(2)>" in text
    assert "&amp;amp;" not in source
    assert html.escape('c$f$t<script>alert("name")</script>', quote=False) in source.replace("&#34;", '"')


def test_other_catalogues_and_unknown_targets_are_noted(tmp_path, evaluated, dataset):
    known = [item for item in range(40) if item % 3]
    ranker = Ranker("smaller", [f"i{item}" for item in known], dataset.item_counts()[known])
    write_run(tmp_path / "smaller", ranker, dataset)
    evaluate(ranker, dataset, out=tmp_path / "smaller")
    summary = compare([evaluated("cft"), tmp_path / "smaller"], tmp_path / "out")
    notes = " ".join(summary["notes"])
    assert "smaller ranks 26 items and cft 40" in notes
    assert "smaller does not know" in notes
    assert "50.0% of the lists of cft are certified exact" in notes


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"beam": 3}, "50.0% of the lists of cft/way are certified exact; the others were cut by the beam."),
        ({"gamma": 1}, "50.0% of the lists of cft/way are certified exact; the others hit the search budget."),
        ({"beams": 4}, "The lists of cft/way are the titles nearest to what the model wrote freely; nothing is proved"),
    ],
)
def test_what_is_proved_of_lists_made_in_other_ways(tmp_path, evaluated, dataset, facts, told):
    run, ranker = evaluated("cft"), ranker_for(dataset)
    way = Way("way", facts, lambda cases, k: ranker.search(cases.histories, k, keep=cases.targets.tolist()))
    evaluate(ranker, dataset, out=run, way=way)
    (note,) = compare([run / "way"], tmp_path / "out", draws=20)["notes"]
    assert note.startswith(told)


def test_another_dataset_than_the_training_s_is_noted(tmp_path, evaluated, dataset):
    run = evaluated("cft")
    facts = json.loads((run / "evaluation.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    for number, trained_on in enumerate((facts["dataset"]["sha256"], "0" * 64)):
        (run / "manifest.json").write_text(json.dumps(manifest | {"dataset": {"sha256": trained_on}}))
        notes = compare([run], tmp_path / f"out{number}")["notes"]
        assert ("cft was trained on another data set than it is evaluated on." in notes) == bool(number)


def test_long_names_and_many_models(tmp_path, evaluated):
    runs = [evaluated(f"a-model-with-a-rather-long-name-{number}", noise=number) for number in range(5)]
    compare(runs, tmp_path / "out", draws=50)
    assert "The other 10 pairs" in (tmp_path / "out/report.html").read_text()


class TestBadInput:
    def refused(self, runs, out, line, **options):
        with pytest.raises(InputError) as error:
            compare(runs, out, **options)
        assert line in str(error.value)
        assert "\n" not in str(error.value)
        assert not list(out.parent.glob(f".{out.name}*"))

    def test_no_run(self, tmp_path):
        self.refused([], tmp_path / "out", "needs at least one RUN")

    def test_no_such_folder(self, tmp_path):
        self.refused([tmp_path / "none"], tmp_path / "out", "none: not a run folder")

    def test_not_evaluated(self, tmp_path, dataset):
        run = write_run(tmp_path / "run", ranker_for(dataset), dataset)
        self.refused([run], tmp_path / "out", f"no evaluation; run `cftrec evaluate {run} DATASET` first")

    def test_two_of_one_name(self, tmp_path, evaluated):
        first, second = evaluated("cft"), evaluated("cft", folder="again")
        self.refused([first, second], tmp_path / "out", "its name 'cft' is also that of")

    def test_other_users(self, tmp_path, evaluated):
        other = evaluated("other", of=make_dataset(users=31))
        self.refused([evaluated("cft"), other], tmp_path / "out", "evaluated on other users or targets than")
        self.refused([other, tmp_path / "cft"], tmp_path / "out", "evaluated on other users or targets than")

    def test_other_targets(self, tmp_path, evaluated):
        other = evaluated("other", of=make_dataset(seed=1))
        self.refused([evaluated("cft"), other], tmp_path / "out", "(for example user u")

    def test_output_taken(self, tmp_path, two):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/file").touch()
        self.refused(two, tmp_path / "out", "the output folder is not empty")

    def test_no_draws(self, tmp_path, two):
        self.refused(two, tmp_path / "out", "--draws 0", draws=0)

    def test_no_effects(self, tmp_path, two):
        (two[1] / "effects.json").write_text("{")
        self.refused(two, tmp_path / "out", "effects.json: cannot be read as JSON")
        (two[1] / "effects.json").unlink()
        self.refused(two, tmp_path / "out", "effects.json: missing; run `cftrec evaluate")

    @pytest.mark.parametrize("name", ["ranks.parquet", "popular.parquet"])
    def test_a_broken_table(self, tmp_path, two, name):
        (two[1] / name).write_bytes(np.random.default_rng(0).bytes(200))
        self.refused(two, tmp_path / "out", f"{name}: missing or not readable")
        (two[1] / name).unlink()
        self.refused(two, tmp_path / "out", f"{name}: missing or not readable")

    def test_a_column_is_missing(self, tmp_path, two):
        pl.read_parquet(two[0] / "ranks.parquet").drop("exact").write_parquet(two[0] / "ranks.parquet")
        self.refused(two, tmp_path / "out", "ranks.parquet: missing or not readable")

    def test_a_broken_catalogue(self, tmp_path, two):
        file = two[0] / "catalogue.arrow"
        file.write_bytes(b"\0" * file.stat().st_size)
        self.refused(two, tmp_path / "out", "catalogue.arrow: changed since it was written")

    def test_tables_that_do_not_belong_together(self, tmp_path, two):
        table = pl.read_parquet(two[0] / "popular.parquet")
        table.head(3).write_parquet(two[0] / "popular.parquet")
        self.refused(two, tmp_path / "out", "hold different targets")

    def test_nothing_evaluated(self, tmp_path, two):
        for name in ("ranks", "popular"):
            pl.read_parquet(two[0] / f"{name}.parquet").clear().write_parquet(two[0] / f"{name}.parquet")
        self.refused(two, tmp_path / "out", "holds no target")


def test_a_kept_history_is_told_and_not_mixed(tmp_path, dataset, evaluated):
    run = write_run(tmp_path / "kept", ranker_for(dataset), dataset)
    evaluate(ranker_for(dataset), dataset, out=run, keep_history=True)
    assert compare([run], tmp_path / "out")["keep_history"] is True
    assert "also what the user already has" in (tmp_path / "out/report.html").read_text()
    with pytest.raises(InputError, match="--keep-history"):
        compare([run, evaluated("cft")], tmp_path / "mixed")


def test_one_choice_is_no_plot_along_a_title(tmp_path, two):
    for run in two:
        effects = json.loads((run / "effects.json").read_text())
        (run / "effects.json").write_text(json.dumps(effects | {"by_choice": effects["by_choice"][:1]}))
    compare(two, tmp_path / "out")
    page = Page((tmp_path / "out/report.html").read_text())
    assert not page.open
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 2 + 2 + 2 * 2 + 3
