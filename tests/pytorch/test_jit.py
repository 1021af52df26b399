"""torch.jit: traces take calls of any size; scripting is refused by name."""

from __future__ import annotations

import copy
import io
import itertools
import pickle

import pytest
import torch
from state_support import close, make, noise
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import stateful_lstm
from stateful_lstm import StatefulLSTM

INPUT, H = 3, 5
LAYERS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "both directions, two layers": {"bidirectional": True, "num_layers": 2},
    "projection": {"proj_size": 4},
    "dropout": {"num_layers": 2, "dropout": 0.5},
    "float16": {"dtype": torch.float16},  # which has no kernels of its own on the CPU
}

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # each size that is looked at
]
each_layer = pytest.mark.parametrize("name", LAYERS)
each_mode = pytest.mark.parametrize("train", [False, True])


def state(lstm, rows):
    states = lstm.num_layers * (2 if lstm.bidirectional else 1)
    dtype = lstm.weight_ih_l0.dtype
    return (
        noise(states, rows, lstm.proj_size or H, seed=2, dtype=dtype),
        noise(states, rows, H, seed=3, dtype=dtype),
    )


def same(program, model, args):
    """The same numbers, with the same random numbers where there is dropout."""
    found, expected = (torch.manual_seed(4) and called(*args) for called in (program, model))
    close(found, expected)


class Packed(nn.Module):
    """What a user has around a layer that takes packed sequences."""

    def __init__(self, is_sorted, **options):
        super().__init__()
        self.lstm, self.is_sorted = make(stateful=False, **options), is_sorted

    def forward(self, x, lengths, *hx):
        first = self.lstm.batch_first
        packed = pack_padded_sequence(x, lengths, first, enforce_sorted=self.is_sorted)
        y, (h, c) = self.lstm(packed, hx or None)
        return y.data, *pad_packed_sequence(y, first), h, c

    def arguments(self, lengths, given):
        rows, steps = len(lengths), max(lengths)
        sizes = (rows, steps) if self.lstm.batch_first else (steps, rows)
        x = noise(*sizes, INPUT, seed=steps, dtype=self.lstm.weight_ih_l0.dtype)
        lengths = torch.tensor(lengths if self.is_sorted else lengths[::-1])
        return x, lengths, *(state(self.lstm, rows) if given else ())


@pytest.mark.sampled
@each_mode
@each_layer
@pytest.mark.parametrize("is_sorted", [True, False], ids=["sorted", "in any order"])
def test_a_trace_of_a_packed_sequence_takes_any_lengths(is_sorted, name, train):
    model = Packed(is_sorted, **LAYERS[name]).train(train)
    for given in (False, True):
        with torch.set_grad_enabled(train):
            example = model.arguments([5, 3, 1], given)
            program = torch.jit.trace(model, example, check_trace=False)
            for lengths in ([5, 3, 1], [6, 2], [6, 2, 2, 1], [2], [1] * 5, [40, 39, 7]):
                same(program, model, model.arguments(lengths, given))


class Controlled(nn.Module):
    """A layer whose masks and lengths are inputs of the program."""

    def __init__(self, names, **options):
        super().__init__()
        self.lstm, self.names = make(stateful=False, **options), names

    def forward(self, x, hx, *controls):
        return self.lstm(x, hx, **dict(zip(self.names, controls, strict=True)))

    def arguments(self, steps, rows, batched):
        T, B = steps, rows if batched else 1
        x, resets = noise(T, B, INPUT, dtype=self.lstm.weight_ih_l0.dtype), noise(T, B) > 1
        hx, lengths = state(self.lstm, B), torch.arange(B) % (T + 1)
        if self.lstm.batch_first:
            x, resets = x.transpose(0, 1), resets.T
        if not batched:
            row = 0 if self.lstm.batch_first else 1
            x, resets, hx = x.squeeze(row), resets.squeeze(row), tuple(t.squeeze(1) for t in hx)
        controls = {"reset_mask": resets, "lengths": lengths}
        return x, hx, *(controls[name] for name in self.names)


@pytest.mark.sampled
@each_mode
@each_layer
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_a_trace_takes_any_sizes(batched, name, train):
    for names in ((), ("reset_mask",), ("lengths",), ("reset_mask", "lengths")):
        model = Controlled(names, **LAYERS[name]).train(train)
        for first in ((4, 2), (1, 1)):
            with torch.set_grad_enabled(train):
                example = model.arguments(*first, batched)
                program = torch.jit.trace(model, example, check_trace=False)
                for steps, rows in itertools.product((1, 2, 60), (1, 3)):
                    same(program, model, model.arguments(steps, rows, batched))


