"""SimCLR (Chen et al. 2020) with any encoder and any contrastive loss, read top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import nn

from fmicl_lightning.augment import as_float, standardise
from fmicl_recipes.evaluation import spread
from fmicl_recipes.runs import NonFiniteLossError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class SimCLR(lightning.LightningModule):
    """Two random views of every image, one encoder, a projection head, a loss on the projections.

    Args:
        encoder: any module from images (N, C, H, W) to features (N, F).
        feature_dim: F.
        loss: from projections x, y (N, d) to a scalar, such as `fmicl_torch.FMICLLoss()`.
        augment: from float images in [0, 1] to one random view of each.
        projection_hidden: width of the head's two hidden layers.
        projection_dim: d.
        optimizer: "sgd" or "adamw".
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: of weights; norms and biases have none.
        warmup_epochs: epochs of linear warm-up, followed by a cosine down to 0.
        seed: every step draws its random numbers from (seed, step), so that a run that stopped goes
            on exactly as if it had not.

    Raises:
        NonFiniteLossError: the loss or a weight is not finite; the message says at which step.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        loss: Loss,
        augment: nn.Module,
        *,
        projection_hidden: int = 512,
        projection_dim: int = 512,
        optimizer: str = "sgd",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        warmup_epochs: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.loss, self.augment = encoder, loss, augment
        self.head = projection_head(feature_dim, projection_hidden, projection_dim)
        self.optimizer, self.lr, self.momentum = optimizer, lr, momentum
        self.weight_decay, self.warmup_epochs, self.seed = weight_decay, warmup_epochs, seed
        self.history: list[dict[str, float]] = []
        self.last_views: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images (N, H, W, C) to the encoder's features (N, F)."""
        return self.encoder(standardise(as_float(images)))

    def two_views(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 images (N, H, W, C) to the projections (N, d) of two random views of each."""
        with torch.autocast(images.device.type, enabled=False):
            floats = as_float(images)
            views = standardise(torch.cat([self.augment(floats), self.augment(floats)]))
        x, y = self.head(self.encoder(views)).chunk(2)
        return x, y

    def training_step(self, images: torch.Tensor) -> torch.Tensor:
        """Loss of one batch of uint8 images (N, H, W, C)."""
        x, y = self.two_views(images)
        loss = self.loss(x.float(), y.float())
        if not torch.isfinite(loss):
            raise NonFiniteLossError.at(loss.item(), self.global_step, self.current_epoch + 1)
        self.last_views = x.detach(), y.detach()
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(images))
        return loss

    def on_train_batch_start(self, batch: torch.Tensor, batch_idx: int) -> None:
        """Draw this step's augmentation from (seed, step) alone."""
        torch.manual_seed(self.seed * 1_000_003 + self.global_step)

    def on_train_epoch_end(self) -> None:
        """Log how aligned, uniform and spread out the last batch is; refuse broken weights."""
        if not all(p.isfinite().all() for p in self.parameters()):
            raise NonFiniteLossError.weights(self.global_step)
        assert self.last_views is not None
        x, y = (view.float().cpu().numpy() for view in self.last_views)
        row = spread(x, y)
        self.log_dict(row)
        loss = float(self.trainer.callback_metrics["loss_epoch"])
        epoch = self.current_epoch + 1
        self.history.append({"epoch": epoch, "step": self.global_step, "loss": loss, **row})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights it led to."""
        checkpoint["history"] = list(self.history)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up where the weights are."""
        self.history = list(checkpoint["history"])

    def configure_optimizers(self) -> dict[str, Any]:
        """SGD or AdamW with warm-up and cosine per step."""
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1]},
            {"params": [p for p in self.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        rest: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        optimizer = (
            torch.optim.SGD(groups, momentum=self.momentum, **rest)
            if self.optimizer == "sgd"
            else torch.optim.AdamW(groups, **rest)
        )
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = steps * self.warmup_epochs // (self.trainer.max_epochs or 1)
        schedule: torch.optim.lr_scheduler.LRScheduler
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup)
        if warmup:
            ramp = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0 / warmup, total_iters=warmup)
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [ramp, schedule], [warmup])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def projection_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three layers, F to d, batch norm after each but the last (Lu et al. 2023)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip
