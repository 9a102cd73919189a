"""The temperature of training's softmax, fixed or following the logits as in MSL (arXiv 2504.04178).

MSL's Adaptive Temperature Strategy looks for the tau under which a title's first token has, on average, the probability
eta of all that compete with it: with the competitors' logits taken for normal,

    l_y / tau = log(eta n) + mean / tau + variance / (2 tau^2)

whose larger root, with C = log(eta n) and d = mean l_y - mean l, is tau = (d + sqrt(max(0, d^2 - 2 C variance))) / 2C.
The authors' code (github.com/WANGBohaO-jpg/MSL, train_trie_token_adatau.py) says the rest:

- Titles' first tokens alone, known by their number n of candidates. Raw logits f(x_h), not divided by an earlier tau.
- `mean l_y` over a step's targets on all devices; mean and unbiased variance over all their candidates' logits in one
  pool, the targets' own among them.
- The root is clamped to 1.5 to 5; tau begins at 1.5 and moves 0.05 of the way to it each step. (A warm-up that holds
  tau still is off by default there, and left out here.)
- No gradient passes through tau, and the loss is tau CE(f / tau, y).

Here a step's logits move the tau of the next one instead of its own, for the step's first pass is back-propagated
before its last is computed. Where every title begins alike, the first token that is a choice takes the first's place.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cftrec.objective.loss import CHUNK_BYTES, block_logits, compute_dtype, head_products

SHARE = 0.25
"""eta, the probability that the adaptive temperature seeks for a target."""

LOWEST, HIGHEST = 1.5, 5.0
"""Bounds of the adaptive temperature; it begins at the lower one."""

PACE = 0.05
"""alpha, how far one step moves it towards what its logits ask for."""


class Temperature:
    """tau, by which the logits of training's softmax are divided.

    Attributes:
        value: tau, the same on every rank.
        adaptive: whether `move` changes it.
        sums: fp64 [5], of the tokens that `observe` saw since the last `move`: their number, their targets' logits; and
            of all their candidates: their number, their logits, the squares of these.
    """

    def __init__(self, value: float = 1.0, adaptive: bool = False) -> None:
        self.value, self.adaptive = value, adaptive
        self.sums = torch.zeros(5, dtype=torch.float64)

    @classmethod
    def adapting(cls) -> "Temperature":
        """Return MSL's adaptive temperature at its beginning."""
        return cls(LOWEST, adaptive=True)

    def observe(
        self, hidden: Tensor, head: Tensor, targets: Tensor, *, bias: Tensor | None = None, softcap: float | None = None
    ) -> None:
        """Add logits to the sums, a few tokens at a time.

        Args:
            hidden: [M, H] hidden states that predict first tokens.
            head: [n, H] the candidates' rows of the output embedding.
            targets: bool [M, n], which of the candidates each token is.
            bias: [n] the candidates' part of the head's bias.
            softcap: as in `cft_loss`.
        """
        dtype, size = compute_dtype(hidden), max(1, CHUNK_BYTES // (8 * len(head)))
        head = head.to(dtype)
        for rows, chosen in zip(hidden.to(dtype).split(size), targets.split(size), strict=True):
            logits = block_logits(head_products(rows[None], head), bias, softcap)[0][0].double()
            found = (logits[chosen].sum(), logits.sum(), logits.square().sum())
            counts = (logits.new_tensor(len(rows)), logits.new_tensor(logits.numel()))
            self.sums = self.sums.to(logits.device) + torch.stack([counts[0], found[0], counts[1], *found[1:]])

    def move(self, over_ranks: Callable[[Tensor], Tensor] = lambda sums: sums) -> None:
        """Move towards what the logits seen since the last time ask for.

        Args:
            over_ranks: adds up the ranks' sums; default: there is one rank.
        """
        sums = over_ranks(self.sums)
        self.sums = torch.zeros_like(self.sums)
        if sums[0] > 0:
            self.value += PACE * (wanted_temperature(*sums.tolist()) - self.value)


def wanted_temperature(tokens: float, of_targets: float, candidates: float, total: float, squares: float) -> float:
    """Return the temperature that some logits ask for, by `Temperature.sums`."""
    goal = math.log(SHARE * candidates / tokens)
    if goal <= 0:  # each of so few is that likely by chance; the authors' clamp gives the same
        return LOWEST
    mean = total / candidates
    lead, variance = of_targets / tokens - mean, (squares - total * mean) / (candidates - 1)
    root = math.sqrt(max(0.0, lead * lead - 2 * goal * variance))
    return min(max(LOWEST, (lead + root) / (2 * goal)), HIGHEST)
