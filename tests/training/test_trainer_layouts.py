"""``Trainer`` with windows in another layout than the model's layers, or without features."""

import gc
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from training_support import everything, same

from stateful_lstm import StatefulLSTM
from stateful_lstm.data import ContinuousBatches
from stateful_lstm.training import Trainer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

KINDS = (StatefulLSTM, nn.LSTM, nn.GRU, nn.RNN)
SERIES = [torch.sin(torch.arange(41.0) * 0.1 * k).reshape(-1, 1) for k in (1, 2, 3, 4)]


def windows(batch_first=False, rows=4, steps=10):
    return list(ContinuousBatches(SERIES, rows, steps, batch_first=batch_first))


def make(model, forward=None):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* has no StatefulLSTM")
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return Trainer(model, optimizer, nn.MSELoss(), forward=forward)


class Net(nn.Module):
    """A layer of the windows' layout, then one that need not have it."""

    def __init__(self, batch_first, kind=StatefulLSTM, first=False):
        super().__init__()
        self.lower = StatefulLSTM(1, 3, batch_first=first)
        self.upper = kind(3, 3, batch_first=batch_first)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.upper(self.lower(x)[0])[0])


class Turning(Net):
    """Transposes around the upper layer, and keeps something by hand."""

    def __init__(self, batch_first=True):
        super().__init__(batch_first, nn.LSTM)
        self.norm = nn.BatchNorm1d(3)
        self.calls = 0
        self.h = torch.zeros(1, 4, 3)

    def forward(self, x):
        self.calls = self.calls + 1
        y = self.lower(x)[0].transpose(0, 1)
        start = self.h + 0.01 * self.calls
        y, (h, _) = self.upper(y, (start, start))
        self.h = h.detach()
        y = self.norm(y.flatten(0, 1)).view_as(y)
        return self.head(nn.functional.dropout(y.transpose(0, 1), 0.1, self.training))


def refused(trainer, call, text=""):
    """The call raises, and nothing has changed."""
    before, sizes = everything(trainer), trainer.model.lower.state
    with pytest.raises(ValueError, match=f"batch_first.*{text}"):
        call()
    assert same(everything(trainer), before) and trainer.model.lower.state is sizes
    assert not any(m._forward_pre_hooks for m in trainer.model.modules())


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_another_layout_is_refused_before_anything_happens(kind, batch_first):
    data = windows(batch_first)
    trainer = make(Net(not batch_first, kind, first=batch_first))
    name = f"the upper \\({kind.__name__}\\) has batch_first={not batch_first}"
    remedy = f"ContinuousBatches\\(..., batch_first={not batch_first}\\)"
    refused(trainer, lambda: trainer.fit(data, progress=False), f"{name}.*{remedy}")
    refused(trainer, lambda: trainer.evaluate(data), name)
    h, c = torch.ones(1, 4, 3), torch.ones(1, 4, 3)  # which the windows' resets would change
    trainer.model.lower.allocate_state(4).write((h, c))
    refused(trainer, lambda: trainer.update(data[0]), "4 rows of 10 steps")
    trainer.model.upper.batch_first = batch_first
    trainer.fit(data, progress=False)


def test_a_layer_that_is_the_model_and_a_forward_of_ones_own():
    lstm = StatefulLSTM(1, 1, batch_first=True)
    with pytest.raises(ValueError, match=r"the model itself \(StatefulLSTM\)"):
        make(lstm).update(windows()[0])
    assert lstm.state is None
    by_name = make(lstm, forward=lambda m, w: m(input=w.input)[0])
    with pytest.raises(ValueError, match="batch_first"):
        by_name.update(windows()[0])


def test_a_square_window_tells_as_well_as_the_next_one():
    trainer = make(Net(True))
    refused(trainer, lambda: trainer.update(windows(rows=4, steps=4)[0]))
    trainer = make(Net(False))
    trainer.update(windows(rows=4, steps=4)[0])
    trainer.update(windows()[0])


