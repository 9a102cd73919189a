"""The recommender on a small trained RUN: what it shows the model, what it leaves out, and what it says of itself."""

import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cftrec import CFTConfig, Recommender
from cftrec.artefacts import read_manifest, replaced_part
from cftrec.batch import recommend_users
from cftrec.cli import main
from cftrec.decoding import sequence_log_probs
from cftrec.decoding.priors import model_prior
from cftrec.errors import InputError
from cftrec.training import train
from cftrec.training.add import add_items
from cftrec.training.run import catalogue_of

WINDOW = 4


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommender")
    dataset.save(folder / "dataset")
    return train(folder / "dataset", folder / "run", config_of())


def config_of(**options):
    options |= {"nano_vocab_size": 300, "nano_hidden_size": 16, "nano_layers": 1, "nano_heads": 2}
    return CFTConfig(
        use_cpu=True, max_steps=30, window=WINDOW, history_stride=2, learning_rate=0.02, category="movie", **options
    )


@pytest.fixture(scope="module")
def recommender(run):
    return Recommender.from_pretrained(run)


def test_only_the_newest_window_is_shown_and_the_whole_history_left_out(recommender):
    rng = np.random.default_rng(0)
    size = len(recommender.catalogue)
    long = rng.permutation(size)[: size - 3]
    found = recommender.search([long, long[-WINDOW:]], size)
    shown = {int(item): score for item, score in zip(found.items[1], found.scores[1], strict=True) if item >= 0}
    got = [int(item) for item in found.items[0] if item >= 0]
    assert set(got) == set(range(size)) - set(long.tolist())
    assert found.scores[0][: len(got)] == pytest.approx([shown[item] for item in got], abs=1e-5)


def test_an_empty_history_is_the_counterfactual_prompt(recommender):
    prompt = replace(recommender.prompt, without_history=(5, 6, 7))
    other = replace(recommender, prompt=prompt)
    assert other._shown(np.array([], dtype=int)).tolist() == [5, 6, 7]
    (answer,) = recommender.recommend([[]], k=3)
    assert len(answer) == 3


def test_prompts_leave_room_for_the_longest_title(recommender):
    longest = recommender.catalogue.longest
    items = np.arange(3)
    whole = len(recommender._shown(items))
    tight = replace(recommender, prompt=replace(recommender.prompt, max_tokens=whole + longest - 1))
    exact = replace(recommender, prompt=replace(recommender.prompt, max_tokens=whole + longest))
    assert len(exact._shown(items)) == whole
    assert tight._shown(items).tolist() == recommender._shown(items[1:]).tolist()


def test_a_kept_item_stays_though_it_is_in_the_history(recommender):
    history = [np.array([1, 4]), np.array([1, 4])]
    found = recommender.search(history, len(recommender.catalogue), keep=[4, -1])
    assert 4 in found.items[0]
    assert 1 not in found.items[0]
    assert 4 not in found.items[1]


def test_more_users_than_a_batch_come_back_in_their_order(recommender):
    rng = np.random.default_rng(1)
    histories = [rng.integers(0, len(recommender.catalogue), rng.integers(0, 7)) for _ in range(75)]
    together = recommender.search(histories, 3)
    for row in (0, 31, 32, 74):
        assert together.items[row].tolist() == recommender.search([histories[row]], 3).items[0].tolist()


@pytest.mark.parametrize("softmax", ["catalogue", "vocabulary", None])
def test_log_probs_of_more_users_than_a_batch_are_brute_forces(recommender, softmax):
    """In the users' order, whatever each asks for, and under the recommender's own softmax if none is named."""
    rng, size = np.random.default_rng(2), len(recommender.catalogue)
    histories = [rng.integers(0, size, rng.integers(0, 7)) for _ in range(40)]
    items = [rng.integers(0, size, rng.integers(0, 4)) for _ in histories]
    own = replace(recommender, softmax="vocabulary")
    found = own.log_probs(histories, items, softmax)
    for history, asked, runs in zip(histories, items, found, strict=True):
        prompts = [recommender._shown(history)] * len(asked)
        expected = sequence_log_probs(
            recommender.model, prompts, asked.tolist(), recommender.catalogue, softmax or "vocabulary"
        )
        assert runs.lengths.tolist() == [len(tokens) for tokens in expected]
        for run, tokens in zip(runs.split(), expected, strict=True):
            np.testing.assert_allclose(run, tokens, atol=1e-4)


