"""Free generation, grounded afterwards: how the authors of BIGRec (arXiv 2308.08434) and of CFT evaluate.

Beam search writes titles without looking at the catalogue; each is then taken for the catalogue's titles nearest to it,
by the L2 distance of the model's last hidden states at their last tokens. Several beams take turns: the best beam's
nearest title, the next beam's nearest one that is not taken yet, and so on round. Kept for comparison: it can invent
titles and proves nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from cftrec.decoding.choices import numbers
from cftrec.forest.backbone import forest_hidden
from cftrec.forest.passes import Layout, make_passes
from cftrec.ragged import Ragged
from cftrec.text.catalogue import Catalogue
from cftrec.text.prompt import Prompt

Floats = NDArray[np.float32]

BEAMS = 4
"""Beams of the authors' generation (BIGRec's inference.py); they ground the best one alone."""
MOST_BEAMS = 1000
"""Their rows of the prompt are in memory together, and nobody reports as many."""
_PASS_TOKENS = 4096


@dataclass(frozen=True)
class UngroundedResult:
    """The grounded items of B histories.

    Attributes:
        items: int32 [B, k], in the order of the beams' turns; -1 where fewer than k items may be recommended.
        scores: float64 [B, k], minus the L2 distance to the beam whose turn it was, so not sorted; -inf for no item.
        exact: bool [B], False: nothing is proved.
        invented: bool [B, beams], whether a beam wrote something that is no title of the catalogue.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float64]
    exact: NDArray[np.bool_]
    invented: NDArray[np.bool_]


def title_embeddings(model: Any, catalogue: Catalogue, prompt: Prompt) -> Floats:
    """Return the embedding of each title, float32 [I, H]."""
    return _embeddings(model, prompt, np.split(catalogue.tokens, catalogue.offsets[1:-1]))


@torch.no_grad()
def ungrounded(
    model: Any,
    catalogue: Catalogue,
    prompt: Prompt,
    prompts: Sequence[NDArray[np.int32]],
    k: int,
    *,
    embeddings: Floats,
    excluded: Sequence[NDArray[Any]],
    beams: int = BEAMS,
    grounded: int | None = None,
) -> UngroundedResult:
    """Generate titles freely and ground them.

    Args:
        model: a transformers causal language model in eval mode.
        catalogue: I items.
        prompt: says where a title ends.
        prompts: B token sequences, none empty.
        k: items wanted, at least 1.
        embeddings: `title_embeddings`.
        excluded: for each prompt the items not to return.
        beams: titles written for each prompt, at least 1.
        grounded: best beams that take turns, the authors' way is 1; None: all.
    """
    written = _generate(model, prompts, int(prompt.closing[-1]), catalogue.longest, beams)
    own = {catalogue.sequence(item).tobytes() for item in range(len(catalogue))}
    invented = np.array([title.tobytes() not in own for title in written]).reshape(-1, beams)
    best = [title for number, title in enumerate(written) if number % beams < (grounded or beams)]
    queries = torch.from_numpy(_embeddings(model, prompt, best))
    distances = torch.cdist(queries, torch.from_numpy(embeddings), compute_mode="donot_use_mm_for_euclid_dist")
    items, scores = take_turns(distances.numpy().reshape(len(prompts), -1, len(embeddings)), k, excluded)
    return UngroundedResult(items, scores, np.zeros(len(prompts), dtype=bool), invented)


def take_turns(
    distances: Floats, k: int, excluded: Sequence[NDArray[Any]]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Let beams choose in turn, each the nearest item that is left; of equally near ones the first.

    Args:
        distances: float32 [B, beams, I]; the best beam is the first.
        k: turns.
        excluded: for each of B the items that nobody may choose.

    Returns:
        int32 [B, k] items and float64 [B, k] minus their distances; -1 and -inf once nothing is left.
    """
    everyone = np.arange(len(distances))
    taken = np.zeros((len(distances), distances.shape[2]), dtype=bool)
    for row, left_out in enumerate(excluded):
        taken[row, left_out] = True
    items, scores = np.full((len(distances), k), -1, dtype=np.int32), np.full((len(distances), k), -np.inf)
    for turn in range(k):
        nearness = np.where(taken, -np.inf, -distances[:, turn % distances.shape[1]])
        nearest = nearness.argmax(1)
        scores[:, turn] = nearness[everyone, nearest]
        items[:, turn] = np.where(np.isneginf(scores[:, turn]), -1, nearest)
        taken[everyone, nearest] = True
    return items, scores


def _generate(
    model: Any, prompts: Sequence[NDArray[np.int32]], stop: int, longest: int, beams: int
) -> list[NDArray[np.int32]]:
    """Return the beams of every prompt, best first: tokens up to and with the first `stop`, at most `longest`."""
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), width), stop)
    real = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.from_numpy(prompt)
        real[row, width - len(prompt) :] = 1
    asked = GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        max_new_tokens=longest,
        eos_token_id=stop,
        pad_token_id=stop,
    )
    with _own_settings_only(model):
        found = model.generate(tokens.to(model.device), attention_mask=real.to(model.device), generation_config=asked)
    new = found[:, width:].cpu().numpy().astype(np.int32)
    ends = np.where((new == stop).any(1), (new == stop).argmax(1) + 1, new.shape[1])
    return [row[:end] for row, end in zip(new, ends, strict=True)]


@contextmanager
def _own_settings_only(model: Any) -> Iterator[None]:
    """Set aside what a base model would add to a generation: penalties, bans, sampling, other ends."""
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def _embeddings(model: Any, prompt: Prompt, titles: Sequence[NDArray[np.int32]]) -> Floats:
    """Return the last hidden state at each title's last token, its closing cut off, float32 [n, H].

    As the authors' code does, the model is shown the title by itself, after BOS where its prompts begin with one.
    """
    bos = getattr(model.config, "bos_token_id", None)
    start = [bos] if bos is not None and prompt.prefix[:1] == (bos,) else []
    sequences = Ragged.of([[*start, *_unclosed(title.tolist(), list(prompt.closing))] for title in titles])
    wanted = Ragged(sequences.lengths - 1, np.ones_like(sequences.lengths))
    passes, order = make_passes(sequences, wanted, Layout(forest=False, pass_tokens=_PASS_TOKENS))
    device = model.device
    with torch.no_grad():
        hidden = [
            forest_hidden(model, part["tokens"].to(device)).flatten(0, 1)[part["nodes"].to(device)].float().cpu()
            for part in passes
        ]
    return numbers(torch.cat(hidden)[torch.from_numpy(np.argsort(order))].numpy())


def _unclosed(title: list[int], closing: list[int]) -> list[int]:
    """Return a title without its closing tokens; one that is nothing else stays as it is, for it needs a last token."""
    closed = len(title) > len(closing) and title[-len(closing) :] == closing
    return title[: -len(closing)] if closed else title
