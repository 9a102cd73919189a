"""`transformers.Trainer` for counterfactual fine-tuning: exact sums over a step and over a split."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from cftrec.artefacts import read_json, write_json
from cftrec.data import Dataset
from cftrec.forest.backbone import choose_batching
from cftrec.forest.cost import attention_call, fitting_tokens
from cftrec.forest.passes import Layout
from cftrec.forest.sampler import StepSampler
from cftrec.objective.temperature import Temperature
from cftrec.text.catalogue import Catalogue
from cftrec.text.prompt import Prompt
from cftrec.training.collator import Batch, Samples, StepCollator
from cftrec.training.config import CFTConfig
from cftrec.training.lora import load_weights, save_weights
from cftrec.training.step import CFTStep, StepLoss

_COMPLETE, _TEMPERATURE = "complete", "temperature.json"
_CPU_TOKENS, _GPU_TOKENS = 2048, 16384  # passes beyond which no speed was gained


class CFTTrainer(Trainer):
    """Trains a causal language model on the samples of a dataset.

    Args:
        model: a transformers causal language model, or a `peft.PeftModel` around one.
        args: the config.
        data: the interaction log; its "train" split is learnt, its "validation" split is what `evaluate` measures.
        prompt: x_h and x_0 in the model's tokens.
        catalogue: the items' token sequences.
        callbacks: further transformers callbacks.

    Attributes:
        batching: "forest" or "padded", what `args.batching` came to for this model.
        objection: why "auto" had to choose "padded", else "".
        layout: how steps are laid out, what was measured filled in.

    Raises:
        InputError: the model cannot be run as `args.batching` wants.
    """

    def __init__(
        self,
        model: Any,
        args: CFTConfig,
        data: Dataset,
        prompt: Prompt,
        catalogue: Catalogue,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if args.place_model_on_device and model.device != args.device:
            model.to(args.device)  # where it will run is where it is probed and measured
        self.batching, self.objection = choose_batching(model, args.batching, args.attention)
        self.layout = layout_of(model, args, self.batching == "forest")
        self.train_samples = Samples(data, "train", args.window, args.history_stride)
        validation = Samples(data, "validation", args.window, args.history_stride)
        with_prior = args.effect_weight > 0 or args.prior_weight > 0

        def collator(samples: Samples) -> StepCollator:
            return StepCollator(
                data=data,
                samples=samples,
                prompt=prompt,
                catalogue=catalogue,
                softmax=args.softmax,
                weighting=args.weighting,
                weighted_terms=args.weighted_terms,
                beta=args.beta,
                counterfactual=with_prior,
                layout=self.layout,
            )

        if args.torch_compile:
            compile_layers(model, args)
        stopping = [] if args.patience is None else [EarlyStoppingCallback(args.patience)]
        self.eval_collator = collator(validation)
        self.totals = torch.zeros(7, dtype=torch.float64)
        self.logged_at = time.perf_counter()
        temperature = Temperature.adapting() if args.adaptive_temperature else Temperature(args.temperature)
        super().__init__(
            model=CFTStep(model, args.effect_weight, args.prior_weight, args.detach_counterfactual, temperature),
            args=args,
            train_dataset=self.train_samples,
            eval_dataset=validation,
            data_collator=collator(self.train_samples),
            callbacks=[*(callbacks or []), MoveTemperature(self._over_ranks), LogLast(), MarkComplete(), *stopping],
        )
        self.remove_callback(PrinterCallback)
        # The loss is normalised over the whole step, so accumulation must not divide it again.
        self.loss_is_scaled_for_ga = True

    def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
        """Shuffle groups of samples that share a trunk (design: windows, users or random samples)."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return StepSampler(self.train_samples.groups(self.args.sampler), seed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Go through the validation samples in order; each rank takes its share, and none is taken twice."""
        return DataLoader(
            self.eval_dataset,
            batch_size=self.args.per_device_eval_batch_size,
            sampler=range(self.args.process_index, len(self.eval_dataset), self.args.world_size),
            collate_fn=self.eval_collator,
            num_workers=self.args.dataloader_num_workers,
        )

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """Keep accelerate from compiling the whole step; the layers are compiled already where that was asked for."""
        return super()._build_accelerator_args(**kwargs) | {"dynamo_plugin": TorchDynamoPlugin(backend="no")}

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor:
        """Return sum w over the whole optimizer step: all its batches, on all ranks."""
        weights = torch.stack([batch["weights"].sum() for batch in batch_samples]).sum().to(device)
        return self.accelerator.reduce(weights, "sum") if self.args.world_size > 1 else weights

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return this batch's share of the step's loss, times the ranks, whose gradients get averaged."""
        losses: StepLoss = model(inputs, num_items_in_batch)
        parts = torch.stack([losses.loss.detach(), *losses[1:]]).double().cpu()
        self.totals += torch.cat([parts, inputs["counts"].double().cpu()])
        loss = losses.loss * self.accelerator.num_processes
        return (loss, losses) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to the log line the parts of the loss and the work done since the last one."""
        if "loss" in logs:
            now = time.perf_counter()
            steps = max(1, self.state.global_step - getattr(self, "_logged_step", 0))
            _, normal, effect, prior, samples, computed, naive = self._over_ranks(self.totals).tolist()
            seconds = now - self.logged_at
            logs |= {"normal": normal / steps, "effect": effect / steps}
            if self.args.prior_weight:
                logs["prior"] = prior / steps
            if self.args.adaptive_temperature:
                logs["temperature"] = self.model.temperature.value
            logs |= {
                "samples_per_second": samples / seconds,
                "tokens_computed": computed,
                "tokens_naive": naive,
            }
            self._logged_step, self.logged_at = self.state.global_step, now
            self.totals.zero_()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the objective over the whole validation split: sums over all its tokens, not a mean of batch means.

        Returns:
            `eval_loss` (the trained objective), `eval_normal` (its plain part), `eval_effect`, `eval_prior`.
        """
        began = time.perf_counter()
        loader = self.get_eval_dataloader()
        model = self._wrap_model(self.model, training=False)
        model.eval()
        sums = torch.zeros(5, dtype=torch.float64)
        with torch.no_grad():
            for loaded in loader:
                batch = self._prepare_inputs(loaded)
                with self.compute_loss_context_manager():
                    parts = torch.stack(list(model(batch, 1.0)))
                sums += torch.cat([parts, batch["weights"].sum()[None]]).double().cpu()
        sums = self._over_ranks(sums)
        means = (sums[:4] / sums[4].clamp(min=1e-12)).tolist()
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in zip(StepLoss._fields, means, strict=True)}
        self.logged_at += time.perf_counter() - began  # no part of the training's speed
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """Add up what the ranks have summed, each over its own batches."""
        return self.accelerator.reduce(sums.to(self.args.device), "sum").cpu() if self.args.world_size > 1 else sums

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the language model alone, as a folder that transformers loads, or its adapters, as one of PEFT.

        And beside it the temperature, where that is part of the training's state.
        """
        folder = Path(output_dir or self.args.output_dir)
        save_weights(self.model.model, folder)
        if self.args.adaptive_temperature:
            write_json(folder / _TEMPERATURE, {"temperature": self.model.temperature.value})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load what `_save` wrote."""
        load_weights(self.model.model, Path(resume_from_checkpoint))
        if self.args.adaptive_temperature:
            self.model.temperature.value = read_json(Path(resume_from_checkpoint) / _TEMPERATURE)["temperature"]

    def _load_best_model(self) -> None:
        """Go back to the checkpoint that was best by `metric_for_best_model`."""
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def compile_layers(model: Any, args: CFTConfig) -> None:
    """Compile the model's layers in place, for any length; they are alike, so that what one needs serves all.

    The step around them, with its passes and its own backward, has nothing to gain from it.
    """
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):  # what transformers makes every layer of
            layer.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=True)


def layout_of(model: Any, args: CFTConfig, forest: bool) -> Layout:
    """Return how steps are laid out: as the options say, and where they are silent as measured on the machine."""
    on_gpu = model.device.type == "cuda"
    autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    tokens, call = args.pass_tokens, args.attention_call
    if tokens is None:
        tokens = fitting_tokens(model, _GPU_TOKENS if on_gpu else _CPU_TOKENS, args.memory_budget, autocast)
    if call is None and forest:
        call = attention_call(model, autocast or model.dtype)
    return Layout(forest, tokens, call or 0)


class MoveTemperature(TrainerCallback):
    """Moves an adaptive temperature once a step is whole, by what all ranks saw in it."""

    def __init__(self, over_ranks: Callable[[Tensor], Tensor]) -> None:
        self.over_ranks = over_ranks

    def on_step_end(self, args: Any, state: Any, control: Any, model: CFTStep | None = None, **kwargs: Any) -> None:
        """Move it before anything is logged, measured or saved."""
        if model is not None and model.temperature.adaptive:
            model.temperature.move(self.over_ranks)


class LogLast(TrainerCallback):
    """Logs the last step, too, so that no work is left out of the log."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a line after the last step."""
        if state.global_step >= state.max_steps:
            control.should_log = True


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once it is whole: a process killed while it writes one leaves it without the mark."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the mark."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():  # `save_total_limit` may have removed it already
            (folder / _COMPLETE).touch()


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None."""
    whole = [mark.parent for mark in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)
