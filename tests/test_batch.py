"""Batches of users: whatever kills the job and however often, the file holds each user once, as if nothing had been."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cftrec.artefacts import held
from cftrec.batch import recommend_users
from cftrec.errors import InputError
from cftrec.text import Catalogue

ITEMS = 6
IDS, TITLES = [f"i{item}" for item in range(ITEMS)], ["A", "B", "C", "C", "i0", "F"]


class Killed(BaseException):
    """What no code catches, as a kill."""


class Ranker:
    """Recommends what follows the newest item; counts whom it was asked for."""

    def __init__(self, alive=lambda: None):
        tokens = [[item, 9] for item in range(ITEMS)]
        self.catalogue, self.run_name, self.folder = Catalogue.build(IDS, TITLES, tokens), "fake", None
        self.alive, self.asked, self.denied = alive, [], []

    def search(self, histories, k, allow=None, deny=None, keep_history=False, budget=1):
        self.alive()
        self.asked += [tuple(history.tolist()) for history in histories]
        self.denied += [items.tolist() for items in deny]
        newest = np.array([history[-1] if len(history) else 0 for history in histories], dtype=int)
        items = (newest[:, None] + 1 + np.arange(k)) % ITEMS
        items[newest == 3, -1] = -1  # a shorter list
        scores = np.where(items < 0, -np.inf, -np.arange(1.0, k + 1)[None] * budget)
        bound = np.where(newest == 2, -7.0, -np.inf)
        return SimpleNamespace(items=items, scores=scores, exact=newest != 2, bound=bound)

    def guided(self, histories, k, gamma, **options):
        found = self.search(histories, k, **options)
        return SimpleNamespace(**vars(found), log_p=found.scores / 2, effect=found.scores * gamma)


def table(folder: Path, histories: list[list[str]]) -> Path:
    users = [f"u{number}" for number in range(len(histories))]
    frame = pl.DataFrame(
        {"user": users, "history": histories}, schema={"user": pl.String, "history": pl.List(pl.String)}
    )
    frame.write_parquet(folder / "users.parquet")
    return folder / "users.parquet"


def expected(histories: list[list[str]], k: int) -> list[dict]:
    rows = []
    for number, history in enumerate(histories):
        known = [
            IDS.index(entry) if entry in IDS else TITLES.index(entry) for entry in history if entry in IDS + TITLES
        ]
        newest = known[-1] if known else 0
        items = [(newest + 1 + place) % ITEMS for place in range(min(k, ITEMS))]
        items = items[:-1] if newest == 3 else items
        rows.append(
            {
                "user": f"u{number}",
                "items": [IDS[item] for item in items],
                "titles": [TITLES[item] for item in items],
                "scores": [-1.0 - place for place in range(len(items))],
                "untrained": [False] * len(items),
                "exact": newest != 2,
                "bound": -7.0 if newest == 2 else None,
                "unknown": len(history) - len(known),
            }
        )
    return rows


entries = st.sampled_from([*IDS, *TITLES, "nothing", ""])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    histories=st.lists(st.lists(entries, max_size=4), max_size=9),
    k=st.integers(1, ITEMS + 2),
    part=st.integers(1, 4),
    kills=st.lists(st.integers(0, 25), max_size=4),
)
def test_kills_anywhere_lose_and_repeat_nothing(tmp_path_factory, histories, k, part, kills):
    """A kill falls before any search and before or after any file gets its name; the last call is left alone."""
    folder = tmp_path_factory.mktemp("batch")
    users, out = table(folder, histories), folder / "out.parquet"
    replace, clock = Path.replace, {"left": 0}

    def alive():
        clock["left"] -= 1
        if clock["left"] < 0:
            raise Killed

    def dying_replace(self, target):
        alive()
        result = replace(self, target)
        alive()
        return result

    searched: list[tuple] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", dying_replace)
        for left in [*kills, 10**6]:
            clock["left"], ranker, before = left, Ranker(alive), out.exists()
            try:
                counts = recommend_users(ranker, users, out, k, part_users=part)
            except Killed:
                assert before <= out.exists()
            finally:
                parts = out.with_name(".out.parquet.parts")
                searched.append((len(ranker.asked), len(list(parts.glob("part-*")))))
            if not parts.exists():
                break
    rows = expected(histories, k)
    assert pl.read_parquet(out).to_dicts() == rows
    assert counts["users"] == len(histories)
    assert counts["unknown"] == sum(row["unknown"] for row in rows)
    assert counts["inexact"] == sum(not row["exact"] for row in rows)
    assert sorted(path.name for path in folder.iterdir()) == ["out.parquet", "users.parquet"]
    # No more was asked twice than the part that each kill broke off.
    assert sum(asked for asked, _ in searched) <= len(histories) + part * (len(searched) - 1)


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_batch import Ranker
from cftrec.batch import recommend_users
recommend_users(Ranker(lambda: time.sleep(0.01)), Path(sys.argv[2]), Path(sys.argv[3]), 3, part_users=1)
"""


