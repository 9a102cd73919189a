from pathlib import Path
from types import SimpleNamespace

import pytest

from cftrec.errors import InputError
from cftrec.evaluation.methods import differing_options, methods, split_name


def run(name, *, dataset="d", part="", way=None, **config):
    return SimpleNamespace(
        name=f"{name}/{part}" if part else name,
        run_name=name,
        part=part,
        path=Path("runs") / name / part,
        run=Path("runs") / name,
        given=None,
        manifest={"config": config, "dataset": {"sha256": dataset}},
        evaluation={"way": way} if way else {},
    )


def test_lists_made_in_other_ways_are_methods_of_their_own():
    runs = [run(f"cft-{seed}", seed=seed) for seed in (1, 2)]
    runs += [run(f"cft-{seed}", part="gamma-0.5-counts", way={"top": 200}, seed=seed) for seed in (1, 2)]
    runs += [run("cft-3", part="gamma-0.5-counts", way={"top": 50}, seed=3)]
    assert grouped(runs) == {
        "cft": ["cft-1", "cft-2"],
        "cft/gamma-0.5-counts": ["cft-1/gamma-0.5-counts", "cft-2/gamma-0.5-counts"],
        "cft-3/gamma-0.5-counts": ["cft-3/gamma-0.5-counts"],
    }


def grouped(runs, names=None, group_seeds=True):
    for one, name in zip(runs, names or [None] * len(runs), strict=True):
        one.given = name
    found = methods(runs, group_seeds)
    return {method.name: [one.name for one in method.runs] for method in found}


def test_configs_that_differ_in_the_seed_alone_are_one_method():
    runs = [
        run("cft-1", seed=1, data_seed=None, effect_weight=0.1),
        run("plain-1", seed=1, effect_weight=0),
        run("cft-12", seed=12, data_seed=3, effect_weight=0.1),
        run("plain-12", seed=12, effect_weight=0),
        run("elsewhere", seed=2, effect_weight=0, dataset="other"),
    ]
    assert grouped(runs) == {"cft": ["cft-1", "cft-12"], "plain": ["plain-1", "plain-12"], "elsewhere": ["elsewhere"]}
    assert len(grouped(runs, group_seeds=False)) == 5


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("cft-1", "cft-2", "cft"),
        ("cft1", "cft2", "cft"),
        ("cft.seed1", "cft.seed2", "cft"),
        ("cft_s1", "cft_s2", "cft"),
        ("cft seed 1", "cft seed 2", "cft"),
        ("cft", "again", "cft"),
        ("cft", "cft-2", "cft"),
        ("1", "2", "1"),
        ("cft-21", "cft-22", "cft-21"),
    ],
)
def test_the_method_is_called_as_its_runs_less_their_seeds(first, second, name):
    assert list(grouped([run(first, seed=1), run(second, seed=2)])) == [name]


def test_a_run_alone_keeps_its_name():
    assert grouped([run("cft-1", seed=1), run("other-1", seed=1, beta=1)]) == {
        "cft-1": ["cft-1"],
        "other-1": ["other-1"],
    }


def test_what_came_of_a_way_to_rank_does_not_part_seeds():
    runs = [run(f"cft-{n}", part="ungrounded", way={"beams": 4, "written": 160, "invented": n}, seed=n) for n in (1, 2)]
    assert grouped(runs) == {"cft/ungrounded": ["cft-1/ungrounded", "cft-2/ungrounded"]}


def test_rows_of_the_same_runs_have_them_in_one_order():
    runs = [run("r1", seed=1), run("r2", seed=2), *(run(f"r{n}", part="beam-1", seed=n) for n in (2, 1))]
    assert grouped(runs, [*"aabb"], False) == {"a": ["r1", "r2"], "b": ["r1/beam-1", "r2/beam-1"]}


def test_runs_without_a_config_are_never_grouped():
    runs = [run("one"), run("two")]
    assert grouped(runs) == {"one": ["one"], "two": ["two"]}
    assert grouped(runs, ["both", "both"]) == {"both": ["one", "two"]}


def test_given_names_group_and_rename():
    runs = [run("a", seed=1, beta=0.5), run("b", seed=2, beta=1), run("c", seed=1, beta=0.5)]
    runs[0].given = runs[1].given = "x"
    found = methods(runs, True)
    assert {method.name: [one.name for one in method.runs] for method in found} == {"x": ["a", "b"], "c": ["c"]}
    assert found[0].seeds == [1, 2]
    assert differing_options(found[0]) == ["beta"]
    assert differing_options(found[1]) == []


def test_names_in_the_call(tmp_path):
    assert split_name("cft=runs/cft-1") == ("cft", Path("runs/cft-1"))
    assert split_name("runs/cft-1") == (None, Path("runs/cft-1"))
    assert split_name("runs/beta=1") == (None, Path("runs/beta=1"))
    (tmp_path / "a=b").mkdir()
    assert split_name(str(tmp_path / "a=b")) == (None, tmp_path / "a=b")
    for text in ("=run", "cft=", "c\udcffft=run"):
        with pytest.raises(InputError, match="write NAME=RUN"):
            split_name(text)


@pytest.mark.parametrize(
    ("runs", "names", "line"),
    [
        ([run("a", seed=1), run("a", seed=1, beta=1)], None, "its name 'a' is also that of"),
        ([run("a", seed=1), run("b", seed=2, beta=1)], ["b", None], "name one of them, NAME=RUN"),
        ([run("a", seed=1), run("b", seed=1)], None, "another RUN of 'a' has the same seed, 1"),
        ([run("a", seed=1), run("a", seed=1)], ["x", "x"], "comes twice in 'x'"),
    ],
)
def test_refused(runs, names, line):
    with pytest.raises(InputError) as error:
        grouped(runs, names)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
