import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.text import PRESETS, Prompt, build_prompt, tokenise_items

TITLES = [
    "Star Wars (1977)",
    "Star Wars",
    "Star Trek: First Contact (1996)",
    "Toy Story (1995)",
    "Amélie 🎬",
    "עברית",
    'The "Quoted" One, Part 2',
    "{history} {item} {category}",
    "a<|im_end|>b",
]
ALL = sorted(PRESETS)
WHOLE = ["alpaca", "d3", "plain"]
histories = st.lists(st.integers(0, len(TITLES) - 1), max_size=6)
same_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def text_of(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)


def sequences_of(prompt, tokenizer):
    return tokenise_items(TITLES, tokenizer, prompt)


@pytest.mark.parametrize("name", ALL)
def test_a_saved_prompt_is_the_same(chat_tokenizer, name):
    prompt = build_prompt(name, chat_tokenizer, category="movie", max_tokens=99)
    assert Prompt.from_dict(json.loads(json.dumps(prompt.to_dict()))) == prompt


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("counterfactual", ["dropped", "empty", "placeholder"])
def test_prompts_are_integers_and_never_empty(chat_tokenizer, name, counterfactual):
    prompt = build_prompt(name, chat_tokenizer, category="movie", counterfactual=counterfactual)
    for ids in (prompt.counterfactual(), prompt.factual([])):
        assert ids.dtype == np.int32
        assert len(ids)


def test_plain_reads_as_a_list(plain_tokenizer):
    prompt = build_prompt("plain", plain_tokenizer, category="movie")
    sequences = sequences_of(prompt, plain_tokenizer)
    assert prompt.suffix_free
    assert text_of(plain_tokenizer, prompt.factual(sequences[2:4])) == (
        "movie history, in order:\nStar Trek: First Contact (1996)\nToy Story (1995)\n"
    )
    assert text_of(plain_tokenizer, sequences[3]) == "Toy Story (1995)\n"


@given(history=histories.filter(len))
@same_fixture
def test_plain_histories_extend_one_another(plain_tokenizer, history):
    prompt = build_prompt("plain", plain_tokenizer, category="movie")
    sequences = sequences_of(prompt, plain_tokenizer)
    shown = [sequences[item] for item in history]
    for n in range(len(shown)):
        assert [*prompt.factual(shown[:n]), *shown[n]] == prompt.factual(shown[: n + 1]).tolist()


@pytest.mark.parametrize("counterfactual", ["dropped", "empty"])
def test_plain_counterfactual_is_the_root_of_every_history(plain_tokenizer, counterfactual):
    prompt = build_prompt("plain", plain_tokenizer, category="movie", counterfactual=counterfactual)
    assert prompt.counterfactual().tolist() == list(prompt.prefix) == prompt.factual([]).tolist()


def test_alpaca_reads_as_published(plain_tokenizer):
    prompt = build_prompt("alpaca", plain_tokenizer, category="movie")
    sequences = sequences_of(prompt, plain_tokenizer)
    instruction = (
        "### Instruction:\nGiven a list of movies the user has watched before, "
        "please recommend a new movie that the user likes to the user.\n\n"
    )
    assert text_of(plain_tokenizer, prompt.factual(sequences[:2])) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n" + instruction + "### Input:\n"
        'The user has watched the following movies before: "Star Wars (1977)", "Star Wars"\n \n\n### Response:\n'
    )
    assert text_of(plain_tokenizer, prompt.counterfactual()) == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n" + instruction + "### Response:\n"
    )
    assert text_of(plain_tokenizer, sequences[0]) == '"Star Wars (1977)"<|endoftext|>'
    assert not prompt.suffix_free


@pytest.mark.parametrize(
    ("category", "phrase"),
    [
        ("movie", "movies the user has watched before"),
        ("Book", "Books the user has read before"),
        ("video game", "video games the user has played before"),
        ("item", "items the user has enjoyed before"),
    ],
)
def test_alpaca_says_how_people_use_what_they_are_recommended(plain_tokenizer, category, phrase):
    prompt = build_prompt("alpaca", plain_tokenizer, category=category)
    for ids in (prompt.factual([]), prompt.counterfactual()):
        assert f"Given a list of {phrase}, " in text_of(plain_tokenizer, ids)


def test_d3_reads_as_published(plain_tokenizer):
    prompt = build_prompt("d3", plain_tokenizer, category="game")
    sequences = sequences_of(prompt, plain_tokenizer)
    assert text_of(plain_tokenizer, prompt.factual(sequences[:1])).endswith(
        "please write a new game that the user may have bought\n\n### User Input: \n"
        'The user has played the following games before: "Star Wars (1977)"\n\n### Response: \n'
    )
    assert text_of(plain_tokenizer, sequences[1]) == '"Star Wars"\n<|endoftext|>'
    assert prompt.closing == (*plain_tokenizer("\n").input_ids, plain_tokenizer.eos_token_id)


def test_chat_is_cut_out_of_the_tokenizers_template(chat_tokenizer):
    prompt = build_prompt("chat", chat_tokenizer, category="movie")
    sequences = sequences_of(prompt, chat_tokenizer)
    shown = prompt.factual(sequences[:2])
    text = text_of(chat_tokenizer, shown)
    assert text.startswith('<|im_start|>user\nThese are the movies I have enjoyed, oldest first: "Star Wars (1977)", ')
    assert text.endswith("alone.<|im_end|>\n<|im_start|>assistant\n")
    start, end = chat_tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert (shown == start).sum() == 2
    assert (shown == end).sum() == 1
    assert prompt.closing == (end,)
    assert text_of(chat_tokenizer, prompt.counterfactual()).startswith("<|im_start|>user\nRecommend a movie that I")