def test_a_process_that_is_killed_goes_on(tmp_path):
    histories = [[IDS[number % ITEMS]] for number in range(60)]
    users, out = table(tmp_path, histories), tmp_path / "out.parquet"
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(users), str(out)]
    parts = tmp_path / ".out.parquet.parts"
    for _ in range(2):
        before = len(list(parts.glob("part-*")))
        process = subprocess.Popen(command)
        while process.poll() is None and len(list(parts.glob("part-*"))) < before + 5:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
    ranker = Ranker()
    counts = recommend_users(ranker, users, out, 3, part_users=1)
    assert pl.read_parquet(out).to_dicts() == expected(histories, 3)
    assert counts["resumed"] >= 10
    assert len(ranker.asked) == 60 - counts["resumed"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_an_event_a_row_is_gathered(tmp_path, ending):
    """Users may be mixed; each one's events are in order."""
    frame = pl.DataFrame({"user": [2, 1, 2, 1, 3], "item": ["A", "B", "i5", "F", "?"], "time": [1, 2, 3, 4, 5]})
    file = tmp_path / f"users.{ending}"
    match ending:
        case "parquet":
            frame.write_parquet(file)
        case "jsonl":
            frame.write_ndjson(file)
        case _:
            frame.write_csv(file, separator="," if ending == "csv" else "\t")
    ranker = Ranker()
    recommend_users(ranker, file, tmp_path / "out.parquet", 2)
    assert pl.read_parquet(tmp_path / "out.parquet")["user"].to_list() == ["2", "1", "3"]
    assert ranker.asked == [(0, 5), (1, 5), ()]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_text_is_read_as_a_log_is(tmp_path, separator):
    """Blank lines are passed over, an empty item is none, fields may be quoted, lines end as any editor ends them."""
    lines = ["", "user,item", "", "a,A", 'b,"i5"', "c,", "", 'a,"F"', '"c",""', ""]
    file = tmp_path / ("users.csv" if separator == "," else "users.tsv")
    file.write_bytes("\r\n".join(lines).replace(",", separator).encode("utf-8-sig"))
    ranker = Ranker()
    assert recommend_users(ranker, file, tmp_path / "out.parquet", 2)["unknown"] == 0
    assert pl.read_parquet(tmp_path / "out.parquet")["user"].to_list() == ["a", "b", "c"]
    assert ranker.asked == [(0, 5), (5,), ()]


def test_lists_in_json_lines_and_numbers_as_ids(tmp_path):
    (tmp_path / "users.jsonl").write_text('{"user": 7, "history": ["F", "nothing"]}\n{"user": 8, "history": null}\n')
    recommend_users(Ranker(), tmp_path / "users.jsonl", tmp_path / "out.parquet", 1)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found["user"].to_list() == ["7", "8"]
    assert found["items"].to_list() == [["i0"], ["i1"]]
    assert found["unknown"].to_list() == [1, 0]


def test_a_dataset_is_all_its_users_with_their_whole_histories(dataset, tmp_path):
    dataset.save(tmp_path / "data")
    ranker = Ranker()
    recommend_users(ranker, tmp_path / "data", tmp_path / "out.parquet", 2)
    assert pl.read_parquet(tmp_path / "out.parquet")["user"].to_list() == dataset.users.to_list()
    bounds = zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    whole = [dataset.events[begin:end].tolist() for begin, end in bounds]
    assert ranker.asked == [tuple(item for item in history if item < ITEMS) for history in whole]


@pytest.mark.parametrize("histories", [[], [["A"], ["F"]]])
def test_a_gamma_writes_both_parts(tmp_path, histories):
    recommend_users(Ranker(), table(tmp_path, histories), tmp_path / "out.parquet", 2, gamma=0.5)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.columns[-2:] == ["log_p", "effect"]
    assert found["log_p"].to_list() == [[-0.5, -1.0]] * len(histories)
    assert found["effect"].to_list() == [[-0.5, -1.0]] * len(histories)


def test_progress_counts_what_was_there_before(tmp_path):
    users, seen = table(tmp_path, [["A"]] * 5), []
    recommend_users(
        Ranker(),
        users,
        tmp_path / "out.parquet",
        2,
        part_users=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("removed", range(4))
def test_a_kill_among_the_last_removals_is_taken_up(tmp_path, monkeypatch, removed):
    users, out = table(tmp_path, [["A"]] * 5), tmp_path / "out.parquet"
    recommend_users(Ranker(), users, tmp_path / "whole.parquet", 2, part_users=2)
    unlink, done = Path.unlink, []

    def killed(path, **options):
        if path.parent.name == f".{out.name}.parts":
            done.append(path)
            if len(done) > removed:
                raise Killed
        unlink(path, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", killed)
        recommend_users(Ranker(), users, out, 2, part_users=2)
    assert (tmp_path / f".{out.name}.parts").is_dir()
    recommend_users(Ranker(), users, out, 2, part_users=2)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / f".{out.name}.parts").exists()


def test_another_job_is_not_taken_up(tmp_path):
    users, out = table(tmp_path, [["A"]] * 5), tmp_path / "out.parquet"

    def die():
        raise Killed

    with pytest.raises(Killed):
        recommend_users(Ranker(die), users, out, 2)
    with pytest.raises(InputError, match="with another k, options; give the same"):
        recommend_users(Ranker(), users, out, 3, budget=4)
    table(tmp_path, [["A"]] * 6)
    with pytest.raises(InputError, match="with another users"):
        recommend_users(Ranker(), users, out, 2)
    out.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        recommend_users(Ranker(), users, out, 2)
    assert out.read_text() == "mine"


def test_histories_of_one_length_may_be_arrays(tmp_path):
    given = pl.DataFrame({"user": [1, 2], "history": [["i1", "i2"], ["i3", "i0"]]})
    lists = []
    for name, kind in (("array", pl.Array(pl.String, 2)), ("list", pl.List(pl.String))):
        given.cast({"history": kind}).write_parquet(tmp_path / f"{name}.parquet")
        recommend_users(Ranker(), tmp_path / f"{name}.parquet", tmp_path / f"{name}-out.parquet", 2)
        lists.append(pl.read_parquet(tmp_path / f"{name}-out.parquet"))
    assert lists[0].equals(lists[1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.csv", "user,thing\n1,2\n", "its columns are user, thing; give user and history"),
        ("u.csv", "user,history\n1,2\n", "history must hold lists"),
        ("u.csv", "user,item\n1,i0\n,i1\n", "row 2: user is empty"),
        ("u.jsonl", '{"user": "", "history": []}', "row 1: user is empty"),
        ("u.csv", "user,item\n\n1,i0\n,i1\n", "row 3: user is empty"),
        ("u.csv", "user,item\n1,i0\n2\n", r"row 2 \(line 3\): 1 fields, where 2 are due"),
        ("u.tsv", "user\titem\n1\ti0\n2\n", r"row 2 \(line 3\): 1 fields, where 2 are due"),
        ("u.csv", "user,item,item\n1,i0,i1\n", "two columns are called 'item'"),
        ("u.csv", "", "the file is empty"),
        ("u.jsonl", '{"user": 1', "cannot be read"),
        ("u.parquet", "no", "cannot be read"),
        ("u.txt", "user,item\n", "ends in .parquet, .csv"),
        ("u.csv", None, "no such table"),
    ],
)
def test_bad_tables(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        recommend_users(Ranker(), tmp_path / name, tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ([name] if content is not None else [])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"user": ["a"], "item": [["i0", "i1"]]}, "item holds nested values; .* lists of items in column history"),
        ({"user": ["a"], "item": [{"id": "i0"}]}, "item holds nested values"),
        ({"user": [["a"]], "item": ["i0"]}, "user holds nested values"),
        ({"user": ["a"], "history": [[{"id": "i0"}]]}, "history holds nested values"),
        ({"user": ["a"], "history": [[["i0"]]]}, "history holds nested values"),
    ],
)
def test_nested_values_are_no_ids(tmp_path, ending, rows, message):
    """And nothing is left, so that the same command with a mended file goes through."""
    file = tmp_path / f"users.{ending}"
    frame = pl.DataFrame(rows)
    frame.write_parquet(file) if ending == "parquet" else frame.write_ndjson(file)
    with pytest.raises(InputError, match=message):
        recommend_users(Ranker(), file, tmp_path / "out.parquet", 2)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_bad_options(tmp_path):
    users = table(tmp_path, [["A"]])
    with pytest.raises(InputError, match="-k 0"):
        recommend_users(Ranker(), users, tmp_path / "out.parquet", 0)
    with pytest.raises(InputError, match=r"NAME\.parquet"):
        recommend_users(Ranker(), users, tmp_path / "out.csv")