def test_a_spent_budget_is_said(recommender):
    vocabulary = replace(recommender, softmax="vocabulary")
    titles = recommender.catalogue.titles[:2]
    assert all(item.exact for item in vocabulary.recommend([titles], k=9)[0])
    assert not any(item.exact for item in vocabulary.recommend([titles], k=9, budget=1)[0])
    assert vocabulary.search([np.array([0])], 9, budget=1).expanded.tolist() == [1]


def test_rules_leave_out_and_the_normaliser_stays(recommender):
    """Ids go before titles, a title means both items that have it, and scores are those of the whole catalogue."""
    (whole,) = recommender.recommend([["Fargo"]], k=20)
    scores = {item.item_id: item.score for item in whole}
    (answer,) = recommender.recommend([["Fargo"]], k=20, allow=["Toy Story (1995)", "i0", "Fargo", "X"], deny=["X"])
    assert {item.item_id for item in answer} == {"i0", "i2", "i3"}
    assert all(item.score == pytest.approx(scores[item.item_id], abs=1e-5) for item in answer)
    assert recommender.recommend([["Fargo"]], allow=[]) == [[]]


def test_rules_of_each_user(recommender):
    histories = [np.array([1]), np.array([2, 3]), np.array([], dtype=int)]
    allow = [np.array([1, 4, 5]), None, np.array([7])]
    found = recommender.search(histories, 12, allow=allow, deny=[np.array([4]), np.arange(8), np.array([0])])
    assert [sorted(set(items.tolist()) - {-1}) for items in found.items] == [[5], [8, 9, 10, 11], [7]]


def test_a_cap_of_a_column(recommender):
    columns = pl.DataFrame({"genre": ["a", "b"] * 6, "none": [None] * 12}, schema_overrides={"none": pl.String})
    capped = replace(recommender, catalogue=replace(recommender.catalogue, columns=columns))
    (whole,) = capped.recommend([[]], k=12)
    (answer,) = capped.recommend([[]], k=12, cap={"genre": 2, "none": 1})
    genre = [int(item.item_id[1:]) % 2 for item in whole]
    first_two = sorted(place for value in (0, 1) for place in np.flatnonzero(np.array(genre) == value)[:2])
    assert [item.item_id for item in answer] == [whole[place].item_id for place in first_two]
    assert all(item.exact for item in answer)


def test_an_early_end_is_said_with_its_bound(recommender):
    vocabulary = replace(recommender, softmax="vocabulary")
    ((whole,), (beam,), (late,)) = (
        vocabulary.recommend([["Fargo"]], k=9, **options) for options in ({}, {"beam": 1}, {"budget_ms": 0.0})
    )
    assert all(item.exact and item.bound == -np.inf for item in whole)
    for answer in (beam, late):
        assert not any(item.exact for item in answer)
        missed = {item.item_id: item.score for item in whole}.keys() - {item.item_id for item in answer}
        assert max(item.score for item in whole if item.item_id in missed) <= answer[0].bound + 1e-5 if answer else True
    assert not beam[0].exact
    assert np.isfinite(beam[0].bound)


NEW = pl.DataFrame({"item_id": ["n0", "n1"], "title": ["Alien &amp; Co ", "Zorro"], "genre": ["x", "y"]})


