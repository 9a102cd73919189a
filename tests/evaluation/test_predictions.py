"""Any system's lists: what evaluating them gives, against a loop over the rows, and every table that is refused."""

import json
from pathlib import Path

import polars as pl
import pytest
from evaluation_fakes import make_dataset, ranker_for
from hypothesis import given
from hypothesis import strategies as st

from cftrec.cli import main
from cftrec.data.dataset import Dataset
from cftrec.data.sources.sheet import Sheet
from cftrec.errors import InputError
from cftrec.evaluation import compare, evaluate
from cftrec.evaluation.given_lists import read_lists
from cftrec.evaluation.predictions import evaluate_predictions


def sheet(rows, columns=("user", "item", "rank")) -> Sheet:
    frame = pl.DataFrame(rows, schema=list(columns), orient="row")
    return Sheet(Path("lists.csv"), frame, pl.int_range(frame.height, eager=True), 2, {"name": "lists.csv"})


def rows_of(ranks: pl.DataFrame, *more: str) -> pl.DataFrame:
    """Return a RUN's lists as a table."""
    lists = ranks.select("user", *more, pl.col("items").alias("item"), pl.int_ranges(1, pl.col("items").list.len() + 1))
    return lists.rename({"literal": "rank"}).explode("item", "rank")


@pytest.fixture
def data(tmp_path, dataset) -> Path:
    dataset.save(tmp_path / "data")
    return tmp_path / "data"


@st.composite
def tables(draw):
    """Draw lists for some users of a log and for some that are not there, in shuffled rows."""
    dataset = make_dataset(users=6, seed=draw(st.integers(0, 3)))
    items = st.lists(st.integers(0, 39), max_size=25, unique=True)
    lists = draw(st.dictionaries(st.sampled_from([*(f"u{n}" for n in range(6)), "nobody"]), items, max_size=7))
    rows = [(user, f"i{item}", rank) for user, found in lists.items() for rank, item in enumerate(found, 1)]
    return dataset, lists, draw(st.permutations(rows))


