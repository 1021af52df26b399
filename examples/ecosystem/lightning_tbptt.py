"""Truncated back-propagation with Lightning, which removed its own support in 2.0.

`ContinuousBatches` cuts long sequences into windows, where each row continues in the next window,
and the layer keeps its state from one training step to the next: no code splits, carries or
detaches states. A callback connects the state with Lightning: validation, test and prediction do
not change it, and a checkpoint contains it, so that a fit continues exactly.

    python examples/ecosystem/lightning_tbptt.py [--quick] [--out DIR]

It needs Lightning: pip install lightning.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

import stateful_lstm
from stateful_lstm import StatefulLSTM
from stateful_lstm.data import ContinuousBatches, Window

ROWS, WINDOW = 8, 10


class ResidentState(lightning.Callback):
    """Preserves states during validation, test and prediction, and saves them in checkpoints."""

    def __init__(self) -> None:
        self.kept = ExitStack()
        self.loaded: dict[str, Any] | None = None

    def begin(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.kept.enter_context(stateful_lstm.preserve_state(pl_module))
        stateful_lstm.reset_state(pl_module)

    def end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.kept.close()

    on_validation_start = on_test_start = on_predict_start = begin
    on_validation_end = on_test_end = on_predict_end = end

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self.kept.close()

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        checkpoint["resident_state"] = stateful_lstm.get_state(pl_module)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        if trainer.state.fn == "fit":  # validation, test and prediction begin at zero
            self.loaded = checkpoint.get("resident_state")

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if self.loaded is not None:  # here the layers are on their device already
            stateful_lstm.set_state(pl_module, self.loaded)
            self.loaded = None


class Answers(lightning.LightningModule):
    """Answers at every step. Its code does not know about windows."""

    def __init__(self, stateful: bool = True) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(2, 16, stateful=stateful, unit_forget_bias=True)
        self.head = nn.Linear(16, 1)

    def loss(self, window: Window) -> Tensor:
        y, _ = self.lstm(window.input, reset_mask=window.reset_mask, lengths=window.lengths)
        error: Tensor = self.head(y) - window.target
        return error[window.target_mask].square().mean()

    def training_step(self, window: Window, batch_idx: int) -> Tensor:
        loss = self.loss(window)
        self.log("train_loss", loss, batch_size=ROWS)
        return loss

    def validation_step(self, window: Window, batch_idx: int) -> None:
        self.log("val_loss", self.loss(window), batch_size=ROWS, prog_bar=True)

    def test_step(self, window: Window, batch_idx: int) -> None:
        self.log("test_loss", self.loss(window), batch_size=ROWS)

    def predict_step(self, window: Window, batch_idx: int) -> Tensor:
        y, _ = self.lstm(window.input, reset_mask=window.reset_mask, lengths=window.lengths)
        answers: Tensor = self.head(y)
        return answers

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def keys(count: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Sequences whose first step contains a key, +1 or -1; the key is the target at every step."""
    random = torch.Generator().manual_seed(seed)
    sequences, targets = [], []
    for length in torch.randint(30, 120, (count,), generator=random).tolist():
        key = 2.0 * torch.randint(2, (1,), generator=random) - 1.0
        x = torch.randn(length, 2, generator=random)
        x[:, 0] = 0
        x[0, 0] = key
        sequences.append(x)
        targets.append(key.expand(length, 1).clone())
    return sequences, targets


def windows(count: int, seed: int, shuffle: bool = False) -> ContinuousBatches:
    sequences, targets = keys(count, seed)
    return ContinuousBatches(sequences, ROWS, WINDOW, targets, shuffle=shuffle)


def make_trainer(epochs: int, **options: Any) -> lightning.Trainer:
    """A quiet trainer on the CPU: a small net is not faster on a GPU."""
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[ResidentState()],
        gradient_clip_val=1.0,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **{"enable_checkpointing": False, **options},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Truncated back-propagation with Lightning")
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    parser.add_argument("--out", type=Path, default=Path("build/examples"), metavar="DIR")
    options = parser.parse_args()
    epochs = 25 if options.quick else 30
    torch.set_num_threads(1)

    losses = {}
    for stateful in (True, False):
        lightning.seed_everything(0, verbose=False)
        model = Answers(stateful)
        trainer = make_trainer(epochs)
        # Lightning accepts any iterable as a loader, and resumes it at its position if it has one.
        trainer.fit(model, windows(32, seed=1, shuffle=True), windows(16, seed=2))
        losses[stateful] = float(trainer.callback_metrics["val_loss"])
        if stateful:
            options.out.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(options.out / "lightning_tbptt.ckpt")
            print(options.out / "lightning_tbptt.ckpt")
    print(f"sequences of 30 to 120 steps in windows of {WINDOW}")
    print(f"validation loss with the state: {losses[True]:.3f}, without: {losses[False]:.3f}")
    assert losses[True] < losses[False] / 2


if __name__ == "__main__":
    main()
