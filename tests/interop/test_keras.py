"""The results of Keras's stateful LSTMs, over predict, train and evaluate calls.

tests/interop/recorded/record.py recorded the arrays; the tests do not need Keras.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stateful_lstm import StatefulLSTM, reset_state

RECORDED = np.load(Path(__file__).parent / "recorded/stateful.npz")
CALLS = sorted({name.split("/")[0] for name in RECORDED if name[0].isdigit()})


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = StatefulLSTM(2, 5, batch_first=True)
        self.second = StatefulLSTM(5, 5, batch_first=True)
        self.dense = nn.Linear(5, 1)

    def forward(self, x):
        return self.dense(self.second(self.first(x)[0])[0])


def weights(name):
    """What Keras had after a call, as a state_dict: transposed, with one of the two biases zero."""

    def get(key):
        return torch.from_numpy(RECORDED[f"{name}/{key}"])

    found = {"dense.weight": get("dense/kernel").T, "dense.bias": get("dense/bias")}
    for layer in ("first", "second"):
        found[f"{layer}.weight_ih_l0"] = get(f"{layer}/lstm_cell/kernel").T
        found[f"{layer}.weight_hh_l0"] = get(f"{layer}/lstm_cell/recurrent_kernel").T
        found[f"{layer}.bias_ih_l0"] = get(f"{layer}/lstm_cell/bias")
        found[f"{layer}.bias_hh_l0"] = torch.zeros_like(found[f"{layer}.bias_ih_l0"])
    return found


def close(found, expected, what):
    torch.testing.assert_close(
        found, expected, atol=2e-6, rtol=1e-5, msg=lambda text: f"{what}: {text}"
    )


def test_states_outputs_and_training_are_keras_s():
    model = Model()
    model.load_state_dict(weights("begin"))
    frozen = [p for name, p in model.named_parameters() if "bias_hh" in name]  # Keras has one bias
    for p in frozen:
        p.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    kinds = []
    for call in CALLS:
        kind = call.split()[1]
        kinds.append(kind)
        model.train(kind == "train")
        if kind == "reset":
            reset_state(model)
        else:
            x, y = (torch.from_numpy(RECORDED[f"{call}/{name}"]) for name in "xy")
            expected = torch.from_numpy(RECORDED[f"{call}/output"])
            with torch.set_grad_enabled(kind == "train"):
                output = model(x)
                loss = nn.functional.mse_loss(output, y)
            close(output.detach() if kind == "predict" else loss.detach(), expected, call)
            if kind == "train":
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        for name, expected in weights(call).items():
            close(model.state_dict()[name], expected, f"{call}: {name}")
        for name in ("first", "second"):
            state = getattr(model, name).state
            for letter in "hc":
                expected = torch.from_numpy(RECORDED[f"{call}/{name}/{letter}"])
                close(getattr(state, letter)[0], expected, f"{call}: {name}.{letter}")
    assert {"predict", "train", "evaluate", "reset"} == set(kinds)
    # Training moved the weights, and the reset the states.
    assert not np.allclose(*(RECORDED[f"{name}/dense/kernel"] for name in ("begin", CALLS[-1])))


def test_keras_s_example_of_32_sequences_in_two_windows():
    def recorded(name):
        return torch.from_numpy(RECORDED[f"example/{name}"])

    lstm = StatefulLSTM(16, 8, batch_first=True)
    lstm.load_state_dict(
        {
            "weight_ih_l0": recorded("example/lstm_cell/kernel").T,
            "weight_hh_l0": recorded("example/lstm_cell/recurrent_kernel").T,
            "bias_ih_l0": recorded("example/lstm_cell/bias"),
            "bias_hh_l0": torch.zeros(32),
        }
    )
    x = np.random.default_rng(3).standard_normal((32, 21, 16)).astype(np.float32)
    for k, window in enumerate((x[:, 0:10], x[:, 10:20])):
        output, (h, c) = lstm(torch.from_numpy(window))
        close(output[:, -1].detach(), recorded(f"output {k}"), f"output {k}")
        for kind, state, final in (("h", lstm.state.h, h), ("c", lstm.state.c, c)):
            close(state[0], recorded(f"{kind} {k}"), f"{kind} {k}")
            assert torch.equal(state, final.detach())
    assert not torch.allclose(recorded("h 0"), recorded("h 1"), atol=0.01)


def test_another_batch_size_names_both_and_the_ways_out():
    model = Model()
    model(torch.randn(3, 4, 2))
    with pytest.raises(ValueError, match=r"4.*3|3.*4") as error:
        model(torch.randn(4, 4, 2))
    for way_out in ("reset_state", "allocate_state", "state_indices"):
        assert way_out in str(error.value)