@given(tables())
def test_lists_are_the_table(drawn):
    dataset, lists, rows = drawn
    asked = {user: found for user, found in lists.items() if user != "nobody" and found}
    if not asked:
        with pytest.raises(InputError, match=r"no list for any target|no rows"):
            read_lists(sheet(rows), dataset, "test", 20)
        return
    read = read_lists(sheet(rows), dataset, "test", 20)
    history_items = short = 0
    for user, position in enumerate(dataset.targets("test")):
        found = asked.get(f"u{user}", [])[:20]
        assert read.items[user].tolist() == found + [-1] * (20 - len(found))
        seen = set(dataset.history(int(position)).tolist()) - {int(dataset.events[position])}
        history_items += len(seen & set(found))
        short += 0 < len(found) < min(20, 40 - len(seen))
    assert read.scores is None
    assert read.facts["rows"] == len(rows)
    assert read.facts["targets_without_list"] == 6 - len(asked)
    assert read.facts["rows_for_no_target"] == len(lists.get("nobody", []))
    assert (read.facts["history_items"], read.facts["short_lists"]) == (history_items, short)
    assert len(read.facts["notes"]) == sum(
        bool(read.facts[name])
        for name in ("targets_without_list", "rows_for_no_target", "history_items", "short_lists")
    )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_run_s_own_lists_have_its_ranks(tmp_path, data, dataset, evaluated, kind):
    run = evaluated("cft", noise=3.0)
    ranks = pl.read_parquet(run / "ranks.parquet")
    table = rows_of(ranks).sample(fraction=1, shuffle=True, seed=0)
    getattr(table, f"write_{kind}")(tmp_path / f"lists.{kind}")
    main(["evaluate", str(tmp_path / "other"), str(data), "--predictions", str(tmp_path / f"lists.{kind}")])
    found = pl.read_parquet(tmp_path / "other/ranks.parquet")
    same = ["user", "target", "history_length", "rank", "items", "history"]
    assert found.select(same).equals(ranks.select(same))
    assert found["scores"].is_null().all()
    assert found["exact"].is_null().all()
    for name in ("metrics.json", "popular.parquet"):
        assert (run / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    facts = json.loads((tmp_path / "other/evaluation.json").read_text())
    assert (facts["model"], facts["notes"]) == ("other", [])
    assert json.loads((tmp_path / "other/manifest.json").read_text())["table"]["name"] == f"lists.{kind}"


def test_compared_in_any_mix(tmp_path, data, dataset, evaluated):
    run = evaluated("cft", noise=3.0)
    table = rows_of(pl.read_parquet(run / "ranks.parquet"))
    table.filter(pl.col("user") != "u3").write_csv(tmp_path / "lists.csv")
    evaluate_predictions(tmp_path / "less", data, tmp_path / "lists.csv")
    table.filter(pl.col("rank") <= 10).write_csv(tmp_path / "short.csv")
    evaluate_predictions(tmp_path / "short", data, tmp_path / "short.csv")
    folders = [tmp_path / "less", run, tmp_path / "short"]
    for number, order in enumerate((folders, folders[::-1], folders[:1])):
        summary = compare(order, tmp_path / f"out{number}", draws=50)
        assert [row["model"] for row in summary["rows"]] == ["popular", *(folder.name for folder in order)]
        assert "less: 1 of 30 targets have no list and count as misses." in summary["notes"]
    summary = json.loads((tmp_path / "out0/summary.json").read_text())
    assert any(note.startswith("short: 30 of 30 lists have fewer than 20 items") for note in summary["notes"])
    rows = {row["model"]: row for row in summary["rows"]}
    assert rows["short"]["NDCG@10"] == rows["cft"]["NDCG@10"] >= rows["less"]["NDCG@10"]


def test_lists_made_on_all_users_serve_a_sample_of_them(tmp_path, data, dataset, evaluated):
    ranks = pl.read_parquet(evaluated("cft", noise=3.0) / "ranks.parquet").sample(fraction=1, shuffle=True, seed=0)
    ranks.filter(pl.col("user") != "u3").write_parquet(tmp_path / "ranks.parquet")
    result = evaluate_predictions(tmp_path / "some", data, tmp_path / "ranks.parquet")
    expected = ranks.with_columns(
        pl.when(pl.col("user") != "u3").then(pl.col(name)) for name in ("rank", "items", "scores")
    )
    joined = result.ranks.join(expected, on=["user", "history_length"], suffix="_expected")
    assert len(joined) == len(dataset.targets("test"))
    asked = joined.filter(pl.col("user") != "u3")
    for name in ("rank", "items", "scores"):
        assert asked[name].to_list() == asked[f"{name}_expected"].to_list()
    missed = joined.filter(pl.col("user") == "u3").row(0, named=True)
    assert (missed["rank"], missed["items"]) == (None, [])
    assert result.facts["notes"] == ["1 of 30 targets have no list and count as misses."]


def test_lists_whose_scores_are_not_theirs_are_refused(dataset):
    table = pl.DataFrame({"user": ["u0"], "items": [["i1", "i2"]], "scores": [[0.5]]})
    with pytest.raises(InputError, match="items and scores of a row differ in their number"):
        read_lists(sheet(table.rows(), table.columns), dataset, "test", 20)
    table = pl.DataFrame({"user": ["u0", "u1"], "items": [["i1", "i2"], ["i3", "nothing"]]})
    with pytest.raises(InputError, match=r"row 2 \(line 3\): item is 'nothing', which the Dataset does not have"):
        read_lists(sheet(table.rows(), table.columns), dataset, "test", 20)


def test_several_targets_a_user_need_history_length(tmp_path, evaluated):
    dataset = make_dataset(users=12, targets_each=3)
    ranks = pl.read_parquet(evaluated("cft", of=dataset) / "ranks.parquet")
    with pytest.raises(InputError, match="add a column history_length"):
        read_lists(sheet(rows_of(ranks).rows()), dataset, "test", 20)
    table = rows_of(ranks, "history_length")
    read = read_lists(sheet(table.rows(), table.columns), dataset, "test", 20)
    assert [[f"i{item}" for item in row if item >= 0] for row in read.items] == ranks["items"].to_list()
    table = table.with_columns(pl.col("history_length") - 1)
    assert read_lists(sheet(table.rows(), table.columns), dataset, "test", 20).facts["targets_without_list"] == 12


def test_scores_and_long_lists(tmp_path, data, dataset):
    rows = [(f"u{user}", f"i{item}", item + 1, 40.0 - item) for user in range(30) for item in range(40)]
    pl.DataFrame(rows, ["user", "item", "rank", "score"], orient="row").write_csv(tmp_path / "lists.csv")
    result = evaluate_predictions(tmp_path / "all", data, tmp_path / "lists.csv", k=25)
    assert result.ranks["items"].to_list() == [[f"i{item}" for item in range(25)]] * 30
    assert result.ranks["scores"].to_list() == [[40.0 - item for item in range(25)]] * 30
    targets = dataset.events[dataset.targets("test")]
    assert result.ranks["rank"].to_list() == [int(item) + 1 if item < 25 else None for item in targets]


def test_ids_may_be_numbers(tmp_path):
    dataset = make_dataset()
    numbers = Dataset(
        dataset.items.with_columns(pl.col("item_id").str.slice(1)),
        dataset.users.str.slice(1),
        *(dataset.offsets, dataset.events, dataset.split, None, {}),
    )
    read = read_lists(sheet([(user, 7, 1.0) for user in range(30)]), numbers, "test", 20)
    assert (read.items[:, 0] == 7).all()


def test_ranks_may_be_written_as_floats(dataset):
    rows = [("u0", "i1", 1), ("u0", "i2", 2), ("u1", "i1", 1)]
    whole, floats = (
        read_lists(sheet([(user, item, kind(rank)) for user, item, rank in rows]), dataset, "test", 20)
        for kind in (int, float)
    )
    assert (whole.items == floats.items).all()


ROWS = [("u0", "i1", 1), ("u0", "i2", 2), ("u1", "i1", 1)]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([*ROWS, ("u0", "i3", 2)], "lists.csv, row 4 (line 5): user 'u0' has two items at rank 2"),
        ([*ROWS, ("u0", "i1", 3)], "lists.csv, row 4 (line 5): user 'u0' has two ranks for item i1"),
        ([*ROWS, ("u0", "i3", 4)], "the ranks of user 'u0' go up to 4 but there are 3; rank without gaps, from 1"),
        ([*ROWS, ("u0", "i3", 0)], "row 4 (line 5): rank is '0', which is no whole number from 1"),
        ([(user, item, str(rank)) for user, item, rank in ROWS] + [("u0", "i3", "")], "rank is '', which is no whole"),
        ([(user, item, rank + 0.5) for user, item, rank in ROWS], "row 1 (line 2): rank is '1.5', which is no whole"),
        ([*ROWS, ("u0", "i99", 3), ("u1", "i98", 2)], "item is 'i99', which the Dataset does not have (2 such rows)"),
        ([*ROWS, ("", "i3", 3)], "row 4 (line 5): 'user' is empty"),
        ([("v0", "i1", 1)], "no list for any target of the test split; are its users the Dataset's?"),
    ],
)
def test_tables_that_are_refused(dataset, rows, line):
    with pytest.raises(InputError) as error:
        read_lists(sheet(rows), dataset, "test", 20)
    assert line in str(error.value)