def test_chat_ends_a_turn_as_its_template_does(chat_tokenizer):
    import copy

    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert build_prompt("chat", tokenizer, category="movie").closing == (end,)


def test_chat_needs_a_usable_chat_template(plain_tokenizer, chat_tokenizer):
    import copy

    with pytest.raises(InputError, match="chat template"):
        build_prompt("chat", plain_tokenizer, category="movie")
    tokenizer = copy.deepcopy(chat_tokenizer)
    for template, message in (
        ("{{ messages[0].content | upper }}", "does not keep"),
        ("{{ raise_exception('no users') }}", "no users"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(InputError, match=message):
            build_prompt("chat", tokenizer, category="movie")


@pytest.mark.parametrize("name", ALL)
def test_a_special_token_in_a_title_is_text(chat_tokenizer, name):
    prompt = build_prompt(name, chat_tokenizer, category="movie")
    sequence = sequences_of(prompt, chat_tokenizer)[TITLES.index("a<|im_end|>b")]
    own = sequence[: -len(prompt.closing)]
    assert not set(own) & set(chat_tokenizer.all_special_ids)
    assert text_of(chat_tokenizer, own) == prompt.item.replace("{item}", "a<|im_end|>b")


@pytest.mark.parametrize("name", WHOLE)
def test_bos_goes_first_where_the_tokenizer_adds_it(bos_tokenizer, plain_tokenizer, name):
    with_bos, without = (build_prompt(name, t, category="movie") for t in (bos_tokenizer, plain_tokenizer))
    bos = bos_tokenizer.bos_token_id
    assert with_bos.factual([]).tolist() == [bos, *without.factual([])]
    assert with_bos.counterfactual().tolist() == [bos, *without.counterfactual()]
    assert bos not in [token for sequence in sequences_of(with_bos, bos_tokenizer) for token in sequence]


def test_chat_gets_no_second_bos(bos_tokenizer, chat_tokenizer):
    import copy

    tokenizer = copy.deepcopy(bos_tokenizer)
    tokenizer.chat_template = "{{ bos_token }}" + chat_tokenizer.chat_template
    prompt = build_prompt("chat", tokenizer, category="movie")
    assert (prompt.factual([]) == tokenizer.bos_token_id).sum() == 1


def test_an_empty_counterfactual_gets_a_first_token_and_so_does_the_factual(plain_tokenizer, bos_tokenizer, tmp_path):
    file = tmp_path / "bare.txt"
    file.write_text("{history}")
    for tokenizer, root in ((plain_tokenizer, "eos_token_id"), (bos_tokenizer, "bos_token_id")):
        prompt = build_prompt(str(file), tokenizer, category="movie")
        assert prompt.counterfactual().tolist() == prompt.factual([]).tolist() == [getattr(tokenizer, root)]
    shown = build_prompt(str(file), plain_tokenizer, category="movie", counterfactual="placeholder")
    assert text_of(plain_tokenizer, shown.counterfactual()) == "<|endoftext|>unknown\n"
    assert shown.factual([]).tolist() == [plain_tokenizer.eos_token_id]


def test_empty_and_placeholder(plain_tokenizer):
    empty, word = (
        build_prompt("alpaca", plain_tokenizer, category="movie", counterfactual=c) for c in ("empty", "placeholder")
    )
    assert empty.counterfactual().tolist() == empty.factual([]).tolist()
    assert "movies before: unknown\n \n\n### Response:\n" in text_of(plain_tokenizer, word.counterfactual())
    listed = build_prompt("plain", plain_tokenizer, category="movie", counterfactual="placeholder")
    assert text_of(plain_tokenizer, listed.counterfactual()) == "movie history, in order:\nunknown\n"


@pytest.mark.parametrize("name", ALL)
@given(history=histories, slack=st.integers(0, 60), budget=st.integers(0, 9))
@same_fixture
def test_max_tokens_drops_whole_oldest_items(chat_tokenizer, name, history, slack, budget):
    free = build_prompt(name, chat_tokenizer, category="movie")
    frame = max(len(free.factual([])), len(free.counterfactual()))
    bound = build_prompt(name, chat_tokenizer, category="movie", max_tokens=frame + budget + slack)
    sequences = sequences_of(free, chat_tokenizer)
    shown = [sequences[item] for item in history]
    choices = [free.factual(shown[start:]).tolist() for start in range(len(shown) + 1)]
    fitting = [choice for choice in choices if len(choice) + budget <= frame + budget + slack]
    assert bound.factual(shown, budget).tolist() == fitting[0]


@pytest.mark.parametrize("name", ALL)
def test_max_tokens_too_small_for_the_prompt_itself(chat_tokenizer, name):
    prompt = build_prompt(name, chat_tokenizer, category="movie", max_tokens=12)
    with pytest.raises(InputError, match=r"12 tokens \(max_tokens.*too few"):
        prompt.factual([], 12)


def test_bad_options(plain_tokenizer):
    with pytest.raises(InputError, match="plain, alpaca, d3, chat"):
        build_prompt("vicuna", plain_tokenizer, category="movie")
    with pytest.raises(InputError, match="dropped, empty, placeholder"):
        build_prompt("plain", plain_tokenizer, category="movie", counterfactual="none")
    with pytest.raises(InputError, match="max_tokens"):
        build_prompt("plain", plain_tokenizer, category="movie", max_tokens=0)


def test_eos_is_needed_only_where_it_is_used(plain_tokenizer):
    import copy

    tokenizer = copy.deepcopy(plain_tokenizer)
    tokenizer.eos_token = None
    assert build_prompt("plain", tokenizer, category="movie").suffix_free
    with pytest.raises(InputError, match="end-of-sequence"):
        build_prompt("alpaca", tokenizer, category="movie")
