"""`transformers.Trainer` for counterfactual fine-tuning: exact sums over a step and over a split."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import TorchDynamoPlugin
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from cftrec.artefacts import read_json, write_json
from cftrec.data import Dataset
from cftrec.errors import InputError
from cftrec.forest.backbone import choose_batching
from cftrec.forest.sampler import StepSampler
from cftrec.objective.temperature import Temperature
from cftrec.text.catalogue import Catalogue
from cftrec.text.prompt import Prompt
from cftrec.training.callbacks import (
    KeepBest,
    KeepCheckpoints,
    LogLast,
    MoveTemperature,
    SaveMeasured,
    ScheduleEffect,
    StopWhereFinished,
)
from cftrec.training.collator import Batch, Samples, StepCollator
from cftrec.training.config import RANKED, CFTConfig
from cftrec.training.lora import load_weights, save_weights
from cftrec.training.machine import compile_layers, layout_of, send_by_value
from cftrec.training.step import CFTStep, StepLoss

_TEMPERATURE = "temperature.json"

Measure = Callable[["CFTTrainer", NDArray[np.int64]], Mapping[str, NDArray[np.float64]]]
"""Further metrics of validation targets, such as their ranks, for which training has no means of its own.

Called with the trainer, its model in eval mode, and the event positions of n targets (n may be 0); returns a metric's
name, such as "ndcg@10", and its value for each target, float64 [n].
"""


class Diverged(InputError):
    """The loss, or a weight, is no finite number any more; the same options would end there again."""


class CFTTrainer(Trainer):
    """Trains a causal language model on the samples of a dataset.

    Args:
        model: a transformers causal language model, or a `peft.PeftModel` around one.
        args: the config. Give it the `model` that it is, or a `learning_rate`: unset, that follows the option `model`,
            which is nano unless given, and nano from scratch takes twenty times the rate of a pretrained one.
        data: the interaction log; its "train" split is learnt, its "validation" split is what `evaluate` measures.
        prompt: x_h and x_0 in the model's tokens.
        catalogue: the items' token sequences.
        callbacks: further transformers callbacks.
        measure: further metrics of validation targets, which `evaluate` adds to its own; needed where
            `metric_for_best_model` is one, such as `cftrec.evaluation.validation.ranking_metrics`.

    Attributes:
        data: as given.
        prompt: as given.
        catalogue: as given.
        batching: "forest" or "padded", what `args.batching` came to for this model.
        objection: why "auto" had to choose "padded", else "".
        layout: how steps are laid out, what was measured filled in.

    Raises:
        InputError: the model cannot be run as `args.batching` wants, or `metric_for_best_model` cannot be measured.
    """

    def __init__(
        self,
        model: Any,
        args: CFTConfig,
        data: Dataset,
        prompt: Prompt,
        catalogue: Catalogue,
        callbacks: list[TrainerCallback] | None = None,
        measure: Measure | None = None,
    ) -> None:
        if _will_move(model, args) and model.device != args.device:
            model.to(args.device)  # where it will run is where it is probed and measured
        self.data, self.prompt, self.catalogue, self.measure = data, prompt, catalogue, measure
        self.batching, self.objection = choose_batching(model, args.batching, args.attention)
        self.layout = layout_of(model, args, self.batching == "forest")
        self.train_samples = Samples(
            data, "train", args.window, args.history_stride, sample=args.sample, seed=_data_seed(args)
        )
        validation = Samples(data, "validation", args.window, args.history_stride)
        _check_best_metric(args, measure, len(validation))
        step = args.per_device_train_batch_size * args.world_size
        if args.dataloader_drop_last and len(self.train_samples) < step:
            raise InputError(
                f"option dataloader_drop_last=True: drops all {len(self.train_samples)} samples, for a step has {step}"
            )
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
        best = [KeepBest(args.best_metric, args.patience)] if args.load_best_model_at_end else []
        self.eval_collator = collator(validation)
        self.totals = torch.zeros(7, dtype=torch.float64)
        self.logged_at = time.perf_counter()
        self.logged_step: int | None = None
        temperature = Temperature.adapting() if args.adaptive_temperature else Temperature(args.temperature)
        super().__init__(
            model=CFTStep(model, args.effect_weight, args.prior_weight, args.detach_counterfactual, temperature),
            args=args,
            train_dataset=self.train_samples,
            eval_dataset=validation,
            data_collator=collator(self.train_samples),
            callbacks=[
                *(callbacks or []),
                MoveTemperature(self._over_ranks),
                ScheduleEffect(args.effect_schedule),
                LogLast(),
                SaveMeasured(),
                StopWhereFinished(),
                KeepCheckpoints(),
                *best,
            ],
        )
        self.remove_callback(PrinterCallback)
        # The loss is normalised over the whole step, so accumulation must not divide it again.
        self.loss_is_scaled_for_ga = True

    def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
        """Shuffle groups of samples that share a trunk (design: windows, users or random samples).

        Of several ranks each takes a batch in turn, and accelerate would fill up an epoch's last ones by samples of its
        beginning, which would count twice; these are filled up by nothing.
        """
        ranks = 1 if self.args.dataloader_drop_last else self.args.world_size
        step = self.args.per_device_train_batch_size * ranks if ranks > 1 else 1
        groups = self.train_samples.groups(self.args.sampler)
        self.sampler = StepSampler(groups, _data_seed(self.args), multiple=step)
        return self.sampler

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Let the workers, where there are any, send their batches by value; what is logged counts from here."""
        self.logged_at, self.logged_step = time.perf_counter(), None
        self.totals.zero_()
        loader = super().get_train_dataloader()
        loader.base_dataloader.worker_init_fn = send_by_value  # inside what accelerate has wrapped around it
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Go through the validation samples in order; each rank takes its share, and none is taken twice."""
        return DataLoader(
            self.eval_dataset,
            batch_size=self.args.per_device_eval_batch_size,
            sampler=range(self.args.process_index, len(self.eval_dataset), self.args.world_size),
            collate_fn=self.eval_collator,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=send_by_value,
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
        """Add to the log line the parts of the loss and the work done since the last one.

        The training's mean loss is that of its log, for transformers' leaves out what came before an interruption.

        Raises:
            Diverged: the loss or a part of it is no finite number.
        """
        if "loss" in logs:
            now = time.perf_counter()
            steps = max(1, self.state.global_step - (self.logged_step or 0))
            loss, normal, effect, prior, samples, computed, naive = self._over_ranks(self.totals).tolist()
            if not math.isfinite(loss + normal + effect + prior):
                raise Diverged(
                    f"training diverged by step {self.state.global_step}: the loss is {loss / steps:g} (normal "
                    f"{normal / steps:g}, effect {effect / steps:g}); lower learning_rate, or a weight of the loss"
                )
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
            self.logged_step, self.logged_at = self.state.global_step, now
            self.totals.zero_()
        if "train_loss" in logs and (lines := [line for line in self.state.log_history if "loss" in line]):
            steps = np.diff([line["step"] for line in lines], prepend=0)
            logs["train_loss"] = float(np.average([line["loss"] for line in lines], weights=steps))
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the objective over the whole validation split: sums over all its tokens, not a mean of batch means.

        Returns:
            `eval_loss` (the trained objective), `eval_normal` (its plain part), `eval_effect`, `eval_prior`, and the
            means of what `measure` gives.
        """
        began = time.perf_counter()
        loader = self.get_eval_dataloader()
        model = self._wrap_model(self.model, training=False)
        training = model.training
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
        measured = dict(zip(StepLoss._fields, means, strict=True)) | self._measured()
        model.train(training)
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in measured.items()}
        self.logged_at += time.perf_counter() - began  # no part of the training's speed
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measured(self) -> dict[str, float]:
        """Return the means of what `measure` finds of all validation targets; each rank asks for its share of them.

        Weights are in fp32, and no autocast is active here: it is what the finished RUN will recommend.
        """
        if self.measure is None:
            return {}
        share = self.eval_dataset.positions[self.args.process_index :: self.args.world_size]
        values = self.measure(self, share)
        sums = [*(value.sum() for value in values.values()), len(share)]
        *totals, number = self._over_ranks(torch.tensor(sums, dtype=torch.float64)).tolist()
        return {name: total / max(1, number) for name, total in zip(values, totals, strict=True)}

    def _run_epoch(self, **options: Any) -> None:
        """Train nothing where there is nothing left to do: transformers would take a step before it looks.

        And tell the sampler its epoch, which of several ranks' neither transformers nor accelerate reaches where the
        training goes on in the middle of one.
        """
        self.sampler.set_epoch(options["epoch"])
        if self.logged_step is None:
            self.logged_step = self.state.global_step  # that of the checkpoint where the training goes on from one
        if not self.control.should_training_stop:
            super()._run_epoch(**options)

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """Add up what the ranks have summed, each over its own batches."""
        return self.accelerator.reduce(sums.to(self.args.device), "sum").cpu() if self.args.world_size > 1 else sums

    def _save_checkpoint(self, *rest: Any) -> None:
        """Remove no older checkpoint yet: `KeepCheckpoints` does, once the new one is marked as whole."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(*rest)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # the mark, which comes next, speaks for what all ranks have written

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the language model alone, as a folder that transformers loads, or its adapters, as one of PEFT.

        And beside it the temperature, where that is part of the training's state. transformers calls this on all ranks.
        """
        if not self.args.should_save:
            return
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


