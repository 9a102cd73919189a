"""An exported RUN is what its card says it is: the card's own code is run, by plain transformers, against the RUN."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from cftrec import Recommender
from cftrec.artefacts import read_json, read_manifest, replaced_part, write_json
from cftrec.cli import main
from cftrec.decoding import sequence_log_probs
from cftrec.errors import InputError
from cftrec.evaluation import evaluate
from cftrec.export import export
from cftrec.text import Catalogue, train_tokenizer
from cftrec.training import CFTConfig, train

CHAT = (
    "{{ '<|im_start|>' }}"
    "{% for m in messages %}{{ m.role + '\n' + m.content + '<|im_end|>\n<|im_start|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def base(dataset, tiny_model, tmp_path_factory):
    """A model folder whose tokenizer has special tokens and a chat template, and whose habits would cut titles."""
    folder = tmp_path_factory.mktemp("models") / "a base"
    tokenizer = train_tokenizer(dataset.items["title"], 300)
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>", "additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = CHAT
    model = tiny_model("llama", len(tokenizer) + 5)
    model.generation_config.update(do_sample=True, temperature=0.3, repetition_penalty=1.5, max_new_tokens=2)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run_of(dataset, tmp_path_factory):
    """Train a tiny RUN that recommends by the softmax over the vocabulary."""
    folder = tmp_path_factory.mktemp("runs")
    dataset.save(folder / "dataset")
    made = {}

    def make(**options):
        name = f"run{len(made)}"
        key = str(options)
        if key not in made:
            small = {"nano_vocab_size": 300, "nano_hidden_size": 16, "nano_layers": 1, "nano_heads": 2, "use_cpu": True}
            small |= {"max_steps": 3, "learning_rate": 0.03, "per_device_train_batch_size": 8, "report_to": "none"}
            small |= {"decode_softmax": "vocabulary", "category": "movie", "warmup_steps": 0}
            made[key] = train(folder / "dataset", folder / name, CFTConfig(**small | options))
        return made[key]

    return make


def run_card(folder, base=None):
    """Run the card's code as its reader would, where cftrec cannot be found; return log p and what was written."""
    (code,) = re.findall(r"^```+python\n(.*?)\n```+$", (folder / "README.md").read_text(), re.M | re.S)
    code = "import sys; sys.modules['cftrec'] = None\n" + code.replace("path or name of the base model", str(base))
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    ).stdout
    score, written = shown.split("\n", 1)
    return float(score), written


def expected_score(run):
    """Score the card's example, the catalogue's most frequent items, by the RUN."""
    recommender = Recommender.from_pretrained(run)
    catalogue = recommender.catalogue
    *history, target = [catalogue.titles[item] for item in np.argsort(-catalogue.counts, kind="stable")[:3]]
    return recommender.score([history], [target])[0, 0], [*history, target]


@pytest.mark.parametrize(
    "options",
    [{"prompt": "plain"}, {"prompt": "alpaca"}, {"prompt": "d3", "lora_rank": 2}, {"prompt": "chat"}],
    ids=lambda options: options["prompt"],
)
def test_the_card_scores_as_the_run_does(run_of, base, tmp_path, options):
    named = {} if options["prompt"] == "plain" else {"model": str(base)}
    run = run_of(**options, **named)
    folder = export(run, tmp_path / "out", merge=True)
    expected, titles = expected_score(run)
    score, written = run_card(folder)
    assert score == pytest.approx(expected, abs=2e-4)
    assert written.strip()
    card = (folder / "README.md").read_text()
    assert all(title in card for title in titles)
    example = re.findall(r"^```+text\n(.*?)\n```+$", card, re.M | re.S)[0]
    begin = {"plain": "movie history", "chat": "<|im_start|>user\nThese are the movies"}
    assert example.startswith(begin.get(options["prompt"], "Below is an instruction"))
    assert titles[0] in example
    assert titles[-1] not in example


def test_the_example_shows_what_the_run_shows(run_of, tmp_path):
    """No more items than the window has; of a catalogue of one item, no history at all."""
    run = run_of(prompt="plain", window=1, history_stride=1)
    folder = export(run, tmp_path / "window")
    expected, (older, newer, _) = expected_score(run)
    assert run_card(folder)[0] == pytest.approx(expected, abs=2e-4)
    example = re.findall(r"^```+text\n(.*?)\n```+$", (folder / "README.md").read_text(), re.M | re.S)[0]
    assert newer in example
    assert older not in example
    recommender = Recommender.from_pretrained(run)
    title, tokens = recommender.catalogue.titles[0], recommender.catalogue.sequence(0)
    one = tmp_path / "run"
    shutil.copytree(run, one)
    with replaced_part(one, read_manifest(one, "run"), "catalogue") as part:
        Catalogue.build(["one"], [title], [tokens]).save(part)
    folder = export(one, tmp_path / "one")
    expected = sequence_log_probs(
        recommender.model, [recommender.prompt.counterfactual()], [0], recommender.catalogue, "vocabulary"
    )
    assert run_card(folder)[0] == pytest.approx(expected[0].sum(), abs=2e-4)


