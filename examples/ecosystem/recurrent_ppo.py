"""SB3-contrib's RecurrentPPO with one call in place of its loop over time.

RecurrentPPO's policy loops over single steps to reset the state where an episode starts.
`OneCallPolicy` passes the starts to the layer as `reset_mask` instead. Both train from the same
seed on a cart pole with hidden velocities, and the example times an update of each.

    python examples/ecosystem/recurrent_ppo.py [--quick] [--out DIR]

It needs SB3-contrib: pip install sb3-contrib.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.ppo_recurrent import MlpLstmPolicy
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

import stateful_lstm

States = tuple[Tensor, Tensor]


class OneCallPolicy(MlpLstmPolicy):
    """The policy passes the states itself, so the layers keep no state."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        stateful_lstm.convert(self, stateful=False)  # the optimizer's parameters stay the same

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: States, episode_starts: Tensor, lstm: nn.Module
    ) -> tuple[Tensor, States]:
        """Features come sequence after sequence; the layer takes and returns (T, B, ...)."""
        B = lstm_states[0].size(1)
        x = features.unflatten(0, (B, -1)).transpose(0, 1)
        starts = episode_starts.unflatten(0, (B, -1)).transpose(0, 1) != 0
        y, states = lstm(x, lstm_states, reset_mask=starts)
        return y.transpose(0, 1).flatten(0, 1), states


class HiddenVelocities(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Only position and angle: the policy must infer the velocities from earlier steps."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation(self, observation: Any) -> Any:
        return observation[[0, 2]]


def make_model(
    policy: type[MlpLstmPolicy], steps: int, hidden: int, **options: Any
) -> RecurrentPPO:
    """``options`` are the policy's options."""
    environments = make_vec_env("CartPole-v1", 8, seed=0, wrapper_class=HiddenVelocities)
    return RecurrentPPO(
        policy,
        environments,
        n_steps=steps,
        batch_size=steps * 2,
        n_epochs=2,
        seed=0,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": hidden, **options},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="RecurrentPPO with reset_mask")
    parser.add_argument("--quick", action="store_true", help="short rollouts, a small layer")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps, hidden, repetitions = (32, 32, 3) if options.quick else (128, 128, 5)

    models = {
        "loop": make_model(MlpLstmPolicy, steps, hidden),
        "one call": make_model(OneCallPolicy, steps, hidden),
    }
    weights = []
    for model in models.values():
        model.set_random_seed(0)  # both models draw from the process's global generators
        model.learn(steps * 8)  # one rollout and its updates
        weights.append(nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    difference = float((weights[0] - weights[1]).abs().max())
    print(f"after a rollout and its updates, parameters differ by at most {difference:.1e}")
    assert difference < 1e-4  # one Adam step is three times as large

    # The models take turns in one process, so that noise of the machine reaches both.
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for repetition in range(-1, repetitions):
        for name, model in models.items():
            began = time.perf_counter()
            model.train()  # all updates on the stored rollout
            if repetition >= 0:  # the first repetition is a warm-up
                seconds[name].append(time.perf_counter() - began)
    medians = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    ratio = medians["loop"] / medians["one call"]
    print(f"updates on {8 * steps} steps, H={hidden}, one thread, medians:")
    print(f"  the policy's loop over time  {medians['loop']:8.1f} ms")
    print(f"  one call with reset_mask     {medians['one call']:8.1f} ms   ratio {ratio:.1f}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / "recurrent_ppo.json"
        file.write_text(json.dumps({"milliseconds": medians, "ratio": ratio}, indent=1) + "\n")
        print(file)


if __name__ == "__main__":
    main()