def test_the_job_names_the_run(tmp_path):
    """Another model's parts are not mixed in; the RUN's folder is not asked, which may hold more items by now."""
    users = table(tmp_path, [["A"]])

    def die():
        raise Killed

    ranker = Ranker(die)
    ranker.folder, ranker.identity = tmp_path / "run", "one"
    with pytest.raises(Killed):
        recommend_users(ranker, users, tmp_path / "out.parquet")
    assert json.loads((tmp_path / ".out.parquet.parts" / "job.json").read_text())["run"] == "one"
    ranker.identity = "another"
    with pytest.raises(InputError, match="with another run"):
        recommend_users(ranker, users, tmp_path / "out.parquet")


def test_a_refused_job_leaves_nothing_in_the_way(tmp_path):
    users, out = table(tmp_path, [["A"]]), tmp_path / "out.parquet"
    with pytest.raises(InputError, match="'nothing' is neither an item id nor a title"):
        recommend_users(Ranker(), users, out, 2, allow=["nothing"])
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]
    assert recommend_users(Ranker(), users, out, 2, allow={"A", "C"}, deny=())["users"] == 1


def test_a_title_means_every_item_that_has_it_and_an_id_one(tmp_path):
    users = table(tmp_path, [["C"], ["i2"], ["A", "i3"], ["i0"]])
    for name, options, expected in (
        ("leave out", {"deny": ["F"]}, [[5, 2, 3], [5], [5, 0], [5]]),
        ("keep", {"keep_history": True}, [[]] * 4),
    ):
        ranker = Ranker()
        recommend_users(ranker, users, tmp_path / f"{name}.parquet", 2, **options)
        assert ranker.denied == expected


