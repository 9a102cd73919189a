"""Forward and backward of one training step: our forest against padded computations of the same samples.

Sides, all on the same samples and the same weights:

- ours: the CFT step of cftrec;
- ours_compiled: the same with compiled layers (`torch_compile=true`), where --compiled asks for it;
- ours_catalogue: the same under the catalogue softmax;
- ours_plain: plain fine-tuning by cftrec (effect_weight 0);
- published_cft: two padded passes with full logits, micro-batches of 16, as the authors' code (positions set right);
- padded_plain: one padded pass with full logits, micro-batches of 16;
- unpadded_plain: every sample by itself, logits of the target tokens only.

A step's batches are made beforehand (forest_build.py times that); on a GPU ours lie there already, as loader workers
and pinned memory would have them. On two cores nano takes seconds a turn, SmolLM2 two to three minutes.
"""

import copy
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from cftrec.training import load_config
from cftrec.training.machine import compile_layers
from cftrec.training.step import CFTStep
from common import Setting, add_setting, finish, interleaved, parser, plain, report, setting_name, summarise

MICRO = 16


def main() -> None:
    options = parser(__doc__)
    add_setting(options)
    options.add_argument("--compiled", action="store_true", help="a side with compiled layers; needs a C++ compiler")
    args = options.parse_args()
    setting = Setting.of(args, args.repeats + 1)
    config, model = setting.config, setting.model
    collators = {
        "ours": setting.collator(),
        "ours_catalogue": setting.collator(softmax="catalogue"),
        "ours_plain": setting.collator(counterfactual=False, weighting="uniform"),
    }
    ours = {
        name: Ours(
            model,
            [collator(step) for step in setting.steps],
            config.effect_weight if collator.counterfactual else 0.0,
            args.bf16,
        )
        for name, collator in collators.items()
    }
    if args.compiled:
        ours["ours_compiled"] = compiled(setting, ours["ours"].batches)
    narrow = copy.deepcopy(model).to(torch.bfloat16 if args.bf16 else torch.float32)
    narrow.set_attn_implementation("sdpa")
    padded = Padded(narrow, [setting.sequences(step) for step in setting.steps], config.beta)
    sides = {
        **{name: side.step for name, side in ours.items()},
        "published_cft": padded.published,
        "padded_plain": padded.plain,
        "unpadded_plain": padded.unpadded,
    }
    losses = {name: side() for name, side in sides.items()}  # of the first step, which is not timed
    times = interleaved(sides, args.repeats)
    result = summarise(times, "ours")
    counts = torch.stack([batch["counts"] for batch in ours["ours"].batches]).double().mean(0)
    flops = needed_flops(model, ours["ours"].batches)
    gemm = gemm_flops(model, ours["ours"].batches[0], torch.bfloat16 if args.bf16 else torch.float32)
    for name in ("ours", "ours_compiled"):
        if name in ours:
            result[name]["linear_over_gemm"] = statistics.median(
                flops[(turn + 1) % len(flops)] / second / gemm for turn, second in enumerate(times[name])
            )
    facts = (
        plain(args)
        | {"gemm_gflops": gemm / 1e9}
        | {"tokens_computed": counts[1].item(), "tokens_naive_cft": counts[2].item(), "losses": losses}
    )
    report(setting_name("train_step", args), {"options": facts, "sides": result}, args.save)


def compiled_copy(model: Any) -> Any:
    """Return the same model with compiled layers, which compile at their first calls."""
    model = copy.deepcopy(model)
    compile_layers(model, load_config(None, {"torch_compile": True}))
    return model


def compiled(setting: Setting, batches: list[Any]) -> "Ours":
    """Return a side whose layers are compiled, for any length."""
    side = Ours(compiled_copy(setting.model), batches, setting.config.effect_weight, setting.config.bf16)
    side.step(), side.step()  # two lengths, after which nothing is compiled again
    side.turn = 0
    return side


def linear_layers(model: Any) -> list[torch.nn.Linear]:
    """Return the layers whose products a step cannot do without, the head left out."""
    head = model.get_output_embeddings()
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer is not head]


def needed_flops(model: Any, batches: list[Any]) -> list[float]:
    """Return each step's floating-point operations in linear layers and head: 6 a weight and token, nothing twice."""
    layers = sum(layer.weight.numel() for layer in linear_layers(model))
    head = model.get_output_embeddings().weight.numel()
    branches = 2 if "counterfactual" in batches[0] else 1
    return [6.0 * (batch["counts"][1].item() * layers + branches * len(batch["targets"]) * head) for batch in batches]


def gemm_flops(model: Any, batch: Any, dtype: torch.dtype) -> float:
    """Return FLOP/s of the bare products of the linear layers and the head, each shape as often as a step needs it."""
    tokens = max(part["tokens"].numel() for part in batch["factual"])
    shapes = [(tokens, *layer.weight.shape) for layer in linear_layers(model)]
    shapes.append((2 * len(batch["targets"]), *model.get_output_embeddings().weight.shape))
    spent = total = 0.0
    for shape, count in Counter(shapes).items():
        rows, out, inner = shape
        x, w, g = (
            torch.randn(*sizes, device=model.device).to(dtype) for sizes in ((rows, inner), (out, inner), (rows, out))
        )
        times = []
        for _ in range(5):
            finish()
            begin = time.perf_counter()
            torch.mm(x, w.T), torch.mm(g, w), torch.mm(g.T, x)
            finish()
            times.append(time.perf_counter() - begin)
        spent += count * statistics.median(times)
        total += count * 6.0 * rows * out * inner
    return total / spent