def test_added_items_are_recommended_and_marked(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    before = Recommender.from_pretrained(tmp_path / "run")
    after = before.add_items(NEW)
    for recommender in (after, Recommender.from_pretrained(tmp_path / "run")):
        assert recommender.catalogue.titles[-2:] == ["Alien & Co", "Zorro"]
        (answer,) = recommender.recommend([["Zorro", "Fargo"]], k=20)
        marked = {item.item_id: item.untrained for item in answer}
        assert marked["n0"]
        assert not marked["i0"]
        titles = [item.title for item in answer]
        np.testing.assert_allclose(
            recommender.score([["Zorro", "Fargo"]], titles)[0], [a.score for a in answer], atol=1e-4
        )
    again = after.add_items(NEW.with_columns(item_id=pl.lit("m") + pl.col("item_id"), title=pl.col("title") + "!"))
    assert (
        len(Recommender.from_pretrained(tmp_path / "run").catalogue)
        == len(again.catalogue)
        == len(before.catalogue) + 4
    )
    assert sorted(path.name for path in (tmp_path / "run").glob("*catalogue-*")) == ["catalogue-2", "catalogue-3"]
    again.add_items(NEW.with_columns(item_id=pl.lit("o") + pl.col("item_id"), title=pl.col("title") + "?"))
    assert sorted(path.name for path in (tmp_path / "run").glob("*catalogue-*")) == ["catalogue-3", "catalogue-4"]
    # Whoever has the earlier ones open goes on reading them.
    assert len(before.recommend([["Fargo"]], k=20)[0]) == 11
    assert (
        after.catalogue.sequence(len(before.catalogue)).tolist()
        == again.catalogue.sequence(len(before.catalogue)).tolist()
    )


def test_a_job_for_many_users_holds_one_catalogue(run, tmp_path):
    """That which was loaded when it began, not that which the RUN's folder holds now."""
    shutil.copytree(run, tmp_path / "run")
    users, out = tmp_path / "users.jsonl", tmp_path / "out.parquet"
    users.write_text('{"user": "a", "history": ["i1"]}\n{"user": "b", "history": ["i4"]}\n')

    def recommend(recommender, progress=None):
        return recommend_users(recommender, users, out, 20, part_users=1, progress=progress)

    def killed(done, total):
        raise KeyboardInterrupt

    before, same = (Recommender.from_pretrained(tmp_path / "run") for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        recommend(before, killed)
    after = before.add_items(NEW)
    assert after.identity == Recommender.from_pretrained(tmp_path / "run").identity
    with pytest.raises(InputError, match="with another run"):
        recommend(after)
    assert recommend(same)["resumed"] == 1
    assert pl.read_parquet(out)["items"].list.len().to_list() == [11, 11]


def test_what_changes_the_answers_changes_the_identity(recommender):
    catalogue = recommender.catalogue
    shown = replace(catalogue, titles=[title.upper() for title in catalogue.titles])
    counted = replace(catalogue, counts=catalogue.counts + 1)
    others = [
        {"model_key": "another"},
        {"window": 2},
        {"softmax": "vocabulary"},
        {"prompt": replace(recommender.prompt, without_history=(5, 6))},
        {"catalogue": shown},
        {"catalogue": counted},
    ]
    assert len({recommender.identity, *(replace(recommender, **other).identity for other in others)}) == 7
    assert replace(recommender).identity == recommender.identity


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (NEW.drop("title"), "no column 'title'"),
        (NEW.with_columns(title=pl.lit(" ")), "row 1 has no title"),
        (NEW.with_columns(title=pl.lit("Fargo")), "title 'Fargo', 'Fargo': in the catalogue already"),
        (NEW.head(0), "no rows"),
    ],
)
def test_items_that_cannot_be_added_change_nothing(run, tmp_path, table, message):
    shutil.copytree(run, tmp_path / "run")
    manifest = (tmp_path / "run" / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=message):
        add_items(tmp_path / "run", table)
    assert (tmp_path / "run" / "manifest.json").read_bytes() == manifest
    assert len(list((tmp_path / "run").iterdir())) == len(list(run.iterdir()))


