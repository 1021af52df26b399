"""A toy streaming server: streams come and go, and one layer has a slot for each.

Streams start and end at random. At every tick some of the live streams have an input, in random
order; they form a batch, padded with -1 to a fixed size. START is a True in `reset_mask`; END frees
the slot for the next stream. At the end the example runs every stream alone through nn.LSTM, and
checks that the outputs are the same.

    python examples/streaming_slots.py [--quick] [--out DIR]

It prints steps per second, and plots the slot of each stream.
"""

import random
import time
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import torch
from _common import arguments, save
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.testing import assert_close

from stateful_lstm import StatefulLSTM

SLOTS, BATCH = 16, 8
FEATURES, HIDDEN, LAYERS = 24, 64, 2
ARRIVAL = 0.45  # the probability of a new stream at a tick


@dataclass(eq=False)
class Stream:
    inputs: Tensor  # (steps, FEATURES)
    slot: int
    opened: int  # the tick of START, and of END
    closed: int = -1
    ticks: list[int] = field(default_factory=list)  # its ticks in a batch
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def position(self) -> int:
        return len(self.outputs)


class Server:
    """Runs batches of streams through one layer; the layer's slots hold all states."""

    def __init__(self, lstm: StatefulLSTM) -> None:
        self.lstm = lstm
        self.lstm.allocate_state(SLOTS)
        self.seconds = 0.0

    @torch.no_grad()
    def step(self, streams: list[Stream]) -> None:
        x = torch.randn(1, BATCH, FEATURES)  # the values of padding rows must not matter
        slots = torch.full((BATCH,), -1)
        starts = torch.zeros(1, BATCH, dtype=torch.bool)
        for row, stream in enumerate(streams):
            x[0, row] = stream.inputs[stream.position]
            slots[row] = stream.slot
            starts[0, row] = stream.position == 0

        began = time.perf_counter()
        output, _ = self.lstm(x, state_indices=slots, reset_mask=starts)
        self.seconds += time.perf_counter() - began

        assert not output[0, len(streams) :].any(), "a padding row has an output"
        for row, stream in enumerate(streams):
            stream.outputs.append(output[0, row].clone())


def serve(lstm: StatefulLSTM, ticks: int) -> tuple[list[Stream], Server]:
    """Random traffic. Returns every stream that ever was."""
    server = Server(lstm)
    free, live, gone = list(range(SLOTS)), list[Stream](), list[Stream]()
    for tick in range(ticks):
        if free and random.random() < ARRIVAL:
            inputs = torch.randn(random.randint(1, 30), FEATURES)
            live.append(Stream(inputs, free.pop(random.randrange(len(free))), opened=tick))
        ready = random.sample(live, random.randint(0, min(BATCH, len(live))))
        server.step(ready)
        for stream in ready:
            stream.ticks.append(tick)
            if stream.position == len(stream.inputs):
                stream.closed = tick
                free.append(stream.slot)
                live.remove(stream)
                gone.append(stream)
    return gone + live, server


def check(streams: list[Stream], alone: nn.LSTM) -> None:
    for stream in streams:
        if stream.outputs:
            with torch.no_grad():
                expected, _ = alone(stream.inputs[: stream.position])
            assert_close(torch.stack(stream.outputs), expected)


def draw(streams: list[Stream], ticks: int) -> Figure:
    """Plots a bar for every stream, from START to END, and a dot for each of its steps."""
    figure, axes = plt.subplots(figsize=(11, 4.2), layout="constrained")
    shades = ["#9ecae1", "#fdd0a2", "#c7e9c0", "#dadaeb"]
    shown = [stream for stream in streams if stream.opened < ticks]
    shown.sort(key=lambda stream: stream.opened)
    for number, stream in enumerate(shown):
        end = ticks if stream.closed < 0 else min(ticks, stream.closed + 1)
        axes.barh(
            stream.slot,
            end - stream.opened,
            left=stream.opened,
            height=0.8,
            edgecolor="white",
            color=shades[number % len(shades)],
        )
    dots = [(tick + 0.5, s.slot) for s in shown for tick in s.ticks if tick < ticks]
    axes.plot(*zip(*dots, strict=True), ".", color="#333333", ms=3)
    axes.set(
        title="Which stream sat in which slot (a bar), and when it was in the batch (a dot)",
        xlabel="tick",
        ylabel="slot",
        xlim=(0, ticks),
        ylim=(SLOTS - 0.5, -0.5),
        yticks=range(0, SLOTS, 3),
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    options = arguments("Many streams through one layer", "fewer ticks")
    ticks = 200 if options.quick else 5000

    random.seed(0)
    torch.manual_seed(0)
    alone = nn.LSTM(FEATURES, HIDDEN, LAYERS)
    lstm = StatefulLSTM(FEATURES, HIDDEN, LAYERS)
    lstm.load_state_dict(alone.state_dict())

    streams, server = serve(lstm, ticks)
    check(streams, alone)
    steps = sum(stream.position for stream in streams)
    print(f"{len(streams)} streams took turns in {SLOTS} slots, at most {BATCH} in a batch")
    print(f"{steps} steps: the outputs are those of each stream alone")
    print(
        f"{steps / server.seconds:,.0f} steps per second, "
        f"{1e6 * server.seconds / ticks:.0f} microseconds a batch"
    )
    save(draw(streams, min(ticks, 160)), options.out, "streaming_slots.png")


if __name__ == "__main__":
    main()
