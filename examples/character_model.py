"""A character model trained on short windows, with and without its state carried between them.

Truncated back-propagation cuts a long text into windows of 16 characters. A layer that drops its
state at each cut guesses the first characters of every window from nothing; a layer that carries
its state knows the text before. Both models here have the same size, seed and order of windows.

    python examples/character_model.py [--quick] [--updates N] [--seed N] [--out DIR]

It trains both, compares them on text that neither has seen, compares the speed with `nn.LSTM`
trained on the same windows, lets the model write, and writes a table, a plot and the text to DIR.
The exit status is 1 if the carried state does not give the lower loss.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _character_report import Result, Speed, draw, table, write
from _character_text import Text, Windows, load_text
from torch import Tensor, nn
from tqdm import tqdm

from stateful_lstm import StatefulLSTM, preserve_state, reset_state

WINDOW, BATCH = 16, 32
EMBEDDING, HIDDEN = 64, 192
UPDATES = 5000
RATE, WARM_UP, CLIP = 8e-3, 100, 1.0
REDRAW = 0.2 if sys.stderr.isatty() else 10  # seconds; a log file needs no animation

Hidden = tuple[Tensor, Tensor]


class CharacterModel(nn.Module):
    """From characters to scores of the next character, with either kind of LSTM."""

    def __init__(self, characters: int, lstm: StatefulLSTM | nn.LSTM) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, EMBEDDING)
        self.lstm = lstm
        self.scores = nn.Linear(HIDDEN, characters)

    def forward(
        self, text: Tensor, hx: Hidden | None = None, **extras: Any
    ) -> tuple[Tensor, Hidden]:
        output, hx = self.lstm(self.embedding(text), hx, **extras)
        return self.scores(output), hx


def new_model(text: Text, seed: int, kind: str) -> CharacterModel:
    """The same seed gives the same weights for each kind: carried, fresh or nn.LSTM."""
    torch.manual_seed(seed)
    if kind == "nn.LSTM":
        return CharacterModel(len(text.alphabet), nn.LSTM(EMBEDDING, HIDDEN))
    return CharacterModel(
        len(text.alphabet), StatefulLSTM(EMBEDDING, HIDDEN, stateful=kind == "carried")
    )


class Training:
    """Trains one model on the text, pass after pass, one window per update."""

    def __init__(self, model: CharacterModel, windows: Windows, updates: int) -> None:
        self.model, self.windows = model, windows
        self.done = 0
        self.hx: Hidden | None = None  # only for nn.LSTM, which keeps no state
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda i: min(1, (i + 1) / WARM_UP) * (1 + math.cos(math.pi * min(1, i / updates))) / 2,
        )

    def update(self) -> float:
        """One update; returns the loss in bits per character."""
        k = self.done % len(self.windows)
        if k == 0:  # the start of the text
            reset_state(self.model)
            self.hx = None
        inputs, targets = self.windows[k]
        scores, (h, c) = self.model(inputs, self.hx)
        if not isinstance(self.model.lstm, StatefulLSTM):
            self.hx = h.detach(), c.detach()
        loss = F.cross_entropy(scores.flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1
        return loss.item() / math.log(2)


def train(name: str, training: Training, updates: int) -> list[float]:
    losses = []
    per_update = WINDOW * BATCH
    with tqdm(
        total=updates * per_update, desc=name, unit="char", unit_scale=True, mininterval=REDRAW
    ) as bar:
        for _ in range(updates):
            losses.append(training.update())
            bar.set_postfix_str(f"{statistics.fmean(losses[-50:]):.2f} bits/char", refresh=False)
            bar.update(per_update)
    return losses


@torch.no_grad()
def bits_by_position(model: CharacterModel, windows: Windows) -> list[float]:
    """Bits per character at each place in the window, with the state handled as in training."""
    total = torch.zeros(WINDOW, dtype=torch.float64)
    with preserve_state(model):  # on exit the training state is restored
        reset_state(model)
        for inputs, targets in windows:
            scores, _ = model(inputs)
            bits = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
            total += bits.view(WINDOW, BATCH).mean(1) / math.log(2)
    return [float(bits) for bits in total / len(windows)]


@torch.no_grad()
def generate(model: CharacterModel, text: Text, prompt: str, length: int, seed: int) -> str:
    """Samples text one character at a time: T = 1, B = 1, and the layer keeps the state."""
    generator = torch.Generator().manual_seed(seed)
    lstm, hx, extras = model.lstm, None, {}
    if isinstance(lstm, StatefulLSTM):
        extras = {"state": lstm.new_state(1)}  # separate from the 32 rows of training
    written = text.encode(prompt).tolist()
    scores = torch.empty(0)
    for i in range(len(prompt) + length):
        if i >= len(prompt):
            sharper = scores.flatten() / 0.7
            written.append(int(torch.multinomial(sharper.softmax(0), 1, generator=generator)))
        scores, final = model(torch.tensor([[written[i]]]), hx, **extras)
        if not extras:
            hx = final
    return text.decode(written)


def compare(
    name: str, ours: Callable[[], object], peer: Callable[[], object], characters: int, blocks: int
) -> Speed:
    """Times both in one process, in short alternating blocks, so that noise reaches both."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    bar = tqdm(range(-2, blocks), desc=f"speed of {name}", unit="block", mininterval=REDRAW)
    for block in bar:
        # The order alternates: a, b, then b, a. The first two blocks are a warm-up.
        for is_ours in (block % 2 == 0, block % 2 == 1):
            start = time.perf_counter()
            (ours if is_ours else peer)()
            if block >= 0:
                seconds[is_ours].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(seconds[True], seconds[False], strict=True)]
    return Speed(
        ours=characters / statistics.median(seconds[True]),
        nn_lstm=characters / statistics.median(seconds[False]),
        ratio=statistics.median(ratios),
        ratios=ratios,
    )