class Ours:
    """Forward and backward of cftrec's step; each call takes the next batch."""

    def __init__(self, model: Any, batches: list[Any], effect_weight: float, bf16: bool) -> None:
        self.module = CFTStep(model, effect_weight, 0.0, False).train()
        self.batches, self.turn, self.bf16 = send_to_device(batches, model.device), 0, bf16

    def step(self) -> float:
        batch = self.batches[self.turn % len(self.batches)]
        self.turn += 1
        with torch.autocast(batch["targets"].device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.module(batch).loss
        loss.backward()
        self.module.zero_grad()
        return loss.item()


class Padded:
    """The same samples through the model as it is; each call of a side takes its next batch."""

    def __init__(self, model: Any, steps: list[list[tuple[Any, Any, Any]]], beta: float) -> None:
        self.model, self.steps, self.beta = model.train(), steps, beta
        self.turns = {"published": 0, "plain": 0, "unpadded": 0}

    def _next(self, side: str) -> list[tuple[Any, Any, Any]]:
        self.turns[side] += 1
        return self.steps[(self.turns[side] - 1) % len(self.steps)]

    def _weights(self, length: int) -> torch.Tensor:
        places = torch.arange(length)
        return 1 - (1 - self.beta) * places / max(1, length - 1)

    def _micro(
        self, prompts: list[Any], targets: list[Any], width: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Left-pad, run with full logits; return logits that predict, labels (-100 outside), and weights."""
        width = width or max(len(p) + len(y) for p, y in zip(prompts, targets, strict=True))
        tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
        real, labels = torch.zeros_like(tokens), torch.full_like(tokens, -100)
        weights = torch.zeros(len(prompts), width)
        for row, (p, y) in enumerate(zip(prompts, targets, strict=True)):
            whole = torch.from_numpy(np.concatenate([p, y]).astype(np.int64))
            tokens[row, width - len(whole) :] = whole
            real[row, width - len(whole) :] = 1
            labels[row, width - len(y) :] = whole[len(p) :]
            weights[row, width - len(y) :] = self._weights(len(y))
        tokens, real, labels, weights = send_to_device((tokens, real, labels, weights), self.model.device)
        places = (real.cumsum(1) - 1).clamp(min=0)
        logits = self.model(input_ids=tokens, attention_mask=real, position_ids=places, use_cache=False).logits
        return logits[:, :-1], labels[:, 1:], weights[:, 1:]

    def published(self) -> float:
        return self._sum_up(self._published(self._next("published")))

    def plain(self) -> float:
        return self._sum_up(self._plain(self._next("plain")))

    def unpadded(self) -> float:
        return self._sum_up(self._unpadded(self._next("unpadded")))

    def _sum_up(self, losses: Iterator[torch.Tensor]) -> float:
        """Run backward for each part of the step's loss before the next one is computed."""
        total = 0.0
        for loss in losses:
            loss.backward()
            total += loss.item()
        self.model.zero_grad()
        return total

    def _published(self, step: list[tuple[Any, Any, Any]]) -> Iterator[torch.Tensor]:
        for part in _micro_batches(step):
            targets = [y for _, _, y in part]
            shown, labels, weights = self._micro([h for h, _, _ in part], targets)
            # As in the authors' code, x_0 is padded to the width of x_h, so that the logits can be subtracted.
            unshown, _, _ = self._micro([x for _, x, _ in part], targets, shown.shape[1] + 1)
            normal = self._sum(shown, labels, weights)
            effect = self._sum(shown - unshown, labels, weights)
            yield (normal + 0.1 * effect) / weights.sum() * len(part) / len(step)

    def _plain(self, step: list[tuple[Any, Any, Any]]) -> Iterator[torch.Tensor]:
        for part in _micro_batches(step):
            shown, labels, _ = self._micro([h for h, _, _ in part], [y for _, _, y in part])
            loss = torch.nn.functional.cross_entropy(shown.float().flatten(0, 1), labels.flatten())
            yield loss * len(part) / len(step)

    def _unpadded(self, step: list[tuple[Any, Any, Any]]) -> Iterator[torch.Tensor]:
        count = sum(len(y) for _, _, y in step)
        for prompt, _, y in step:
            tokens = torch.from_numpy(np.concatenate([prompt, y[:-1]]).astype(np.int64))[None].to(self.model.device)
            logits = self.model(input_ids=tokens, use_cache=False, logits_to_keep=len(y)).logits[0]
            labels = torch.from_numpy(y.astype(np.int64)).to(self.model.device)
            yield torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum") / count

    def _sum(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        ce = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        return (ce * weights.flatten()).sum()


def _micro_batches(step: list[Any]) -> list[list[Any]]:
    return [step[begin : begin + MICRO] for begin in range(0, len(step), MICRO)]


if __name__ == "__main__":
    main()
