"""Forward and backward of one training step: cftrec against TRL's SFTTrainer, same samples, same weights, one process.

TRL does plain fine-tuning on the targets' tokens (completion-only loss), without gradient checkpointing, as it is set
fastest: bf16 weights where `--bf16` is given, padded batches sorted by length, packed ones by best-fit decreasing. Each
size of `--micro` (padded: samples of a micro-batch) and `--pack` (packed: tokens of a row, a row a micro-batch) takes
one step; the fastest of either kind is then timed in turn with ours:

- ours: the CFT step of cftrec (which computes more than TRL's: the effect term, too);
- ours_plain: plain fine-tuning by cftrec;
- trl_padded, trl_packed: `SFTTrainer.training_step` for the micro-batches of the step, no optimizer.

See README.md for the environment.
"""

import copy
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from trl import SFTConfig, SFTTrainer, pack_dataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Setting, add_setting, interleaved, parser, plain, report, setting_name, summarise
from train_step import Ours


def main() -> None:
    options = parser(__doc__)
    add_setting(options)
    options.add_argument("--micro", type=int, nargs="+", default=[4, 8, 16, 32], help="padded: sizes to choose from")
    options.add_argument("--pack", type=int, nargs="+", default=[512, 1024, 2048], help="packed: sizes to choose from")
    args = options.parse_args()
    disable_progress_bar()
    setting = Setting.of(args, args.repeats + 1)
    narrow = copy.deepcopy(setting.model).to(torch.bfloat16 if args.bf16 else torch.float32)
    narrow.set_attn_implementation("sdpa")
    rows = [dataset(setting.sequences(step)) for step in setting.steps]
    longest = max(len(ids) for step in rows for ids in step["input_ids"])
    with TemporaryDirectory() as folder:
        peers = {f"trl_padded {size}": Trl(setting, narrow, folder, rows, micro=size) for size in args.micro}
        packs = {max(size, longest) for size in args.pack}
        peers |= {f"trl_packed {size}": Trl(setting, narrow, folder, rows, pack=size) for size in sorted(packs)}
        choice = {name: peer.try_out() for name, peer in peers.items()}
        best = {
            kind: min((name for name in choice if name.startswith(kind)), key=lambda name: choice[name]["seconds"])
            for kind in ("trl_padded", "trl_packed")
        }
        collators = {
            "ours": setting.collator(),
            "ours_plain": setting.collator(counterfactual=False, weighting="uniform"),
        }
        ours = {
            name: Ours(
                setting.model,
                [collator(step) for step in setting.steps],
                setting.config.effect_weight if collator.counterfactual else 0.0,
                args.bf16,
            )
            for name, collator in collators.items()
        }
        sides = {name: side.step for name, side in ours.items()} | {
            kind: peers[name].step for kind, name in best.items()
        }
        losses = {name: side() for name, side in sides.items()}  # of the first step, which is not timed
        times = interleaved(sides, args.repeats)
    result = summarise(times, "ours")
    for side in result.values():
        side["samples_per_s"] = args.samples / side["median_s"]
    facts = plain(args) | {"chosen": best, "choice": choice, "losses": losses, "trl": version("trl")}
    counts = torch.stack([batch["counts"] for batch in ours["ours"].batches]).double().mean(0)
    facts |= {"tokens_computed": counts[1].item(), "tokens_naive_cft": counts[2].item()}
    report(setting_name("trl_sft", args), {"options": facts, "sides": result}, args.save)


def dataset(sequences: list[tuple[Any, Any, Any]]) -> Dataset:
    """Return a step's samples as TRL takes them when they are tokenised already; only targets have labels."""
    return Dataset.from_dict(
        {
            "input_ids": [[*shown.tolist(), *y.tolist()] for shown, _, y in sequences],
            "labels": [[-100] * len(shown) + y.tolist() for shown, _, y in sequences],
        }
    )


class Trl:
    """An SFTTrainer in one setting; each call of `step` takes the next step's micro-batches."""

    def __init__(
        self, setting: Setting, model: Any, folder: str, rows: list[Dataset], micro: int = 1, pack: int | None = None
    ) -> None:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=micro,
            packing=pack is not None,
            max_length=pack,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=setting.model.device.type == "cpu",
            report_to="none",
        )
        self.trainer = SFTTrainer(model, config, train_dataset=rows[0], processing_class=setting.tokenizer)
        self.trainer.current_gradient_accumulation_steps = 1
        self.steps = [self._micro_batches(step, micro, pack) for step in rows]
        self.turn = 0

    def _micro_batches(self, rows: Dataset, micro: int, pack: int | None) -> list[dict[str, Any]]:
        if pack is not None:
            rows = pack_dataset(rows, pack, "bfd")
        examples = sorted(rows.to_list(), key=lambda row: len(row["input_ids"]))
        return [self.trainer.data_collator(examples[n : n + micro]) for n in range(0, len(examples), micro)]

    def step(self) -> float:
        batches = self.steps[self.turn % len(self.steps)]
        self.turn += 1
        count = torch.tensor(sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches))
        losses = [self.trainer.training_step(self.trainer.model, dict(batch), count) for batch in batches]
        self.trainer.model.zero_grad()
        return float(sum(losses))

    def try_out(self) -> dict[str, float]:
        """Return the first step's loss, and the seconds of a second turn of it."""
        loss = self.step()
        self.turn = 0
        (seconds,) = interleaved({"once": self.step}, 1)["once"]
        self.turn = 0
        return {"loss": loss, "seconds": seconds}


if __name__ == "__main__":
    main()
