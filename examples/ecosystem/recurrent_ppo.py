"""SB3-contrib's RecurrentPPO with one call in place of its loop over time.

Its policy resets the state where an episode starts by a loop of single steps. `OneCallPolicy` gives
the starts to the layer as `reset_mask` instead. Both train from the same seed on a cart pole whose
velocities are hidden, and an update of each is timed.

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
    """The states are the policy's own to hand over, so the layers keep none."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        stateful_lstm.convert(self, stateful=False)  # the optimizer's parameters stay these

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: States, episode_starts: Tensor, lstm: nn.Module
    ) -> tuple[Tensor, States]:
        """Rows of features, sequence after sequence: the layer takes and gives (T, B, ...)."""
        B = lstm_states[0].size(1)
        x = features.unflatten(0, (B, -1)).transpose(0, 1)
        starts = episode_starts.unflatten(0, (B, -1)).transpose(0, 1) != 0
        y, states = lstm(x, lstm_states, reset_mask=starts)
        return y.transpose(0, 1).flatten(0, 1), states


class HiddenVelocities(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Position and angle alone: what is missing has to be remembered."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation(self, observation: Any) -> Any:
        return observation[[0, 2]]


def make_model(
    policy: type[MlpLstmPolicy], steps: int, hidden: int, **options: Any
) -> RecurrentPPO:
    """``options``: of the policy."""
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
        model.set_random_seed(0)  # both draw from the generators of the process
        model.learn(steps * 8)  # one rollout, and the updates on it
        weights.append(nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    difference = float((weights[0] - weights[1]).abs().max())
    print(f"after a rollout and its updates, parameters differ by at most {difference:.1e}")
    assert difference < 1e-4  # one step of Adam's is three times that

    # Turn about, in one process, so that both share whatever else the machine does.
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for repetition in range(-1, repetitions):
        for name, model in models.items():
            began = time.perf_counter()
            model.train()  # all updates on the rollout that it holds
            if repetition >= 0:  # the first one is a warm-up
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