def test_what_training_never_chose_is_marked(tmp_path):
    ranker = Ranker()
    new = pl.DataFrame({"item_id": ["i6"], "title": ["G"]})
    ranker.catalogue = ranker.catalogue.extended(new, [[8, 9]])
    recommend_users(ranker, table(tmp_path, [["F"]]), tmp_path / "out.parquet", 7)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found["untrained"].to_list() == [[item == "i6" for item in found["items"][0]]]


@pytest.mark.parametrize("shape", ["history", "item"])
def test_ids_that_a_missing_value_made_floats(tmp_path, shape):
    ranker = Ranker()
    ranker.catalogue = Catalogue.build(
        [f"{item}0" for item in range(1, 7)], TITLES, [[item, 9] for item in range(ITEMS)]
    )
    if shape == "history":
        frame = pl.DataFrame({"user": [1.0, 2.0], "history": [[20.0, None], [10.0]]})
    else:
        frame = pl.DataFrame({"user": [1.0, 1.0, 2.0], "item": [20.0, None, 10.0]})
    frame.write_parquet(tmp_path / "users.parquet")
    counts = recommend_users(ranker, tmp_path / "users.parquet", tmp_path / "out.parquet", 1)
    assert ranker.asked == [(1,), (0,)]
    assert pl.read_parquet(tmp_path / "out.parquet")["user"].to_list() == ["1", "2"]
    assert counts["unknown"] == (shape == "history")