def test_of_two_additions_at_once_one_is_refused(run, recommender, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    manifest = read_manifest(tmp_path / "run", "run")
    add_items(tmp_path / "run", NEW)
    with (
        pytest.raises(InputError, match="was changed meanwhile; run this command again"),
        replaced_part(tmp_path / "run", manifest, "catalogue"),
    ):
        pass
    assert "Zorro" in Recommender.from_pretrained(tmp_path / "run").catalogue.titles
    assert not list((tmp_path / "run").glob(".*"))
    more = NEW.with_columns(pl.col("item_id", "title") + "!")
    with replaced_part(tmp_path / "run", read_manifest(tmp_path / "run", "run"), "catalogue") as folder:
        with pytest.raises(InputError, match="another command is changing it"):
            add_items(tmp_path / "run", more)
        replace(recommender, folder=None).catalogue.save(folder)
    assert len(add_items(tmp_path / "run", more)) == len(recommender.catalogue) + 2


def test_what_a_killed_addition_left_is_in_nobody_s_way(run, tmp_path):
    """Killed while it wrote, or between the new part's name and the manifest."""
    shutil.copytree(run, tmp_path / "run")
    for left in (".catalogue.abc.partial", "catalogue-2"):
        (tmp_path / "run" / left).mkdir()
        (tmp_path / "run" / left / "catalogue.arrow").write_text("half")
    add_items(tmp_path / "run", NEW)
    assert "Zorro" in Recommender.from_pretrained(tmp_path / "run").catalogue.titles
    assert not list((tmp_path / "run").glob(".*"))


def test_who_has_read_the_manifest_finds_its_files(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    add_items(tmp_path / "run", NEW)
    manifest = read_manifest(tmp_path / "run", "run")
    add_items(tmp_path / "run", NEW.with_columns(pl.col("item_id", "title") + "!"))
    assert len(catalogue_of(tmp_path / "run", manifest)) == len(Recommender.from_pretrained(run).catalogue) + 2


def test_a_helper_and_a_gamma_are_two_ways(recommender):
    helper = np.zeros((1, len(recommender.catalogue)))
    with pytest.raises(InputError, match="give one of them"):
        recommender.guided([np.array([8])], 3, gamma=0.5, helper=helper)
    with pytest.raises(InputError, match="helper_weight 9"):
        recommender.search([np.array([8])], 3, helper_weight=9)


def test_a_title_in_the_history_leaves_out_every_item_that_has_it(recommender):
    shared = "Toy Story (1995)"
    for keep, expected in ((False, []), (True, ["i2", "i3"])):
        (answer,) = recommender.recommend([[shared]], k=20, keep_history=keep)
        assert sorted(item.item_id for item in answer if item.title == shared) == expected


def test_so_it_does_where_titles_are_written_freely(run, capsys):
    titles = []
    for options in ([], ["--keep-history"]):
        main(
            [
                "recommend",
                str(run),
                "--history",
                "Toy Story (1995)",
                "-k",
                "20",
                "--ungrounded",
                "--beams",
                "2",
                *options,
            ]
        )
        titles.append([line.split("\t")[2] for line in capsys.readouterr().out.splitlines()])
    assert [one.count("Toy Story (1995)") for one in titles] == [0, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be at least 1, not 0"),
        ({"budget_ms": -1.0}, "budget_ms must be at least 0"),
        ({"budget_ms": float("nan")}, "budget_ms must be at least 0, not nan"),
        ({"gamma": 1.0, "prior": "bogus"}, "prior 'bogus' is not known"),
        ({"gamma": 1.0, "top": 0}, "top must be at least 1"),
        ({"gamma": 1e308}, "gamma 1e[+]308: is too large"),
    ],
)
def test_options_that_make_no_search(recommender, options, message):
    with pytest.raises(InputError, match=message):
        recommender.recommend([["Fargo"]], **options)


def test_a_model_in_training_takes_no_items(recommender):
    with pytest.raises(InputError, match="still in training"):
        replace(recommender, folder=None).add_items(NEW)


@pytest.mark.parametrize("prior", ["counts", "counterfactual"])
@pytest.mark.parametrize("softmax", ["catalogue", "vocabulary"])
def test_a_gamma_orders_the_likeliest_anew(recommender, softmax, prior):
    """By the documented formula, of which the answer tells both parts; the effect is the catalogue softmax's."""
    own, titles = replace(recommender, softmax=softmax), recommender.catalogue.titles
    history, top, gamma = [titles[4], titles[8]], 6, 0.7
    expected = {item.item_id: item.log_p for item in own.recommend([history], k=top)[0]}
    effects = replace(recommender, softmax="catalogue").score([history], titles)[0] - own.prior(prior).items
    scores = {
        item_id: log_p + gamma * effects[own.catalogue.item_ids.index(item_id)] for item_id, log_p in expected.items()
    }
    (answer,) = own.recommend([history], k=3, gamma=gamma, prior=prior, top=top)
    assert [item.score for item in answer] == pytest.approx(sorted(scores.values(), reverse=True)[:3], abs=1e-4)
    for item in answer:
        assert item.score == pytest.approx(item.log_p + gamma * item.effect, abs=1e-9)
        assert item.log_p == pytest.approx(expected[item.item_id], abs=1e-5)
        assert item.score == pytest.approx(scores[item.item_id], abs=1e-4)
        assert item.exact


def test_without_a_gamma_the_score_is_log_p(recommender):
    (answer,) = recommender.recommend([[]], k=3, prior="no prior is read")
    assert all(item.score == item.log_p and item.effect is None for item in answer)


def test_top_is_at_least_k(recommender):
    assert len(recommender.recommend([[]], k=5, gamma=1.0, top=2)[0]) == 5


def test_a_models_prior_is_stored_in_its_run(run, tmp_path):
    """Once, whatever asks for it next; another model's or prompt's, or a broken one, is made anew."""
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "prior.safetensors"
    file.unlink(missing_ok=True)
    recommender = Recommender.from_pretrained(tmp_path / "run")
    recommender.prior("counts")
    assert not file.exists()
    made = recommender.prior("counterfactual").steps
    np.testing.assert_array_equal(load_file(file)["steps"], made)
    assert file.stat().st_mode & 0o777 == (tmp_path / "run" / "log.json").stat().st_mode & 0o777

    def marked() -> None:
        """Put other numbers under the key that is stored."""
        with safe_open(file, "numpy") as stored:
            key = stored.metadata()["key"]
        save_file({"steps": made + 1}, file, {"key": key})

    marked()
    again = Recommender.from_pretrained(tmp_path / "run")
    np.testing.assert_array_equal(again.prior("counterfactual").steps, made + 1)
    np.testing.assert_array_equal(replace(again, prior_weight=0.1).prior("trained").steps, made + 1)
    other = replace(again, prompt=replace(again.prompt, without_history=(5, 6)))
    assert np.abs(other.prior("counterfactual").steps - made).max() > 1e-3
    marked()
    np.testing.assert_array_equal(replace(again, model_key="another").prior("counterfactual").steps, made)
    file.write_bytes(b"broken")
    np.testing.assert_array_equal(replace(again).prior("counterfactual").steps, made)
    np.testing.assert_array_equal(load_file(file)["steps"], made)
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == []


def test_a_models_prior_is_made_once_where_it_cannot_be_stored(run, tmp_path, monkeypatch):
    """As for each part of a job for many users; that of a model in training, which changes, is made each time."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "prior.safetensors").unlink(missing_ok=True)
    asked = []
    monkeypatch.setattr("cftrec.recommender.stored_arrays", lambda path, key, make: make())  # as of a read-only RUN
    monkeypatch.setattr(
        "cftrec.recommender.model_prior", lambda name, *rest: asked.append(name) or model_prior(name, *rest)
    )
    users = tmp_path / "users.jsonl"
    users.write_text("".join(f'{{"user": {number}, "history": ["i{number}"]}}\n' for number in range(4)))
    recommender = Recommender.from_pretrained(tmp_path / "run")
    options = {"part_users": 1, "gamma": 0.5, "prior": "counterfactual"}
    recommend_users(recommender, users, tmp_path / "out.parquet", 3, **options)
    assert len(asked) == 1
    assert len(recommender.add_items(NEW).prior("counterfactual").items) == len(recommender.catalogue) + 2
    assert len(asked) == 2
    training = replace(recommender, folder=None)
    for _ in range(2):
        training.prior("counterfactual")
    assert len(asked) == 4


def test_a_helpers_scores_go_to_their_users(recommender):
    """More users than a batch, in their order; a helper that is certain decides."""
    rng, size = np.random.default_rng(3), len(recommender.catalogue)
    histories = [rng.integers(0, size, rng.integers(0, 5)) for _ in range(40)]
    liked = rng.integers(0, size, 40)
    helper = 1000.0 * (np.arange(size) == liked[:, None])
    found = recommender.search(histories, 1, keep_history=True, helper=helper, helper_weight=0.9)
    node = recommender.catalogue.trie.item_node
    assert (node[found.items[:, 0]] == node[liked]).all()
    log_p = [runs.values.sum() for runs in recommender.log_probs(histories, [[item] for item in found.items[:, 0]])]
    twins = np.log([(node == node[item]).sum() for item in liked])  # a title's share is that of all its items
    assert (twins > 0).any()
    np.testing.assert_allclose(found.scores[:, 0], 0.1 * np.array(log_p), atol=1e-4)
    with pytest.raises(InputError, match="scores of 39 users for 40 histories"):
        recommender.search(histories, 1, helper=helper[1:])


def test_ungrounded_keeps_embeddings_and_leaves_the_history_out(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    recommender = Recommender.from_pretrained(tmp_path / "run")
    rng, size = np.random.default_rng(4), len(recommender.catalogue)
    histories = [rng.permutation(size)[: rng.integers(0, 5)] for _ in range(19)]
    found = recommender.ungrounded(histories, 4, keep=[-1] * 19, beams=2)
    assert load_file(tmp_path / "run" / "title_embeddings.safetensors")["titles"].shape == (size, 16)
    assert found.invented.shape == (19, 2)
    for row, history in enumerate(histories):
        assert not set(found.items[row].tolist()) & set(history.tolist())
        alone = recommender.ungrounded([history], 4, beams=2)
        assert found.items[row].tolist() == alone.items[0].tolist()
    kept = recommender.ungrounded([np.arange(size)], 4, keep=[3], beams=2)
    assert kept.items[0].tolist() == [3, -1, -1, -1]
    assert recommender.ungrounded([], 4).items.shape == (0, 4)
    with pytest.raises(InputError, match="k and beams"):
        recommender.ungrounded(histories, 4, beams=0)
    with pytest.raises(InputError, match="beams 100000000000: must be at most 1,000"):
        recommender.ungrounded(histories, 4, beams=10**11)
    with pytest.raises(InputError, match="grounded 3: must be from 1 to 2"):
        recommender.ungrounded(histories, 4, beams=2, grounded=3)


def test_more_items_than_there_are(recommender):
    (answer,) = recommender.recommend([recommender.catalogue.titles[:1]], k=10**12)
    assert 0 < len(answer) < len(recommender.catalogue)


def test_bad_input(recommender):
    with pytest.raises(InputError, match="at least 1"):
        recommender.recommend([[]], k=0)
    with pytest.raises(InputError, match="at least 1"):
        recommender.recommend([[]], k=0, gamma=1.0)
    with pytest.raises(InputError, match="top must be at least 1"):
        recommender.recommend([[]], gamma=1.0, top=0)
    with pytest.raises(InputError, match="gamma -1"):
        recommender.recommend([[]], gamma=-1.0)
    with pytest.raises(InputError, match="prior 'fame' is not known"):
        recommender.recommend([[]], gamma=1.0, prior="fame")
    with pytest.raises(InputError, match="nearest"):
        recommender.score([["Fargoo"]], ["Fargo"])


@pytest.mark.parametrize("name", ["prompt.json", "config.yaml", "trie/paths.npy", "model/model.safetensors"])
def test_a_file_changed_at_its_size_is_refused(run, tmp_path, name):
    shutil.copytree(run, tmp_path / "run")
    content = bytearray((tmp_path / "run" / name).read_bytes())
    content[-9] ^= 1
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(InputError, match="changed since"):
        Recommender.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize(
    "manifest", ["{}", '{"kind": "run"}', "[]", '{"kind": "run", "format_version": 1, "files": 3}']
)
def test_a_manifest_that_is_none_is_refused(run, tmp_path, manifest):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match="not a run folder"):
        Recommender.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize("prior", ["counts", "counterfactual"])
@pytest.mark.parametrize("orders", [0, 3, 24])
def test_an_explanation_is_what_separate_runs_say_and_adds_up(recommender, prior, orders):
    titles = recommender.catalogue.titles
    history, title = [titles[4], titles[8], titles[4], titles[9]], "Star Wars"
    found = recommender.explain(history, title, prior, shapley=orders)
    alone = recommender.score([history, []], [title])[:, 0]
    expected = recommender.prior(prior).items[titles.index(title)]
    if prior == "counterfactual":
        assert expected == pytest.approx(alone[1], abs=1e-5)
    assert (found.log_p, found.log_prior) == pytest.approx((alone[0], expected), abs=1e-5)
    assert found.effect == pytest.approx(alone[0] - expected, abs=1e-5)
    for part, total in [("log_p", found.log_p), ("log_prior", found.log_prior), ("effect", found.effect)]:
        assert sum(getattr(token, part) for token in found.tokens) == pytest.approx(total, abs=1e-9)
    for place, item in enumerate(found.history):
        rest = history[:place] + history[place + 1 :]
        assert item.title == history[place]
        assert item.effect == pytest.approx(alone[0] - recommender.score([rest], [title])[0, 0], abs=1e-5)
    shares = [item.shapley for item in found.history]
    assert found.orders == orders
    if orders:
        assert sum(shares) == pytest.approx(found.effect, abs=1e-9)
        assert all((item.shapley_error == 0) == (orders == 24) for item in found.history)
    else:
        assert shares == [None] * 4
    assert "".join(token.text for token in found.tokens) == title
    closing = len(recommender.prompt.closing)
    assert [token.closing for token in found.tokens] == [False] * (len(found.tokens) - closing) + [True] * closing
    forced = [token for token in found.tokens if not token.choice]
    assert forced
    assert all(token.log_p == token.log_prior == 0 for token in forced)


def test_an_explanation_is_of_what_the_model_is_shown(recommender):
    """The newest items of the window that fit the prompt; one item alone is missed by the whole effect."""
    titles = recommender.catalogue.titles
    long = [titles[place] for place in (0, 1, 4, 5, 6, 7)]
    found = recommender.explain(long, "Fargo")
    assert [item.title for item in found.history] == long[-WINDOW:]
    assert found == recommender.explain(long[-WINDOW:], "Fargo")
    room = len(recommender._shown(np.array([6, 7]))) + recommender.catalogue.longest
    tight = replace(recommender, prompt=replace(recommender.prompt, max_tokens=room))
    assert [item.title for item in tight.explain(long, "Fargo").history] == [titles[6], titles[7]]
    one = recommender.explain(long[:1], "Fargo", shapley=2)
    assert one.history[0].effect == pytest.approx(one.effect)
    assert one.history[0].shapley == pytest.approx(one.effect)


def test_an_explanation_says_of_a_title_that_it_is_untrained(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    Recommender.from_pretrained(tmp_path / "run").add_items(NEW)
    for title, said in (("Zorro", 1), ("Fargo", 0)):
        main(["explain", str(tmp_path / "run"), "--history", "Alien", "Zorro", "--item", title])
        lines = capsys.readouterr().out.splitlines()
        assert sum(line.startswith("untrained: ") for line in lines) == said


def test_what_cannot_be_explained(recommender):
    with pytest.raises(InputError, match="history is empty"):
        recommender.explain([], "Fargo")
    with pytest.raises(InputError, match="has trained none"):
        recommender.explain(["Alien"], "Fargo", prior="trained")
    with pytest.raises(InputError, match="not known"):
        recommender.explain(["Alien"], "Fargo", prior="nothing")


def test_lists_are_as_good_as_arrays(recommender):
    """Empty ones too, which NumPy takes for floats."""
    histories, size = [[], [1, 4]], len(recommender.catalogue)
    arrays = [np.array(history, dtype=np.int64) for history in histories]
    helper = np.random.default_rng(5).normal(size=(2, size))
    for way in ("search", "ungrounded"):
        ask = getattr(recommender, way)
        for options in ({}, {"deny": [[], [0]]}, {"deny": [[2], []], "keep_history": True}, {"keep": [-1, 4]}):
            np.testing.assert_array_equal(ask(histories, 5, **options).items, ask(arrays, 5, **options).items)
    for helped in (helper.tolist(), helper[:, ::-1].tolist()):
        found = recommender.search(histories, 5, helper=helped)
        np.testing.assert_array_equal(found.items, recommender.search(arrays, 5, helper=np.array(helped)).items)
    for broken in ([[0.0] * size, [0.0]], [["a"] * size] * 2, [[0.0] * (size - 1)] * 2):
        with pytest.raises(InputError, match="helper scores"):
            recommender.search(histories, 5, helper=broken)


def test_denied_items_are_left_out_of_the_answer_alone(recommender):
    history = [np.array([1, 4]), np.array([7])]
    free, bound = recommender.search(history, 12), recommender.search(history, 12, deny=[[0, 8], []])
    assert [item for item in free.items[0] if item not in (0, 8, -1)] == [item for item in bound.items[0] if item >= 0]
    assert free.items[1].tolist() == bound.items[1].tolist()


@pytest.mark.parametrize(("softmax", "near"), [("catalogue", 0.1), ("vocabulary", 0.5)])  # that rounds all logits
def test_in_bf16_all_that_a_run_says_is_near(run, recommender, tmp_path, softmax, near):
    config = config_of(decode_bf16=True, decode_softmax=softmax)
    narrow = Recommender.from_pretrained(train(run.parent / "dataset", tmp_path / "run", config))
    wide = replace(recommender, softmax=softmax)
    assert narrow.model.dtype == torch.bfloat16
    assert recommender.model.dtype == torch.float32
    titles = narrow.catalogue.titles
    histories = [[titles[1], titles[5]], [titles[3]], []]
    difference = narrow.score(histories, titles) - wide.score(histories, titles)
    assert 0 < np.abs(difference).max() < near
    for history, found, scores in zip(
        histories, narrow.recommend(histories, k=len(titles)), narrow.score(histories, titles), strict=True
    ):
        assert {item.title for item in found} == set(titles) - set(history)
        assert [item.score for item in found] == pytest.approx(
            [scores[titles.index(item.title)] for item in found], abs=near
        )
    told, known = (one.explain(histories[0], titles[7], "counterfactual") for one in (narrow, wide))
    assert told.effect == pytest.approx(known.effect, abs=near)
    assert narrow.prior("counterfactual").items == pytest.approx(wide.prior("counterfactual").items, abs=near)
    assert (narrow.ungrounded([np.array([1, 5])], 3).items >= 0).all()
