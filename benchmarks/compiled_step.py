"""Forward and backward of one training step with compiled layers (`torch_compile=true`) against the same without.

The same samples, the same weights, sides in turn. What compiling costs once, at the first steps of a run, is `first_s`.
`linear_over_gemm` is the rate of the linear layers and the head over that of their bare products. Needs a C++ compiler;
a few minutes on two cores.
"""

import statistics
import time

import torch

from common import Setting, add_setting, interleaved, parser, plain, report, setting_name, summarise
from train_step import Ours, compiled_copy, gemm_flops, needed_flops


def main() -> None:
    options = parser(__doc__)
    add_setting(options)
    args = options.parse_args()
    setting = Setting.of(args, args.repeats + 2)
    batches = [setting.collator()(step) for step in setting.steps]
    sides = {
        name: Ours(model, batches, setting.config.effect_weight, args.bf16).step
        for name, model in {"ours": setting.model, "ours_compiled": compiled_copy(setting.model)}.items()
    }
    first, losses = {}, {}
    for name, side in sides.items():
        begin = time.perf_counter()
        losses[name] = [side(), side()]  # two lengths, after which nothing is compiled again; not timed below
        first[name] = time.perf_counter() - begin
    times = interleaved(sides, args.repeats)
    result = summarise(times, "ours")
    flops = needed_flops(setting.model, batches)
    gemm = gemm_flops(setting.model, batches[0], torch.bfloat16 if args.bf16 else torch.float32)
    for name, side in result.items():
        side["first_s"] = first[name]
        side["linear_over_gemm"] = statistics.median(
            flops[(turn + 2) % len(flops)] / second / gemm for turn, second in enumerate(times[name])
        )
    facts = plain(args) | {"gemm_gflops": gemm / 1e9, "losses": losses}
    report(setting_name("compiled_step", args), {"options": facts, "sides": result}, args.save)


if __name__ == "__main__":
    main()