@pytest.mark.parametrize("shape", ["history", "item"])
def test_ids_that_are_decimals_are_read_as_a_log_s(tmp_path, shape):
    """Whole ones without their zeros, of a column that holds fractions all as they stand."""
    ranker, kind = Ranker(), pl.Decimal(10, 2)
    ids = [*map(str, range(1, 6)), "1.50"]
    ranker.catalogue = Catalogue.build(ids, TITLES, [[item, 9] for item in range(ITEMS)])
    for name, items, asked in (("whole", [2, None, 1], [(1,), (0,)]), ("fraction", [1.5, None, 1], [(5,), ()])):
        if shape == "history":
            frame = pl.DataFrame({"user": [1, 2], "history": [items[:2], items[2:]]}, strict=False)
            frame = frame.cast({"user": kind, "history": pl.List(kind)})
        else:
            frame = pl.DataFrame({"user": [1, 1, 2], "item": items}, strict=False).cast({"user": kind, "item": kind})
        frame.write_parquet(tmp_path / "users.parquet")
        ranker.asked.clear()
        recommend_users(ranker, tmp_path / "users.parquet", tmp_path / f"{name}.parquet", 1)
        assert ranker.asked == asked
        assert pl.read_parquet(tmp_path / f"{name}.parquet")["user"].to_list() == ["1", "2"]


def test_a_byte_order_mark_is_no_part_of_the_lines(tmp_path):
    (tmp_path / "users.jsonl").write_text('{"user": 7, "history": ["F"]}\n', encoding="utf-8-sig")
    recommend_users(Ranker(), tmp_path / "users.jsonl", tmp_path / "out.parquet", 1)
    assert pl.read_parquet(tmp_path / "out.parquet")["items"].to_list() == [["i0"]]


def test_one_call_at_a_time_is_at_a_job(tmp_path):
    users, out = table(tmp_path, [["A"], ["B"]]), tmp_path / "out.parquet"
    parts = interrupted(tmp_path, users, out)
    with held(parts), pytest.raises(InputError, match="another command is changing it"):
        recommend_users(Ranker(), users, out, 2, part_users=1)
    assert recommend_users(Ranker(), users, out, 2, part_users=1)["resumed"] == 1


@pytest.mark.parametrize("name", ["histories.parquet", "part-000000000000.parquet"])
def test_an_output_may_have_any_name(tmp_path, name):
    users = table(tmp_path, [["A"], ["B"]])
    recommend_users(Ranker(), users, tmp_path / "expected.parquet", 2)
    interrupted(tmp_path, users, tmp_path / name)
    assert recommend_users(Ranker(), users, tmp_path / name, 2, part_users=1)["resumed"] == 1
    assert pl.read_parquet(tmp_path / name).equals(pl.read_parquet(tmp_path / "expected.parquet"))


