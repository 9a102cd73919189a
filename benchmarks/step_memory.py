"""Peak memory of one step's activations and loss: ours against the published computation of the same samples.

Counted is what is allocated beyond weights and one gradient of them, at the worst moment of forward and backward:

- ours: the CFT step of cftrec, at passes of `--set pass_tokens=...`;
- published_cft: one micro-batch of two padded passes with full logits, as the authors' code (positions set right).

Both have the same samples in flight. About a minute on two cores.
"""

import copy

import torch

from common import MIB, Setting, add_setting, parser, peak_bytes, plain, report, setting_name
from train_step import MICRO, Ours, Padded


def main() -> None:
    options = parser(__doc__)
    add_setting(options)
    options.set_defaults(samples=MICRO)
    args = options.parse_args()
    setting = Setting.of(args, 1)
    narrow = copy.deepcopy(setting.model).to(torch.bfloat16 if args.bf16 else torch.float32)
    narrow.set_attn_implementation("sdpa")
    ours = Ours(setting.model, [setting.collator()(setting.steps[0])], setting.config.effect_weight, args.bf16)
    published = Padded(narrow, [setting.sequences(setting.steps[0])], setting.config.beta)
    sides = {"ours": (ours.step, setting.model), "published_cft": (published.published, narrow)}
    for step, _ in sides.values():
        step()  # what a first call loads is no memory of the step
    peaks = {name: (peak_bytes(step, args.device) - size(model)) / MIB for name, (step, model) in sides.items()}
    facts = plain(args) | {"layout": setting.layout._asdict()}
    result = {"options": facts, "peak_mib": peaks, "ours_over_published": peaks["ours"] / peaks["published_cft"]}
    report(setting_name("step_memory", args), result, args.save)


def size(model: torch.nn.Module) -> int:
    """Return the bytes of one gradient."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


if __name__ == "__main__":
    main()