def test_columns_that_are_missing_or_wrong(dataset):
    for rows, columns, line in [
        ([("u0", "i1")], ("user", "item"), "no column 'rank'; its columns are user, item"),
        ([("u0", "i1", 1)], ("user_id", "item", "rank"), "no column 'user'"),
        ([(*ROWS[0], "x")], ("user", "item", "rank", "score"), "score is 'x', which is no finite number"),
        ([(*ROWS[0], float("inf"))], ("user", "item", "rank", "score"), "score is 'inf', which is no finite number"),
        ([(*ROWS[0], -1)], ("user", "item", "rank", "history_length"), "history_length is '-1', which is no whole"),
    ]:
        with pytest.raises(InputError) as error:
            read_lists(sheet(rows, columns), dataset, "test", 20)
        assert line in str(error.value)


class TestCommand:
    def refused(self, capsys, *arguments) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", *map(str, arguments)])
        shown = capsys.readouterr()
        assert (stop.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
        return shown.err

    def test_refusals_leave_nothing(self, capsys, tmp_path, data):
        table, out = tmp_path / "lists.csv", tmp_path / "out"
        table.write_text("user,item,rank\nu0,i1,1\n")
        assert "unknown split" in self.refused(capsys, out, data, "--predictions", table, "--split", "dev")
        for k in ("5", "-5"):
            assert f"-k {k}: must be at least 20" in self.refused(capsys, out, data, "--predictions", table, "-k", k)
        assert "no such file" in self.refused(capsys, out, data, "--predictions", tmp_path / "none.csv")
        assert "'popular' is" in self.refused(capsys, tmp_path / "popular", data, "--predictions", table)
        assert "its name is not UTF-8" in self.refused(capsys, tmp_path / "s\udcff", data, "--predictions", table)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "lists.csv"]
        assert "not empty" in self.refused(capsys, data, data, "--predictions", table)

    def test_lists_are_no_longer_than_the_catalogue(self, capsys, tmp_path, data):
        (tmp_path / "lists.csv").write_text("user,item,rank\nu0,i1,1\n")
        main(
            ["evaluate", str(tmp_path / "a"), str(data), "--predictions", str(tmp_path / "lists.csv"), "-k", f"{10**9}"]
        )
        facts = json.loads((tmp_path / "a" / "evaluation.json").read_text())
        assert facts["k"] == max(20, facts["catalogue_items"])

    def test_what_is_weak_is_said(self, capsys, tmp_path, data):
        (tmp_path / "lists.csv").write_text("user,item,rank\nu0,i1,1\nu99,i1,1\n")
        main(["evaluate", str(tmp_path / "weak"), str(data), "--predictions", str(tmp_path / "lists.csv")])
        shown = capsys.readouterr()
        assert "29 of 30 targets have no list and count as misses" in shown.err
        assert "1 of 2 rows are for users or targets outside the split" in shown.err
        assert shown.out.endswith(f"{tmp_path / 'weak'}\n")


def test_a_ranker_without_log_p_has_no_effects(dataset):
    class Silent:
        def __init__(self, ranker):
            self.catalogue, self.counts, self.run_name = ranker.catalogue, ranker.counts, ranker.run_name
            self.search = ranker.search

    assert evaluate(Silent(ranker_for(dataset)), dataset).effects.table.is_empty()
    assert not evaluate(ranker_for(dataset), dataset).effects.table.is_empty()
