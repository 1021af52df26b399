"""Sequences of different lengths in one training set: buckets, padding, and a loss without padding.

bucket_by_length groups sequences of about the same length; Window.pad makes a window from a batch,
and marks the padding by `lengths` and `target_mask`: padding changes no state and adds no loss.

The task: sequences of 0 and 1; at every step the target is the parity of the ones so far.

    python examples/variable_lengths.py [--quick] [--out DIR]
"""

import matplotlib.pyplot as plt
import torch
from _common import options, save
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from stateful_lstm import StatefulLSTM
from stateful_lstm.data import Window, bucket_by_length
from stateful_lstm.training import Trainer

COUNT, BATCH = 600, 32


class Sequences(Dataset[Tensor]):
    def __init__(self, bits: list[Tensor]) -> None:
        self.bits = bits

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, k: int) -> Tensor:
        return self.bits[k]


class Parity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = StatefulLSTM(1, 24, stateful=False)
        self.head = nn.Linear(24, 2)

    def forward(
        self, x: Tensor, reset_mask: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        y, _ = self.lstm(x, reset_mask=reset_mask, lengths=lengths)
        out: Tensor = self.head(y)
        return out


def collate(batch: list[Tensor]) -> Window:
    parity = [(bits.cumsum(0) % 2).long() for bits in batch]
    return Window.pad([bits.unsqueeze(1) for bits in batch], parity)


def padding(batches: list[list[int]], lengths: list[int]) -> float:
    """The share of padding among all steps."""
    padded = sum(len(batch) * max(lengths[k] for k in batch) for batch in batches)
    return 1 - sum(lengths[k] for batch in batches for k in batch) / padded


def main() -> None:
    settings = options("Sequences of different lengths", "fewer epochs")
    torch.manual_seed(0)
    lengths = torch.randint(1, 60, (COUNT,)).tolist()
    data = Sequences([torch.randint(0, 2, (n,)).float() for n in lengths])

    batches = bucket_by_length(lengths, BATCH, shuffle=True)
    unsorted = [list(range(k, min(k + BATCH, COUNT))) for k in range(0, COUNT, BATCH)]
    parts = padding(batches, lengths), padding(unsorted, lengths)
    print(
        f"padding: {parts[0]:.1%} of all steps in buckets, {parts[1]:.1%} in batches as they come"
    )

    # The loss equals the loss of each sequence alone, without padding.
    model = Parity()
    window = collate([data[k] for k in batches[0]])
    together = model(window.input, window.reset_mask, window.lengths)[window.target_mask]
    alone = torch.cat([model(data[k].view(-1, 1, 1)).squeeze(1) for k in batches[0]])
    targets = torch.cat([(data[k].cumsum(0) % 2).long() for k in batches[0]])
    loss = nn.functional.cross_entropy
    assert_close(loss(together, window.target[window.target_mask]), loss(alone, targets))

    trainer = Trainer(
        model, torch.optim.Adam(model.parameters(), 1e-2), nn.CrossEntropyLoss(), clip_grad_norm=1.0
    )
    losses: list[float] = []
    for epoch in range(20 if settings.quick else 40):
        batches = bucket_by_length(lengths, BATCH, shuffle=True, seed=epoch)
        loader = DataLoader(data, batch_sampler=batches, collate_fn=collate)
        losses += trainer.fit(loader, progress=False)
    print(f"cross entropy: {losses[0]:.3f} in the first epoch, {losses[-1]:.4f} in the last")

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.semilogy(range(1, len(losses) + 1), losses, color="#1f6fb4")
    axes.set(
        title="Odd or even? Sequences of 1 to 59 steps", xlabel="epoch", ylabel="cross entropy"
    )
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, settings.out, "variable_lengths.png")
    assert losses[-1] < losses[0] / 2


if __name__ == "__main__":
    main()
