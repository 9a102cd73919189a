"""An evaluation that is interrupted goes on where it was, and gives what one in a single call gives."""

from dataclasses import dataclass, field

import pytest
from evaluation_fakes import Ranker, ranker_for

from cftrec.artefacts import new_folder, read_json
from cftrec.errors import InputError
from cftrec.evaluation import candidates, effects, evaluate, rank_candidates
from cftrec.evaluation.effects import _BATCH
from cftrec.evaluation.parts import Parts
from cftrec.evaluation.ways import Way

BATCHES = 8  # of lists, beside one of effects


@dataclass
class Stopping(Ranker):
    """Counts what it is asked, and is interrupted at the `stop`-th question."""

    stop: int = 1000
    asked: list[str] = field(default_factory=list)

    def search(self, *args, **kwargs):
        self._ask("lists")
        return super().search(*args, **kwargs)

    def log_probs(self, *args, **kwargs):
        self._ask("effects")
        return super().log_probs(*args, **kwargs)

    def _ask(self, kind):
        self.asked.append(kind)
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt


def stopping(dataset, stop=1000):
    ranker = ranker_for(dataset, noise=5.0)
    return Stopping(ranker.run_name, ranker.item_ids, ranker.counts, ranker.noise, stop=stop)


@pytest.fixture
def run(tmp_path):
    with new_folder(tmp_path / "run", "run", {"name": "cft"}):
        pass
    return tmp_path / "run"


@pytest.mark.parametrize("stop", [1, 2, 3, BATCHES + 1])
def test_nothing_is_asked_twice(run, dataset, stop):
    assert len(dataset.targets("test")) <= _BATCH
    whole = evaluate(ranker_for(dataset, noise=5.0), dataset, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopping(dataset, stop), dataset, out=run, batch_size=4)
    assert not (run / "evaluation.json").exists()
    ranker, calls = stopping(dataset), []
    result = evaluate(ranker, dataset, out=run, batch_size=4, progress=lambda done, total: calls.append((done, total)))
    assert len(ranker.asked) == 1 + BATCHES - (stop - 1)
    assert calls[-1] == (60, 60)
    assert result.ranks.equals(whole.ranks)
    assert result.effects.table.equals(whole.effects.table)
    assert result.metrics == whole.metrics
    assert [path.name for path in run.glob(".*")] == []
    assert read_json(run / "evaluation.json")["targets"] == 30


@pytest.mark.parametrize("other", [{"k": 25}, {"batch_size": 5}, {"prior": "trained"}, {"sample": 20}])
def test_another_evaluation_takes_nothing_of_it(run, dataset, other):
    options = {"batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopping(dataset, BATCHES), dataset, out=run, **options)
    ranker = stopping(dataset)
    result = evaluate(ranker, dataset, out=run, **options | other)
    assert result.ranks.equals(evaluate(stopping(dataset), dataset, **options | other).ranks)
    measured = int("batch_size" not in other)  # effects are measured in batches of their own
    assert len(ranker.asked) == measured + -(-len(result.ranks) // (options | other)["batch_size"])


def test_what_is_refused_leaves_nothing(run, dataset):
    def refuse(cases, k):
        raise InputError("no numbers")

    ranker = ranker_for(dataset)
    with pytest.raises(InputError, match="no numbers"):
        evaluate(ranker, dataset, out=run, effect_targets=0, way=Way("refused", {}, refuse))
    assert [path.name for path in run.iterdir()] == ["manifest.json"]


def test_a_run_that_changed_is_asked_anew(run, dataset):
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopping(dataset, BATCHES), dataset, out=run, batch_size=4)
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace("cft", "CFT"))
    ranker = stopping(dataset)
    evaluate(ranker, dataset, out=run, batch_size=4)
    assert len(ranker.asked) == 1 + BATCHES


def test_a_broken_part_is_made_anew(run, dataset):
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopping(dataset, BATCHES), dataset, out=run, batch_size=4)
    parts = sorted((run / ".evaluation.parts").iterdir())
    assert len(parts) == BATCHES - 1
    parts[0].write_bytes(b"broken")
    parts[3].write_bytes(parts[3].read_bytes()[:-5])
    ranker = stopping(dataset)
    result = evaluate(ranker, dataset, out=run, batch_size=4)
    assert len(ranker.asked) == 1 + 1 + 1 + 1
    assert result.ranks.equals(evaluate(stopping(dataset), dataset, batch_size=4).ranks)


@pytest.mark.parametrize("stop", [1, 3])
def test_candidates_go_on_and_leave_an_evaluation_s_parts_alone(run, dataset, monkeypatch, stop):
    monkeypatch.setattr(candidates, "_BATCH", 8)
    whole = rank_candidates(stopping(dataset), dataset, 6)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopping(dataset, 3), dataset, out=run, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        rank_candidates(stopping(dataset, stop), dataset, 6, out=run)
    ranker = stopping(dataset)
    result = rank_candidates(ranker, dataset, 6, out=run)
    assert len(ranker.asked) == 4 - (stop - 1)
    assert result.ranks.equals(whole.ranks) and result.summary == whole.summary
    assert [path.name for path in run.glob(".*")] == [".evaluation.parts"]


def test_another_machine_s_batches_take_nothing_of_those_before(run, dataset, monkeypatch):
    for before, size in ((8, 4), (4, 16)):
        for module in (candidates, effects):
            monkeypatch.setattr(module, "_BATCH", before)
        with pytest.raises(KeyboardInterrupt):
            rank_candidates(stopping(dataset, 4), dataset, 6, out=run)
        with pytest.raises(KeyboardInterrupt):
            evaluate(stopping(dataset, 4), dataset, out=run, batch_size=10)
        for module in (candidates, effects):
            monkeypatch.setattr(module, "_BATCH", size)
        assert rank_candidates(ranker_for(dataset), dataset, 6, out=run).ranks["rank"].null_count() == 0
        effect = evaluate(stopping(dataset), dataset, out=run, batch_size=10).effects
        assert effect.table.equals(evaluate(stopping(dataset), dataset).effects.table)


def test_other_candidates_take_nothing_of_those_before(run, dataset, monkeypatch):
    monkeypatch.setattr(candidates, "_BATCH", 8)
    with pytest.raises(KeyboardInterrupt):
        rank_candidates(stopping(dataset, 4), dataset, 6, out=run)
    ranker = stopping(dataset)
    assert rank_candidates(ranker, dataset, 6, out=run, seed=1).summary["seed"] == 1
    assert len(ranker.asked) == 4


def test_a_folder_without_a_manifest_keeps_none(tmp_path, dataset):
    assert Parts.of(tmp_path, tmp_path, {}) == Parts()
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopping(dataset, 3), dataset, out=tmp_path, batch_size=4)
    assert list(tmp_path.iterdir()) == []
