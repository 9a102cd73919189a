"""Peak extra memory and time of the CFT loss, forward and backward: ours against full logits.

Extra is what is allocated beyond the inputs (two branches of hidden states, the head, targets, weights) and beyond the
gradient of the head. Sides:

- ours: `cftrec.objective.cft_loss`;
- full_logits: both branches' logits of all tokens, their difference and two cross-entropies in plain torch, as the
  authors' code has it.

On the CPU the peak is read off every allocation and release of torch's allocator (the profiler's record of them, which
also holds what an operator allocates inside; exact up to the workspace of the matrix library); beside it stands the
growth of the resident set of a fresh process that runs the side once (Linux). On a GPU the peak is that of
`torch.cuda.max_memory_allocated`. About ten minutes on two cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cftrec.objective import cft_loss
from cftrec.objective.loss import CHUNK_BYTES
from common import MIB, interleaved, parser, peak_bytes, report

PRECISIONS = {
    "fp32": "fp32 throughout",
    "bf16": "bf16 weights and hidden states",
    "autocast": "fp32 weights, bf16 hidden states and products (autocast)",
}
SIDES = ("ours", "full_logits")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokens", type=int, default=1000, help="target tokens")
    options.add_argument("--hidden", type=int, default=896, help="width of the hidden states")
    options.add_argument("--vocabulary", type=int, default=151_936)
    options.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    sizes = [32_768, 65_536, 131_072, 262_144]
    options.add_argument("--vocabularies", type=int, nargs="*", default=sizes, help="more, in the last precision")
    options.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # in the fresh process
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    args = options.parse_args()
    if args.side:
        print(json.dumps(resident_growth(Case(args, args.vocabulary, args.precisions[0]), args.side)))
        return
    result = {
        "options": vars(args) | {"chunk_mib": CHUNK_BYTES / MIB},
        "precisions": {name: measure(args, args.vocabulary, name) for name in args.precisions},
        "vocabularies": {size: measure(args, size, args.precisions[-1]) for size in args.vocabularies},
    }
    report("loss_memory" if args.device == "cpu" else f"loss_memory-{args.device}", result, args.save)


class Case:
    """Inputs of one vocabulary and precision, and both sides on them."""

    def __init__(self, args: argparse.Namespace, vocabulary: int, precision: str) -> None:
        self.device, self.precision = args.device, precision
        generator = torch.Generator(args.device).manual_seed(0)
        narrow = torch.float32 if precision == "fp32" else torch.bfloat16

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=args.device)

        self.head = random(vocabulary, args.hidden).mul_(0.02)
        self.head = self.head.to(narrow if precision == "bf16" else torch.float32).requires_grad_()
        self.shown = random(args.tokens, args.hidden).to(narrow).requires_grad_()
        self.unshown = random(args.tokens, args.hidden).to(narrow).requires_grad_()
        self.targets = torch.randint(vocabulary, (args.tokens,), generator=generator, device=args.device)
        self.weights = torch.rand(args.tokens, generator=generator, device=args.device)

    def side(self, name: str) -> Callable[[], float]:
        loss = {"ours": self._ours, "full_logits": self._full_logits}[name]

        def call() -> float:
            self.head.grad = self.shown.grad = self.unshown.grad = None
            with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "autocast"):
                total = loss()
            total.backward()
            return total.item()

        return call

    def _ours(self) -> Tensor:
        return cft_loss(self.shown, self.unshown, self.head, self.targets, self.weights).total

    def _full_logits(self) -> Tensor:
        shown = torch.nn.functional.linear(self.shown, self.head)
        unshown = torch.nn.functional.linear(self.unshown, self.head)
        ce = torch.nn.functional.cross_entropy
        normal = (ce(shown.float(), self.targets, reduction="none") * self.weights).sum()
        effect = (ce((shown - unshown).float(), self.targets, reduction="none") * self.weights).sum()
        return (normal + 0.1 * effect) / self.weights.sum()

    @property
    def own_gradient(self) -> int:
        return self.head.numel() * self.head.element_size()


def measure(args: argparse.Namespace, vocabulary: int, precision: str) -> dict[str, Any]:
    """Return both sides' peaks in MiB, their ratio, and their times."""
    case = Case(args, vocabulary, precision)
    losses = {name: case.side(name)() for name in SIDES}
    peaks = {name: (peak(case, name) - case.own_gradient) / MIB for name in SIDES}
    seconds = interleaved({name: case.side(name) for name in SIDES}, args.repeats)
    own = case.own_gradient / MIB
    del case
    found: dict[str, Any] = {
        "meaning": PRECISIONS[precision],
        "vocabulary": vocabulary,
        "own_gradient_mib": own,
        "peak_mib": peaks,
        "ours_over_full_logits": peaks["ours"] / peaks["full_logits"],
        "median_s": {name: statistics.median(times) for name, times in seconds.items()},
        "time_over_full_logits": statistics.median(
            a / b for a, b in zip(seconds["ours"], seconds["full_logits"], strict=True)
        ),
        "losses": losses,
    }
    if args.device == "cpu":
        found["resident_growth_mib"] = {name: in_fresh_process(args, vocabulary, precision, name) for name in SIDES}
    return found


def peak(case: Case, name: str) -> int:
    """Return the most bytes that the side holds at a time beyond its inputs."""
    call = case.side(name)
    case.head.grad = case.shown.grad = case.unshown.grad = None
    return peak_bytes(call, case.device)


def resident_growth(case: Case, name: str) -> float | None:
    """Run a side once; return by how many MiB the process's resident set grew at most, beyond the head's gradient."""
    small = argparse.Namespace(device="cpu", tokens=2, hidden=8)
    Case(small, 16, case.precision).side(name)()  # what a first call loads is no memory of the loss
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts from here
    except OSError:
        return None
    before = resident("VmRSS")
    case.side(name)()
    return (resident("VmHWM") - before - case.own_gradient) / MIB


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def in_fresh_process(args: argparse.Namespace, vocabulary: int, precision: str, name: str) -> float | None:
    words = [sys.executable, str(Path(__file__)), "--side", name, "--precisions", precision]
    words += [f"--vocabulary={vocabulary}", f"--tokens={args.tokens}", f"--hidden={args.hidden}"]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