def test_each_layout_of_windows_is_looked_at():
    trainer = make(Turning())
    trainer.fit(windows(), progress=False)
    trainer.model.upper.batch_first = trainer.model.lower.batch_first = False
    with pytest.raises(ValueError, match="batch_first"):
        trainer.evaluate(windows(batch_first=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's own
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("part", ["model", "in place", "layer", "forward"])
def test_compiled_models_are_looked_at_too(part, warm):
    model, forward = Net(True), None
    if part == "model":
        called = torch.compile(model, backend="eager", fullgraph=True)
    elif part == "in place":
        model.compile(backend="eager", fullgraph=True)
        called = model
    elif part == "layer":
        model.upper = torch.compile(model.upper, backend="eager")
        called = model
    else:
        forward = torch.compile(lambda m, w: m(w.input), backend="eager")
        called = model
    if warm:  # what is compiled already calls no hooks
        window = windows()[0]
        forward(called, window) if forward else called(window.input)
        model.lower._state = None
    trainer = make(called, forward)
    trainer.model = called
    with pytest.raises(ValueError, match=r"the upper \(StatefulLSTM\) has batch_first=True"):
        trainer.update(windows()[0])
    assert model.lower.state is None
    torch.compiler.reset()


@pytest.mark.slow
def test_compiled_models_that_transpose_train_as_if_nobody_looked():
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = Turning()
        model.lower.allocate_state(4).write((torch.ones(1, 4, 3), torch.ones(1, 4, 3)))
        trainer = make(torch.compile(model, backend="eager") if compiled else model)
        history = trainer.fit(windows()[1:], epochs=2, progress=False)  # those without resets
        history.append(trainer.evaluate(windows()))
        results.append([*everything(trainer), torch.tensor(history), model.h])
        assert model.calls == trainer.updates + len(windows())
    torch.compiler.reset()
    assert same(*results)


class Rarer(nn.Module):
    """Runs its layers on other sizes than the window's."""

    def __init__(self):
        super().__init__()
        self.rows, self.halves = (
            nn.GRU(1, 3, batch_first=True),
            StatefulLSTM(3, 3, batch_first=True),
        )
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((x.size(1),), x.size(0)))
        y = nn.utils.rnn.pad_packed_sequence(self.rows(packed)[0])[0]
        y, _ = self.halves(y[::2].transpose(0, 1))
        return self.head(y).transpose(0, 1).repeat_interleave(2, 0)[: x.size(0)]


@pytest.mark.parametrize("kind", [Turning, Rarer])
def test_models_that_turn_pack_and_thin_out_are_left_alone(kind):
    trainer = make(kind())
    trainer.fit(windows(), progress=False)
    assert trainer.evaluate(windows()) > 0
    assert not any(m._forward_pre_hooks for m in trainer.model.modules())


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    gc.collect()  # a wrapped model that outlives its group may wait for ever
    dist.destroy_process_group()


@pytest.mark.sampled
@pytest.mark.parametrize("wrap", [DistributedDataParallel, fully_shard])
@pytest.mark.parametrize("compiled", [False, True])
def test_wrapped_models(wrap, compiled, alone):
    for kind in (Turning, lambda: Net(True)):
        model = kind()
        if compiled:
            model.compile(backend="eager")
        trainer = make(wrap(model))
        if isinstance(model, Turning):
            trainer.fit(windows(), progress=False)
        else:
            with pytest.raises(ValueError, match="has batch_first=True"):
                trainer.update(windows()[0])
            assert model.lower.state is None
    torch.compiler.reset()
    del trainer, model


# ---- series without a feature axis ---------------------------------------------------------------


class Series(nn.Module):
    def __init__(self, add_axis, kind=StatefulLSTM, features=1):
        super().__init__()
        self.add_axis, self.lstm, self.head = add_axis, kind(features, 3), nn.Linear(3, features)

    def forward(self, x, reset_mask=None):
        x = x.unsqueeze(-1) if self.add_axis else x
        control = {} if isinstance(self.lstm, nn.LSTM) else {"reset_mask": reset_mask}
        y = self.head(self.lstm(x, **control)[0])
        return y.squeeze(-1) if self.add_axis else y


def flat(rows=4):
    return list(ContinuousBatches([s.flatten() for s in SERIES], rows, 10))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("compiled", [False, True])
def test_series_of_single_numbers_need_a_feature_axis(compiled, rows):
    for model in (StatefulLSTM(1, 1), Series(False), Series(False, features=rows)):
        called = torch.compile(model, backend="eager") if compiled else model
        with pytest.raises(ValueError, match=r"series.unsqueeze\(-1\) .* series.reshape\(-1, 1\)"):
            make(called).update(flat(rows)[0])
    with pytest.raises(ValueError, match=r"the lstm \(LSTM\) takes a third axis"):
        make(Series(False, nn.LSTM)).update(flat()[0])
    torch.compiler.reset()


def test_models_that_add_the_axis_or_embed_tokens_are_left_alone():
    assert len(make(Series(True)).fit(flat(), progress=False)) == 1
    tokens = [torch.randint(0, 5, (30,)) for _ in range(4)]
    lstm = StatefulLSTM(3, 5)
    model = nn.Sequential(nn.Embedding(5, 3), lstm)
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        nn.CrossEntropyLoss(),
        forward=lambda m, w: lstm(m[0](w.input), reset_mask=w.reset_mask)[0],
    )
    trainer.fit(ContinuousBatches(tokens, 4, 10), progress=False)


def test_rows_as_features_are_left_alone():
    """Four series as the features of one, in a model without resets."""
    model = Series(False, nn.LSTM, features=4)
    make(model, forward=lambda m, w: m(w.input)).update(flat()[0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("size", [2, 7])
def test_windows_of_as_many_steps_as_rows_are_told_apart(batch_first, size):
    series = [torch.randn(40, 1) for _ in range(size)]
    windows = ContinuousBatches(series, size, size, batch_first=not batch_first)
    model = StatefulLSTM(1, 1, batch_first=batch_first)
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss())
    random = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"would read {size - 1} rows of {size} steps"):
        trainer.fit(windows, progress=False)
    assert model.state is None
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_that_transposes_trains_the_same_on_windows_of_as_many_steps_as_rows():
    class Transposing(nn.Module):
        def __init__(self, batch_first):
            super().__init__()
            self.lstm = StatefulLSTM(1, 1, batch_first=batch_first)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            if self.lstm.batch_first:
                return self.drop(self.lstm(x.transpose(0, 1))[0].transpose(0, 1))
            return self.drop(self.lstm(x)[0])

    losses = []
    for batch_first in (False, True):
        torch.manual_seed(3)
        model = Transposing(batch_first)
        windows = ContinuousBatches([torch.ones(40, 1) for _ in range(5)], 5, 5)
        trainer = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss())
        losses.append(trainer.fit(windows, 2, progress=False))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_model_has_one_graph_for_all_windows(fresh_compiler):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = StatefulLSTM(1, 1)

        def forward(self, x, reset_mask=None, lengths=None):
            return self.lstm(x, reset_mask=reset_mask, lengths=lengths)[0]

    model, counter = Model(), torch._dynamo.testing.CompileCounter()
    model.lstm.allocate_state(2)
    windows = ContinuousBatches([torch.randn(n, 1) for n in (50, 33, 20, 41)], 2, 11)
    compiled = torch.compile(model, backend=counter)
    trainer = Trainer(compiled, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss())
    trainer.fit(windows, progress=False)
    assert counter.frame_count == 1
