import pytest

from cftrec.errors import InputError
from cftrec.text import PRESETS, build_prompt, load_template, tokenise_items


def write(tmp_path, text, name="own.txt"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_presets_by_name():
    assert load_template("plain") is PRESETS["plain"]
    assert list(PRESETS) == ["plain", "alpaca", "d3", "chat"]


def test_text_with_a_header_after_the_history(tmp_path, plain_tokenizer):
    path = write(tmp_path, "I like {category}.\nSeen: {history}!\nNext:\n")
    template = load_template(path)
    assert (template.item, template.separator, template.closing, template.eos) == ('"{item}"', ", ", "", True)
    assert template.without_history == "I like {category}.\nNext:\n"
    prompt = build_prompt(path, plain_tokenizer, category="games")
    shown = prompt.factual(tokenise_items(["A", "B"], plain_tokenizer, prompt))
    assert plain_tokenizer.decode(shown.tolist()) == 'I like games.\nSeen: "A", "B"!\nNext:\n'
    assert plain_tokenizer.decode(prompt.counterfactual().tolist()) == "I like games.\nNext:\n"


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_text_that_ends_at_the_history_is_suffix_free(tmp_path, plain_tokenizer, end):
    path = write(tmp_path, "List of {category}:\n{history}" + end)
    prompt = build_prompt(path, plain_tokenizer, category="games")
    assert prompt.suffix_free
    sequences = tokenise_items(["A", "B"], plain_tokenizer, prompt)
    assert plain_tokenizer.decode(prompt.factual(sequences).tolist()) == "List of games:\nA\nB\n"
    assert prompt.counterfactual().tolist() == prompt.factual([]).tolist()


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "prompt.txt").write_text("{category}s:\n{history}", encoding="utf-8-sig")
    assert load_template(str(tmp_path / "prompt.txt")).text.startswith("{category}")


def test_other_braces_stay(tmp_path, plain_tokenizer):
    path = write(tmp_path, '{"a": {}} {item} {{category}} {0} {verb}\n{history}')
    prompt = build_prompt(path, plain_tokenizer, category="{history}")
    assert plain_tokenizer.decode(list(prompt.prefix)) == '{"a": {}} {item} {{history}} {0} {verb}\n'


def test_yaml(tmp_path, plain_tokenizer):
    path = write(
        tmp_path,
        'text: "Seen: {history}. Next:"\nwithout_history: "Next:"\nitem: "[{item}]"\nseparator: " "\nclosing: ";"\n'
        "eos: false\n",
        "own.yaml",
    )
    prompt = build_prompt(path, plain_tokenizer, category="games")
    sequences = tokenise_items(["A", "B"], plain_tokenizer, prompt)
    assert plain_tokenizer.decode(prompt.factual(sequences).tolist()) == "Seen: [A] [B]. Next:"
    assert plain_tokenizer.decode(prompt.counterfactual().tolist()) == "Next:"
    assert plain_tokenizer.decode(sequences[0]) == "[A];"


def test_a_list_whose_separator_does_not_end_targets(tmp_path, plain_tokenizer):
    path = write(tmp_path, 'text: "Seen: {history}"\nseparator: ", "\nclosing: ""\neos: true\n', "own.yml")
    prompt = build_prompt(path, plain_tokenizer, category="games")
    assert not prompt.suffix_free
    shown = prompt.factual(tokenise_items(["A", "B"], plain_tokenizer, prompt))
    assert plain_tokenizer.decode(shown.tolist()) == "<|endoftext|>Seen: A, B, "  # x_0 is empty else


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "no placeholder", "must hold {history} once.*plain, alpaca, d3, chat"),
        ("a.txt", "{history} {history}", "holds it 2 times"),
        ("a.txt", "", "holds it 0 times"),
        ("a.txt", b"\xff\xfe\x00{history}", "UTF-8"),
        ("a.yaml", "text: [", "no valid YAML"),
        ("a.yaml", "text: " + "[" * 9999, "no valid YAML"),
        ("a.yaml", "just words", "must hold the fields"),
        ("a.yaml", "item: '{item}'", "text is missing"),
        ("a.yaml", "text: '{history}'\nsuffix: x", "unknown field 'suffix'"),
        ("a.yaml", "text: '{history}'\neos: 'yes'", "eos must be true or false"),
        ("a.yaml", "text: 3", "text must be text"),
        ("a.yaml", "text: '{history}'\nitem: x", "item must hold {item} once"),
        ("a.yaml", "text: '{history}'\nwithout_history: '{history}'", "without_history must not"),
        ("a.yaml", "text: '{history}'\nclosing: ''\neos: false", "nothing ends an item"),
    ],
)
def test_a_file_that_makes_no_template_is_named(tmp_path, name, text, message):
    path = write(tmp_path, text, name)
    with pytest.raises(InputError, match=message) as error:
        load_template(path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_a_path_that_is_no_file(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "none.txt"), ""):
        with pytest.raises(InputError, match="neither a preset"):
            load_template(path)