def measure_speed(text: Text, windows: Windows, seed: int, quick: bool) -> dict[str, Speed]:
    blocks, updates, letters = (2, 2, 20) if quick else (20, 15, 200)
    pair = [new_model(text, seed, kind) for kind in ("carried", "nn.LSTM")]
    ours, peer = (Training(model, windows, 100 * blocks * updates) for model in pair)
    training = compare(
        "training",
        lambda: [ours.update() for _ in range(updates)],
        lambda: [peer.update() for _ in range(updates)],
        updates * WINDOW * BATCH,
        blocks,
    )
    writing = compare(
        "writing",
        lambda: generate(pair[0], text, "T", letters, seed),
        lambda: generate(pair[1], text, "T", letters, seed),
        letters,
        blocks,
    )
    return {"training": training, "writing": writing}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--updates", type=int, help=f"for each of the two runs ({UPDATES})")
    parser.add_argument("--quick", action="store_true", help="a few seconds; proves nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR")
    options = parser.parse_args()
    if options.updates is None:
        options.updates = 40 if options.quick else UPDATES
    if options.updates < 1:
        parser.error("--updates must be at least 1")
    return options


def main() -> None:
    options = arguments()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(2, torch.get_num_threads()))
    began = time.perf_counter()
    text = load_text()
    training_text = Windows(text.training, BATCH, WINDOW)
    held_out_text = Windows(text.held_out, BATCH, WINDOW)
    print(
        f"Python's help pages: {len(text.training):,} characters to train on, "
        f"{len(text.held_out):,} held out, {len(text.alphabet)} different ones; "
        f"{torch.get_num_threads()} threads"
    )

    results = {}
    for kind, name in (("carried", "state carried"), ("fresh", "state dropped")):
        model = new_model(text, options.seed, kind)
        start = time.perf_counter()
        losses = train(name, Training(model, training_text, options.updates), options.updates)
        seconds = time.perf_counter() - start
        results[kind] = Result(losses, bits_by_position(model, held_out_text), seconds)
        if kind == "carried":
            sample = generate(model, text, "The ", 600, options.seed)
    speeds = measure_speed(text, training_text, options.seed, options.quick)

    carried, fresh = results["carried"], results["fresh"]
    seconds = time.perf_counter() - began
    summary = table(carried, fresh, speeds, options.updates, seconds)
    print(f"\n{summary}\n\nWritten by the model, character by character:\n\n{sample}\n")
    settings = {
        "updates": options.updates,
        "seed": options.seed,
        "window": WINDOW,
        "batch": BATCH,
        "hidden": HIDDEN,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": seconds,
    }
    write(options.out, summary, sample, carried, fresh, speeds, settings)
    draw(options.out / "character_model.png", carried, fresh)
    for file in ("character_model.png", "table.txt", "figures.json", "sample.txt"):
        print(options.out / file)

    if not (options.quick or carried.held_out < fresh.held_out):  # NaN fails too
        sys.exit(
            f"Expected a lower loss with the carried state, got {carried.held_out:.3f} bits per "
            f"character, against {fresh.held_out:.3f} without (after {options.updates} updates)."
        )


if __name__ == "__main__":
    main()