def test_adapters_alone_need_the_base_model(run_of, base):
    run = run_of(prompt="d3", lora_rank=2, model=str(base))
    folder = export(run)
    assert folder == run / "export"
    files = {path.name for path in folder.iterdir()}
    assert files == {"README.md", "manifest.json", "adapter_config.json", "adapter_model.safetensors"}
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == base.name  # not where it lay here
    assert run_card(folder, base)[0] == pytest.approx(expected_score(run)[0], abs=2e-4)
    assert "needs the base model" in (folder / "README.md").read_text()
    Recommender.from_pretrained(run)  # the RUN is still one


def test_the_folder_is_plain_and_neutral(run_of, base, tmp_path):
    run = run_of(prompt="chat", model=str(base))
    folder = export(run, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(folder)
    given = json.loads((folder / "generation_config.json").read_text())
    assert set(given) <= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}
    assert not model.generation_config.do_sample
    trained = AutoModelForCausalLM.from_pretrained(run / "model").state_dict()
    assert all((value == trained[name]).all() for name, value in model.state_dict().items())


def test_the_card_tells_of_the_data_without_any_user(run_of, dataset, base, tmp_path):
    run = run_of(prompt="alpaca", model=str(base))
    before = (export(run, tmp_path / "before") / "README.md").read_text()
    assert "Not evaluated." in before
    result = evaluate(Recommender.from_pretrained(run), dataset, out=run)
    folder = export(run, tmp_path / "after")
    card = (folder / "README.md").read_text()
    assert f"| NDCG@10 | {result.metrics['NDCG@10']:.4f} |" in card
    assert "9 users, 12 items" in card
    assert "- Base: `a base`." in card
    for file in folder.iterdir():
        if file.suffix in (".md", ".json"):
            text = file.read_text()
            assert str(base.parent) not in text, file
            assert not re.search(r"\bu\d\b", text), file  # the users' names


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"effect_weight": 0.0, "beta": 1.0}, "plain fine-tuning, all tokens weighted alike."),
        ({"effect_weight": 0.0, "weighting": "uniform"}, "plain fine-tuning, all tokens weighted alike."),
        ({"effect_weight": 0.0}, "plain fine-tuning, the weight of a title's tokens falling to 0.25 at the last."),
        ({"weighting": "information-gain"}, "effect weight 0.1, tokens that tell nothing weighted 0.25."),
        ({}, "effect weight 0.1, the weight of a title's tokens falling to 0.25 at the last."),
    ],
)
def test_the_card_says_how_it_was_trained(run_of, tmp_path, options, said):
    run = run_of(prompt="plain")
    manifest = read_json(run / "manifest.json")
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    write_json(changed / "manifest.json", manifest | {"config": manifest["config"] | options})
    card = (export(changed, tmp_path / "other") / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("- Method: ")]
    assert line.endswith(said)
    assert ("Counterfactual" in line) == ("effect_weight" not in options)


def test_a_name_that_is_not_utf_8_is_refused(run_of, tmp_path):
    with pytest.raises(InputError, match="not UTF-8"):
        export(run_of(prompt="plain"), tmp_path / "tr\udce9")


def test_export_by_the_command_line(run_of, tmp_path, capsys):
    run = run_of(prompt="plain")
    main(["export", str(run), "--out", str(tmp_path / "out"), "--merge"])
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    for arguments, message in [
        (["export", str(run), "--out", str(tmp_path / "out")], "not empty"),
        (["export", str(tmp_path)], "cftrec train"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert shown.count("\n") == 1


def test_what_no_text_gives_back_is_listed_as_tokens(dataset):
    from cftrec.export import _part

    tokenizer = train_tokenizer(dataset.items["title"], 300)
    spelt = tokenizer("a<|endoftext|>b", split_special_tokens=True).input_ids
    assert _part(tokenizer, spelt) == spelt
    assert _part(tokenizer, tokenizer("Alien\n").input_ids) == "Alien\n"


def test_titles_cannot_leave_their_block():
    from cftrec.export import _fenced

    assert _fenced("a ```` b\n", "x") == "`````x\na ```` b\n`````"