def _will_move(model: Any, args: CFTConfig) -> bool:
    """Return whether transformers would move the model to the device: all but one that is placed or spread already."""
    placed = getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None)
    return args.place_model_on_device is not False and not (placed or args.fsdp or args.deepspeed)


def _data_seed(args: CFTConfig) -> int:
    """Return the seed by which samples are drawn and ordered."""
    return args.seed if args.data_seed is None else args.data_seed


def _check_best_metric(args: CFTConfig, measure: Measure | None, targets: int) -> None:
    """Refuse a metric that takes a search where there is none, or that measures nothing and thus is always 0."""
    wish = f"option metric_for_best_model={args.metric_for_best_model}"
    if args.best_metric == RANKED and measure is None:
        raise InputError(
            f"{wish}: ranking takes a search, which this trainer was not given; give it "
            "measure=cftrec.evaluation.validation.ranking_metrics, or choose eval_loss or eval_normal"
        )
    weights = {"eval_effect": args.effect_weight or args.prior_weight, "eval_prior": args.prior_weight}
    if not weights.get(args.best_metric, 1):  # nothing without history is computed, or no prior is trained
        raise InputError(f"{wish}: is always 0 by the weights of the loss; choose another")
    if args.best_metric and not targets:
        raise InputError(f"{wish}: the dataset has no validation target; choose another metric or prepare it again")