def test_a_file_system_that_knows_no_locks_holds_nobody_back(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unknown)
    assert recommend_users(Ranker(), table(tmp_path, [["A"]]), tmp_path / "out.parquet", 2)["users"] == 1


def interrupted(folder, users, out):
    """Leave a job with all but its last part."""
    left = [1]

    def alive():
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    with pytest.raises(Killed):
        recommend_users(Ranker(alive), users, out, 2, part_users=1)
    return folder / f".{out.name}.parts"


def test_what_lies_there_and_is_no_part(tmp_path):
    users, out = table(tmp_path, [["A"], ["B"]]), tmp_path / "out.parquet"

    def refused(message):
        with pytest.raises(InputError, match=message):
            recommend_users(Ranker(), users, out, 2, part_users=1)

    parts = interrupted(tmp_path, users, out)
    (part,) = parts.glob("part-*")
    whole = part.read_bytes()
    part.write_bytes(whole[:-9])
    refused("a part cannot be read .*; remove the folder to start anew")
    part.write_bytes(whole)
    pl.DataFrame({"user": ["mine"]}).write_parquet(out)  # the interrupted call had not come so far
    refused("out.parquet: is there already")
    out.unlink()
    job = (parts / "job.json").read_text()
    for broken in ("[]", "{"):
        (parts / "job.json").write_text(broken)
        refused("job")
    (parts / "job.json").unlink()
    refused("holds something else than the parts of a job")
    assert part.exists()
    (parts / "job.json").write_text(job)
    assert recommend_users(Ranker(), users, out, 2, part_users=1) == {
        "users": 2,
        "unknown": 0,
        "inexact": 0,
        "resumed": 2,
    }


def test_a_full_disk_is_one_line_and_loses_no_part(tmp_path):
    """The disk, here the largest file allowed, has room for each part and none for the whole."""
    users, out = table(tmp_path, [[f"i{n % 5}"] * (n % 7) for n in range(60)]), tmp_path / "out.parquet"
    recommend_users(Ranker(), users, tmp_path / "whole.parquet", 3, part_users=1)
    parts = interrupted(tmp_path, users, tmp_path / "try.parquet")
    most = (tmp_path / "whole.parquet").stat().st_size - 1
    assert all(part.stat().st_size < most for part in parts.iterdir())
    run = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n" + SCRIPT.replace(
        "recommend_users(R", "from cftrec import cli, commands\ncommands.Add.run = lambda self: recommend_users(R"
    )
    run += "cli.main(['add', 'x', '--items', 'y'])\n"
    command = [sys.executable, "-c", run, str(Path(__file__).parent), str(users), str(out)]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (2, "cftrec: writing failed: File too large\n")
    assert not out.exists()
    assert recommend_users(Ranker(), users, out, 3, part_users=1)["resumed"] == 60


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_a_name_is_no_pattern(tmp_path, ending):
    """Beside each file lies one that its name would match as a pattern."""
    write = {"parquet": "write_parquet", "jsonl": "write_ndjson"}.get(ending, "write_csv")
    options = {"separator": "\t"} if ending == "tsv" else {}
    for name, user in ((f"u1.{ending}", "wrong"), (f"u[1].{ending}", "right")):
        getattr(pl.DataFrame({"user": [user], "item": ["i1"]}), write)(tmp_path / name, **options)
    for out in ("o[1].parquet", "o*.parquet"):
        pl.DataFrame({"user": ["before"]}).write_parquet(tmp_path / "o1.parquet")
        recommend_users(Ranker(), tmp_path / f"u[1].{ending}", tmp_path / out, 2)
        assert pl.read_parquet(tmp_path / out, glob=False)["user"].to_list() == ["right"]