def test_a_trace_starts_from_as_many_zeros_as_there_are_rows():
    lstm = make(stateful=False)
    program = torch.jit.trace(lstm, (noise(4, 2, INPUT),))
    for steps, rows in ((4, 3), (1, 1), (9, 2)):
        same(program, lstm, (noise(steps, rows, INPUT),))


def test_a_trace_of_a_converted_model_is_saved_and_trained():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.LSTM(INPUT, H), nn.Linear(H, 2)

        def forward(self, x, lengths):
            _, (h, _) = self.encoder(pack_padded_sequence(x, lengths, enforce_sorted=False))
            return self.head(h[-1])

    model = stateful_lstm.convert(Model().double(), stateful=False)
    program = torch.jit.trace(model, (noise(4, 2, INPUT), torch.tensor([2, 4])))
    file = io.BytesIO()
    torch.jit.save(program, file)
    file.seek(0)
    loaded, args = torch.jit.load(file), (noise(7, 3, INPUT), torch.tensor([1, 7, 3]))
    same(loaded, model, args)
    found, expected = (
        dict(zip(names, torch.autograd.grad(called(*args).sum(), weights), strict=True))
        for called in (loaded, model)
        for names, weights in [zip(*called.named_parameters(), strict=True)]
    )
    close(found, expected)


# ---- scripting ---------------------------------------------------------------------------------

refused = pytest.raises(
    RuntimeError, match=r"torch\.jit\.script does not take a StatefulLSTM: use torch\.compile; or"
)


def scripted(layer):
    """A ScriptModule with the layer inside."""

    class Model(torch.jit.ScriptModule):
        def __init__(self):
            super().__init__()
            self.lstm = layer

        @torch.jit.script_method
        def forward(self, x):
            return self.lstm(x)

    return Model()


def converted(stateful, weight_norm=False):
    layer = nn.LSTM(INPUT, H, dtype=torch.float64)
    if weight_norm:
        layer = parametrizations.weight_norm(layer, "weight_hh_l0")
    return stateful_lstm.convert(layer, stateful)


KINDS = {
    "made": lambda stateful: make(stateful=stateful),
    "converted": converted,
    "parametrized": lambda stateful: converted(stateful, weight_norm=True),
    "copied": lambda stateful: copy.deepcopy(make(stateful=stateful)),
    "pickled": lambda stateful: pickle.loads(pickle.dumps(make(stateful=stateful))),
}


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_scripting_is_refused_by_name_in_every_way(kind, stateful):
    layer = KINDS[kind](stateful)
    expected = copy.deepcopy(layer)(noise(4, 2, INPUT))
    for way in (torch.jit.script, scripted, lambda found: scripted(nn.Sequential(found))):
        with refused:
            way(layer)
    close(layer(noise(4, 2, INPUT)), expected)  # it is what it was
    assert copy.deepcopy(layer).stateful == stateful
    if not stateful:
        torch.jit.trace(layer, (noise(4, 2, INPUT),))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_trace_is_taken_by_a_script_module():
    layer = make(stateful=False)
    model = scripted(torch.jit.trace(layer, (noise(4, 2, INPUT),)))
    close(model(noise(7, 3, INPUT)), layer(noise(7, 3, INPUT)))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_an_nn_lstm_that_has_been_scripted_can_be_converted():
    """Scripting leaves an attribute on it, under a name that is a property here."""
    layer = nn.LSTM(INPUT, H)
    torch.jit.script(layer)
    assert "__overloads__" in vars(layer)
    expected = copy.deepcopy(layer)(torch.ones(4, 2, INPUT))
    stateful_lstm.convert(layer, stateful=False)
    assert type(layer) is StatefulLSTM
    for each in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        close(each(torch.ones(4, 2, INPUT)), expected)
        with refused:
            scripted(each)


@pytest.mark.parametrize("recompute", ["gates", "segments"])
@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_layer_that_recomputes_is_traced_with_gradients_on(recompute):
    lstm = StatefulLSTM(3, 4, stateful=False, recompute=recompute)
    program = torch.jit.trace(lstm, (torch.randn(5, 2, 3),))
    x = torch.randn(9, 3, 3)
    torch.testing.assert_close(program(x)[0], lstm(x)[0])
