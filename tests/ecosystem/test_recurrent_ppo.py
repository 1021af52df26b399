"""SB3-contrib's RecurrentPPO with this layer, and with one call instead of its loop over time."""

import sys

import pytest
import torch
from ecosystem_support import load_example
from torch import nn

import stateful_lstm
from stateful_lstm import StatefulLSTM

pytest.importorskip("sb3_contrib")

from sb3_contrib.common.recurrent.type_aliases import RNNStates
from sb3_contrib.ppo_recurrent import MlpLstmPolicy

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 16


@pytest.fixture(scope="module")
def example():
    return load_example("recurrent_ppo")


class Converted(MlpLstmPolicy):
    """The policy as it is, its loop included, on this layer."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        stateful_lstm.convert(self, stateful=False)


def policies(example):
    return {"nn.LSTM": MlpLstmPolicy, "converted": Converted, "one call": example.OneCallPolicy}


def rollout_results(policy, starts):
    """What an update asks of the policy, and the gradients it makes. SB3 knows float32 alone."""
    generator = torch.Generator().manual_seed(3)
    rows, steps = starts.shape

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    hx = [(noise(1, rows, 8), noise(1, rows, 8)) for _ in range(2)]
    actions = torch.randint(2, (rows * steps,), generator=generator)
    policy.zero_grad()
    values, log_prob, entropy = policy.evaluate_actions(
        noise(rows * steps, 2), actions, RNNStates(*hx), starts.float().flatten()
    )
    (values.sum() + log_prob.square().sum() + entropy.sum()).backward()
    return (values, log_prob, entropy), {n: p.grad for n, p in policy.named_parameters()}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_an_update_sees_the_same(example, share):
    starts = torch.rand(3, 7) < share
    models = {name: example.make_model(p, STEPS, 8) for name, p in policies(example).items()}
    expected = rollout_results(models["nn.LSTM"].policy, starts)
    for name in ("converted", "one call"):
        policy = models[name].policy
        assert isinstance(policy.lstm_actor, StatefulLSTM)
        assert isinstance(policy.lstm_critic, StatefulLSTM)
        got = rollout_results(policy, starts)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


KINDS = {
    "as it comes": {},
    "actor alone": {"enable_critic_lstm": False},
    "shared": {"enable_critic_lstm": False, "shared_lstm": True},
    "two layers": {"n_lstm_layers": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_from_a_seed_goes_the_same_way(example, kind):
    """Rollouts, updates, and then predictions: the parameters stay together."""
    outcomes = {}
    for name, policy in policies(example).items():
        model = example.make_model(policy, STEPS, 8, **KINDS[kind])
        before = nn.utils.parameters_to_vector(model.policy.parameters()).detach()
        model.learn(2 * 8 * STEPS)
        weights = nn.utils.parameters_to_vector(model.policy.parameters()).detach()
        assert (weights - before).abs().max() > 1e-3
        observations = model.env.reset()
        states, starts, actions = None, [True] * 8, []
        for _ in range(5):
            action, states = model.predict(
                observations, states, episode_start=starts, deterministic=True
            )
            observations, _, starts, _ = model.env.step(action)
            actions.append(torch.as_tensor(action))
        outcomes[name] = weights, torch.stack(actions), torch.as_tensor(states[0])
    for name in ("converted", "one call"):
        torch.testing.assert_close(outcomes[name], outcomes["nn.LSTM"], rtol=1e-4, atol=1e-5)


def test_a_model_is_saved_and_loaded(example, tmp_path):
    model = example.make_model(example.OneCallPolicy, STEPS, 8)
    model.learn(8 * STEPS)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    assert isinstance(loaded.policy.lstm_actor, StatefulLSTM)
    observations = model.env.reset()
    (action, states), (other, others) = (
        each.predict(observations, deterministic=True) for each in (model, loaded)
    )
    assert (action == other).all()
    assert all((one == two).all() for one, two in zip(states, others, strict=True))
    loaded.set_env(model.env)
    before = nn.utils.parameters_to_vector(loaded.policy.parameters()).detach()
    loaded.learn(8 * STEPS)
    after = nn.utils.parameters_to_vector(loaded.policy.parameters()).detach()
    assert (after - before).abs().max() > 1e-4


def test_the_example_runs(example, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["recurrent_ppo.py", "--quick", "--out", str(tmp_path)])
    example.main()
    assert "ratio" in capsys.readouterr().out and (tmp_path / "recurrent_ppo.json").exists()
