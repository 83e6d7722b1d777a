"""What all methods share: views of every image, checks, logs, optimiser and schedule.

A method adds its own networks and `contrast`, from the views to a loss.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from fmicl_core.checks import check_choice, invalid
from fmicl_lightning.augment import as_float, standardise
from fmicl_lightning.batches import Batch
from fmicl_lightning.compiled import compiled_step
from fmicl_lightning.late import LateLosses
from fmicl_lightning.optimizers import build_optimizer, warmup_cosine
from fmicl_lightning.shards import Loss, OverDevices
from fmicl_recipes.choices import OPTIMIZERS
from fmicl_recipes.draws import step_seed
from fmicl_recipes.history import epoch_row, warn_of_collapse
from fmicl_recipes.methods import labels_for
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stopping import NonFiniteLossError

Contrast = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Method(OverDevices):
    """A contrastive method with any encoder and any loss.

    Args:
        encoder: any module from images (N, C, H, W) to features (N, F).
        head: module from features to projections (N, d).
        loss: function from projections to a scalar, such as `fmicl_torch.FMICLLoss()`.
        augment: module from float images in [0, 1] to one random view of each.
        optimizer: "sgd", "adamw" or "lars"; a subclass can have another, see
            `configure_optimizers`.
        lr: peak of the learning rate.
        momentum: momentum of SGD and LARS.
        weight_decay: weight decay of what is neither a norm nor a bias.
        warmup_epochs: epochs in which the rate rises linearly, before it falls by a cosine.
        seed: seed of the random views.

    Raises:
        ValueError: there is no such optimiser.
        NonFiniteLossError: the loss or a weight is not finite; the message says at which step.
    """

    #: Number of random views of every image.
    view_count = 2
    #: Whether the labels that come with the images go to `contrast`, as `ids`.
    supervised = False

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        loss: Loss,
        augment: nn.Module,
        *,
        optimizer: str = TrainSettings.optimizer,
        lr: float = TrainSettings.lr,
        momentum: float = TrainSettings.momentum,
        weight_decay: float = TrainSettings.weight_decay,
        warmup_epochs: int = TrainSettings.warmup_epochs,
        seed: int = TrainSettings.seed,
    ) -> None:
        super().__init__(loss)
        self.encoder, self.head, self.augment = encoder, head, augment
        self.optimizer = check_choice("optimizer", optimizer, OPTIMIZERS)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.warmup_epochs, self.seed = warmup_epochs, seed
        #: Steps of the whole run, known once it starts.
        self.steps = 1
        self.history: list[dict[str, float]] = []
        #: Losses of the steps of the open epoch that were read.
        self.losses: list[float] = []
        #: Numbers that callbacks measured in this epoch, for its row of the history.
        self.measured: dict[str, float] = {}
        self.last: tuple[torch.Tensor, torch.Tensor] | None = None
        #: Labels of the last batch that the loss was told; None if none.
        self.last_ids: torch.Tensor | None = None
        self.late = LateLosses()
        self.compiles = False

    def plan(self, count: int) -> dict[str, Any]:
        """Arguments of `contrast` beside the views, made outside of the compiled step.

        Args:
            count: number N of images in the batch of this device.
        """
        return {}

    def contrast(self, *views: Any, **plan: Any) -> Contrast:
        """The loss of the views (N, C, H, W), and the first two arrays (N, d) that it compares.

        A method takes arguments of its own beside the views, those that its `plan` returns; a
        supervised one also `ids`, the labels of the images. Views, arrays and labels are those of
        this device, the loss is that of the batch of all.
        """
        raise NotImplementedError

    def contrast_images(self, images: torch.Tensor, plan: dict[str, Any]) -> Contrast:
        """What `contrast` gives for random views of uint8 images, see `views`."""
        return self.contrast(*self.views(images, self.view_count), **plan)

    def compile(self, *_: Any, **__: Any) -> None:
        """Let `torch.compile` make one graph of views, networks and loss, from the next step on.

        In place: names of weights, and checkpoints, stay what they are.
        """
        self.compiles = True

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The encoder's features (N, F) of uint8 images (N, H, W, C)."""
        return self.encoder(standardise(as_float(images, self.dtype)))

    def query(self, view: torch.Tensor) -> torch.Tensor:
        """Projections (N, d) of a view (N, C, H, W)."""
        return self.head(self.encoder(view))

    def views(self, images: torch.Tensor, count: int = 2) -> tuple[torch.Tensor, ...]:
        """Random views (N, C, H, W), `count` of them, of uint8 images.

        Args:
            images: uint8 images (N, H, W, C), or (N, V, H, W, C), of which each of the first views
                is made of its own crop.
            count: number of views, at most V.
        """
        with torch.autocast(images.device.type, enabled=False):
            if images.ndim == 4:
                crops = [as_float(images, self.dtype)] * count
            else:
                crops = [as_float(images[:, view], self.dtype) for view in range(count)]
            return tuple(standardise(self.augment(crop)) for crop in crops)

    def project(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projections (N, d) of two random views of uint8 images, see `views`."""
        v1, v2 = self.views(images)
        return self.query(v1), self.query(v2)

    def training_step(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch of uint8 images, see `views`, which may have labels (N,) beside it.

        Raises:
            ValueError: the method is supervised, and the batch has no labels.
        """
        images, labels = (batch, None) if isinstance(batch, torch.Tensor) else (*batch, None)[:2]
        labels = labels_for(self.supervised, labels)
        plan = self.plan(len(images))
        if labels is not None:
            plan["ids"] = labels
        step = partial(compiled_step, self) if self.compiles else self.contrast_images
        loss, x, y = step(images, plan)
        self.late.put(self.global_step, loss)
        self.last, self.last_ids = (x.detach(), y.detach()), labels
        return loss

    def read_losses(self, leaving: int = 0) -> list[float]:
        """Losses of this epoch that were not read before, written to the loggers.

        Args:
            leaving: number of the last losses that are left for later.

        Raises:
            NonFiniteLossError: one of them is not finite; the message says at which step.
        """
        epoch, values = self.current_epoch, []
        for step, value in self.late.take(leaving):
            if not math.isfinite(value):
                raise NonFiniteLossError.at(value, step, epoch + 1)
            # An attribute that Lightning sets from outside of the class.
            if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                for logger in self.loggers:
                    logger.log_metrics({"loss_step": value, "epoch": epoch}, step)
            values.append(value)
        self.losses += values
        return values

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the random views of this step by (seed, step, device) alone.

        A run that was stopped can thereby go on exactly as if it had not been.
        """
        step = step_seed(self.seed, self.global_step)
        torch.manual_seed(step * self.world + self.global_rank)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Read the loss of the step before this one, unless a callback has done so."""
        self.read_losses(leaving=1)

    def check_weights(self) -> None:
        """Check what a checkpoint is to keep.

        Raises:
            NonFiniteLossError: a weight is not finite.
        """
        # All flags in one array, which is read once.
        if not torch.stack([v.isfinite().all() for v in self.state_dict().values()]).all():
            raise NonFiniteLossError.weights(self.global_step)

    def on_train_epoch_end(self) -> None:
        """Refuse broken weights; log how aligned, uniform and spread out the last batch is."""
        self.read_losses()
        self.check_weights()
        assert self.last is not None
        x, y = (self.gather(rows).float().cpu().numpy() for rows in self.last)
        loss = math.fsum(self.losses) / len(self.losses)
        objective = getattr(self.loss, "objective", None)  # of f-MICL
        ids = None if self.last_ids is None else self.gather(self.last_ids).cpu().numpy()
        row = epoch_row(
            self.current_epoch + 1, self.global_step, loss, x, y, objective, ids, **self.measured
        )
        self.history.append(row)
        self.losses = []
        logged = {name: row[name] for name in row if name not in ("epoch", "step", "loss")}
        self.log_dict({"loss_epoch": loss, **logged}, rank_zero_only=True)
        if self.global_rank == 0:
            warn_of_collapse(self.history)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the history, and losses of an epoch that is not over, beside the weights."""
        checkpoint["history"], checkpoint["losses"] = list(self.history), list(self.losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore history and losses together with the weights."""
        self.history = list(checkpoint["history"])
        self.losses = list(checkpoint.get("losses", []))  # which older ones lack

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its learning rate with warm-up and cosine per step.

        Raises:
            ValueError: the warm-up does not end before the last epoch.
        """
        self.steps, epochs = (
            int(self.trainer.estimated_stepping_batches),
            self.trainer.max_epochs or 1,
        )
        if self.warmup_epochs and self.warmup_epochs >= epochs:
            raise invalid("warmup_epochs", f"fewer than max_epochs = {epochs}", self.warmup_epochs)
        warmup = self.steps * self.warmup_epochs // epochs
        optimizer = build_optimizer(self, self.optimizer, self.lr, self.momentum, self.weight_decay)
        schedule = warmup_cosine(optimizer, self.steps, warmup)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class MomentumMethod(Method):
    """A method whose keys come from a copy of encoder and head that follows them slowly.

    Batch norms of the copy keep running statistics of their own.

    Args:
        encoder, head, loss, augment, training: arguments of `Method`.

    Source: He et al. (2020), section 3.2.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        loss: Loss,
        augment: nn.Module,
        **training: Any,
    ) -> None:
        super().__init__(encoder, head, loss, augment, **training)
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(head).requires_grad_(False)

    def key(self, view: torch.Tensor) -> torch.Tensor:
        """Keys (N, d) of a view (N, C, H, W)."""
        return self.key_head(self.key_encoder(view))

    @torch.no_grad()
    def follow(self, momentum: float | torch.Tensor) -> None:
        """theta_key <- momentum theta_key + (1 - momentum) theta_query.

        Args:
            momentum: momentum in [0, 1]; a number, or in a compiled step an array of no dimension.
        """
        slow: list[torch.Tensor] = [*self.key_encoder.parameters(), *self.key_head.parameters()]
        fast: list[torch.Tensor] = [*self.encoder.parameters(), *self.head.parameters()]
        rest = 1.0 - momentum
        if isinstance(rest, float):
            torch._foreach_lerp_(slow, fast, rest)
        else:
            torch._foreach_lerp_(slow, fast, [rest] * len(slow))
