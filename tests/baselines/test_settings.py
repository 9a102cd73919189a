import pytest

from cftrec.baselines.settings import MODELS, candidates, describe_settings, read_settings
from cftrec.errors import InputError


def test_text_becomes_what_the_default_is():
    given = read_settings("sasrec", {"factors": "32", "dropout": "0", "learning_rate": "1e-2"})
    assert given == {"factors": 32, "dropout": 0.0, "learning_rate": 0.01}
    assert [type(value) for value in given.values()] == [int, float, float]
    assert read_settings("itemknn", {"weighting": "bm25"}) == {"weighting": "bm25"}


@pytest.mark.parametrize(
    ("model", "given", "line"),
    [
        ("als", {}, "--model als: unknown baseline; choose one of popular, itemknn, ease, sasrec, bert4rec"),
        ("popular", {"seed": "1"}, "--set seed: popular has no such setting; it has none"),
        ("ease", {"lambda": "1"}, "ease has no such setting; it has regularization"),
        ("ease", {"regularization": "0"}, "regularization=0: must be at least 1e-09"),
        ("ease", {"regularization": "nan"}, "regularization=nan: must be at least"),
        ("ease", {"regularization": "inf"}, "regularization=inf: must be at least"),
        ("itemknn", {"neighbours": "2.5"}, "neighbours=2.5: must be a whole number"),
        ("itemknn", {"weighting": "x"}, "weighting=x: choose one of cosine, tfidf, bm25"),
        ("sasrec", {"dropout": "1"}, "dropout=1: must be at least 0 and below 1"),
        ("sasrec", {"dropout": "a"}, "dropout=a: must be a number"),
        ("sasrec", {"heads": "3"}, "--set heads: must divide factors; give both"),
        ("sasrec", {"mask": "0.2"}, "--set mask: sasrec has no such setting"),
    ],
)
def test_refused(model, given, line):
    with pytest.raises(InputError) as error:
        read_settings(model, given)
    assert line in str(error.value)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("trials", [1, 2, 7, 1000])
def test_candidates_are_the_defaults_and_others_without_repeats(model, trials):
    known = MODELS[model]
    found = candidates(model, {}, trials)
    assert found[0] == {name: setting.default for name, setting in known.items()}
    cells = 1
    for setting in known.values():
        cells *= max(1, len(setting.tried))
    assert len(found) == min(trials, cells)
    assert len({tuple(settings.items()) for settings in found}) == len(found)
    for settings in found:
        assert all(value in known[name].tried or value == known[name].default for name, value in settings.items())
    assert candidates(model, {}, trials) == found
    assert len(candidates(model, {})) == (8 if "epochs" in known else cells)


def test_what_is_given_stays():
    for settings in candidates("sasrec", {"dropout": 0.07, "seed": 3, "factors": 64}, 20):
        assert (settings["dropout"], settings["seed"], settings["factors"]) == (0.07, 3, 64)
    assert len(candidates("ease", {"regularization": 7.0}, 20)) == 1
    assert all(settings["factors"] % 64 == 0 for settings in candidates("sasrec", {"heads": 64}, 50))


def test_described():
    (name, default, meaning), *_ = describe_settings("itemknn")
    assert (name, default) == ("weighting", "tfidf")
    assert meaning.endswith("; a search tries cosine, tfidf, bm25")
