"""A small model, its data and its trainer, for the tests of training."""

import torch
from torch import nn

from stateful_lstm import StatefulLSTM
from stateful_lstm.data import ContinuousBatches
from stateful_lstm.training import Trainer, states


class Net(nn.Module):
    """Two layers and a head. With its dropout, a resumed run needs the random generators too."""

    def __init__(self, features=3, hidden=8, dropout=0.3):
        super().__init__()
        self.lstm = StatefulLSTM(features, hidden, num_layers=2, dropout=dropout)
        self.head = nn.Linear(hidden, features)

    def forward(self, x, reset_mask=None, lengths=None):
        y, _ = self.lstm(x, reset_mask=reset_mask, lengths=lengths)
        return self.head(y)


def sequences(count=7, features=3, seed=1):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (count,), generator=random).tolist()
    return [torch.randn(n, features, generator=random) for n in lengths]


def make_data(dtype=torch.float32, **changes):
    shape = {"batch_size": 2, "window": 5, "shuffle": True, **changes}
    return ContinuousBatches([s.to(dtype) for s in sequences()], **shape)


def make_trainer(model=None, seed=0, **options):
    torch.manual_seed(seed)
    model = Net() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    options.setdefault("scheduler", torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999))
    return Trainer(model, optimizer, nn.MSELoss(), clip_grad_norm=1.0, **options)


def everything(trainer):
    """Everything that training changes, as one flat list of tensors."""
    optimizer = trainer.optimizer.state_dict()["state"]
    return [
        *trainer.model.state_dict().values(),
        *(t for _, state in sorted(optimizer.items()) for _, t in sorted(state.items())),
        *(t for _, pair in sorted(states.read(trainer.model).items()) for t in pair),
        torch.get_rng_state(),
        torch.tensor([group["lr"] for group in trainer.optimizer.param_groups]),
        torch.tensor(trainer.updates),
    ]


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))
