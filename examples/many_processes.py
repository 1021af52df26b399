"""Two processes train together: each has its own rows and states; the weights are the same.

    torchrun --nproc-per-node 2 examples/many_processes.py [--quick] [--out DIR]

At the end it checks that the states differ and the weights do not. With plain python, it starts its
two processes itself. Then one process with all rows continues from their checkpoint, written in the
middle of an epoch, and ends with the same weights.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from _common import options
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stateful_lstm import StatefulLSTM
from stateful_lstm.data import ContinuousBatches
from stateful_lstm.training import Trainer

ROWS = 4  # of all processes together


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(1, 16)
        self.head = nn.Linear(16, 1)

    def forward(
        self, x: Tensor, reset_mask: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        y, _ = self.lstm(x, reset_mask=reset_mask, lengths=lengths)
        out: Tensor = self.head(y)
        return out


def waves() -> list[Tensor]:
    return [
        torch.sin(torch.arange(150.0 + 30 * k) * (0.1 + 0.05 * k)).unsqueeze(1) for k in range(8)
    ]


def make_trainer(model: nn.Module) -> Trainer:
    return Trainer(model, torch.optim.Adam(model.parameters(), 1e-2), nn.MSELoss())


def together(checkpoint: Path, epochs: int) -> None:
    """The work of each process."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = Model()
    trainer = make_trainer(DistributedDataParallel(model))
    windows = ContinuousBatches(waves(), ROWS // ranks, 20, rank=rank, world_size=ranks)
    middle = len(windows) * (epochs - 1) + len(windows) // 2

    def save(each: Trainer) -> None:
        if each.updates == middle:
            each.save(checkpoint)

    history = trainer.fit(windows, epochs, progress=False, callback=save)

    weights, state = model.head.weight.detach(), model.lstm.state
    assert state is not None
    everyone = [[torch.empty_like(t) for _ in range(ranks)] for t in (weights, state.h)]
    dist.all_gather(everyone[0], weights)
    dist.all_gather(everyone[1], state.h)
    assert all(torch.equal(each, weights) for each in everyone[0])
    assert ranks == 1 or not torch.equal(everyone[1][0], everyone[1][-1])
    if rank == 0:
        torch.save(model.state_dict(), weights_of(checkpoint))
        print(f"{ranks} processes: loss {history[0]:.4f}, after {epochs} epochs {history[-1]:.4f}")
        print("their weights are equal, their states are their own")


def weights_of(checkpoint: Path) -> Path:
    """The file of the final weights of the processes."""
    return checkpoint.with_name("many_processes.weights.pt")


def alone(checkpoint: Path, epochs: int) -> None:
    """One process with all rows continues from the checkpoint of the others."""
    model = Model()
    trainer = make_trainer(model)
    trainer.load(checkpoint)
    windows = ContinuousBatches(waves(), ROWS, 20)
    assert model.lstm.state is not None and model.lstm.state.slots == ROWS
    assert model.lstm.state.h.any() and trainer.position["window"] > 0
    history = trainer.fit(windows, epochs, progress=False)
    print(f"one process with all rows continues from the middle: loss {history[-1]:.4f}")
    for name, weight in torch.load(weights_of(checkpoint)).items():
        torch.testing.assert_close(model.state_dict()[name], weight, atol=1e-4, rtol=1e-3)
    print("and ends with the same weights as the two")


def main() -> None:
    settings = options("Two processes", "fewer epochs")
    epochs = 3 if settings.quick else 20
    settings.out.mkdir(parents=True, exist_ok=True)
    checkpoint = settings.out / "many_processes.checkpoint"
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        together(checkpoint, epochs)
        # The model no longer exists: otherwise the group could wait for it forever.
        dist.destroy_process_group()
        return
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    # One thread per process, so that the processes do not compete for cores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launcher, *sys.argv], check=True, env=environment)
    alone(checkpoint, epochs)


if __name__ == "__main__":
    main()
