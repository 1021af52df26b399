"""Episodes that end inside a rollout, as in recurrent PPO: one call in place of a loop over time.

A rollout of T steps in B environments comes with `episode_starts`, (T, B). Where it is True, the
state must be zero before the step. For this, libraries for reinforcement learning loop over the
steps; here the whole rollout is one call with `reset_mask`. The example times both, forward and
backward, and the call without a mask.

    python examples/resets_rollout.py [--quick] [--out DIR]

It prints the ratio of the medians and, with --out, writes it to a file there.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from stateful_lstm import StatefulLSTM

SIZES = 128, 16, 64, 256  # T steps, B environments, size of an observation, H
QUICK = 64, 8, 32, 64
EPISODE = 50  # mean length in steps

Result = list[Tensor]  # the output, then the gradients of input, hx and weights


def step_by_step(
    lstm: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, starts: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The usual loop: zero the state where an episode starts, then one step."""
    outputs = []
    for t in range(len(x)):
        keep = (~starts[t]).to(x.dtype).view(1, -1, 1)
        output, (h, c) = lstm(x[t : t + 1], (keep * h, keep * c))
        outputs.append(output)
    return torch.cat(outputs), (h, c)


def differentiate(
    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, object]],
    weights: list[nn.Parameter],
    inputs: Result,
    towards: Tensor,
) -> Result:
    """Runs forward and backward; `towards` is the gradient of the output."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output, _ = forward(leaves[0], leaves[1], leaves[2])
    return [output.detach(), *torch.autograd.grad(output, [*leaves, *weights], towards)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Episode starts inside a rollout")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the figures there")
    options = parser.parse_args()

    T, B, observation, H = QUICK if options.quick else SIZES
    torch.manual_seed(0)
    starts = torch.rand(T, B) < 1 / EPISODE
    towards = torch.randn(T, B, H)
    inputs = [torch.randn(T, B, observation), torch.randn(1, B, H), torch.randn(1, B, H)]
    loop_lstm = nn.LSTM(observation, H)
    ours = StatefulLSTM(observation, H, stateful=False)
    ours.load_state_dict(loop_lstm.state_dict())

    def loop() -> Result:
        return differentiate(
            lambda x, h, c: step_by_step(loop_lstm, x, h, c, starts),
            list(loop_lstm.parameters()),
            inputs,
            towards,
        )

    def one_call() -> Result:
        return differentiate(
            lambda x, h, c: ours(x, (h, c), reset_mask=starts),
            list(ours.parameters()),
            inputs,
            towards,
        )

    def no_mask() -> Result:
        return differentiate(
            lambda x, h, c: ours(x, (h, c)), list(ours.parameters()), inputs, towards
        )

    # The truth is the loop in double precision; one call may err about as much as the float32 loop.
    exact_lstm = nn.LSTM(observation, H, dtype=torch.float64)
    exact_lstm.load_state_dict(loop_lstm.state_dict())
    exact = differentiate(
        lambda x, h, c: step_by_step(exact_lstm, x, h, c, starts),
        list(exact_lstm.parameters()),
        [tensor.double() for tensor in inputs],
        towards.double(),
    )
    names = ["output", "d input", "d h0", "d c0", *(f"d {n}" for n, _ in ours.named_parameters())]
    print(f"{int(starts.sum())} episode starts in {T} steps of {B} environments\n")
    print(f"{'largest error':<16}{'loop':>10}{'one call':>10}")
    for name, truth, looped, called in zip(names, exact, loop(), one_call(), strict=True):
        loop_error = float((looped - truth).abs().max())
        call_error = float((called - truth).abs().max())
        print(f"{name:<16}{loop_error:>10.1e}{call_error:>10.1e}")
        assert call_error <= 4 * loop_error, f"{name} differs by more than rounding"

    # The runs take turns in one process, so that noise of the machine reaches all of them.
    runs = {"loop": loop, "one call": one_call, "no mask": no_mask}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(-2, 9 if options.quick else 15):
        order = list(runs.items())  # alternating order: a run inherits the caches of the last run
        for name, run in order if repetition % 2 else order[::-1]:
            began = time.perf_counter()
            run()
            if repetition >= 0:  # the first two are a warm-up
                seconds[name].append(time.perf_counter() - began)
    medians = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    ratio, unmasked = (medians[name] / medians["one call"] for name in ("loop", "no mask"))
    print(f"\nforward and backward, T={T} B={B} H={H}, {torch.get_num_threads()} threads, medians:")
    print(f"  loop over nn.LSTM      {medians['loop']:8.1f} ms")
    print(f"  one call, reset_mask   {medians['one call']:8.1f} ms   {ratio:.1f} times faster")
    print(f"  one call, no mask      {medians['no mask']:8.1f} ms   {unmasked:.2f} of that")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / "resets_rollout.json"
        file.write_text(json.dumps({"milliseconds": medians, "ratio": ratio}, indent=1) + "\n")
        print(file)


if __name__ == "__main__":
    main()
