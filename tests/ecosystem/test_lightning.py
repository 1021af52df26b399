"""Lightning: truncated back-propagation over windows, validation, exact resume, conversion."""

import copy
import sys

import pytest
import torch
from ecosystem_support import load_example
from torch.utils.data import DataLoader

import stateful_lstm
from stateful_lstm import StatefulLSTM

lightning = pytest.importorskip("lightning")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Lightning's own: of its tools, and advice that is not about this.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec:"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.weights_only. was not set"),
    pytest.mark.filterwarnings("ignore:.*You're resuming from a checkpoint that ended"),
    pytest.mark.filterwarnings("ignore:.*already configured with model summary"),
]


@pytest.fixture(scope="module")
def example():
    return load_example("lightning_tbptt")


def new_model(example):
    torch.manual_seed(0)
    return example.Answers()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def plain_loop(model, windows, epochs):
    """What Lightning does, as a loop."""
    optimizer = model.configure_optimizers()
    for _ in range(epochs):
        for window in windows:
            optimizer.zero_grad()
            model.loss(window).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return weights(model)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("loader", ["windows", "DataLoader"])
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_fit_is_a_plain_loop_over_the_windows(example, loader, shuffle):
    """Shuffled, each epoch has an order of its own."""
    ours = new_model(example)
    expected = plain_loop(copy.deepcopy(ours), example.windows(12, 1, shuffle), 2)
    windows = example.windows(12, 1, shuffle)
    if loader == "DataLoader":
        windows = DataLoader(windows, batch_size=None)
    example.make_trainer(2).fit(ours, windows)
    same(weights(ours), expected)


def test_a_validation_run_leaves_no_trace(example):
    """Lightning's sanity check before training is one too."""
    ours, other = new_model(example), new_model(example)
    losses = []
    ours.on_validation_end = lambda: losses.append(ours.trainer.callback_metrics["val_loss"])
    example.make_trainer(2, val_check_interval=2).fit(
        ours, example.windows(12, 1), example.windows(9, 2)
    )
    example.make_trainer(2).fit(other, example.windows(12, 1))
    assert len(losses) > 4
    with torch.no_grad(), stateful_lstm.preserve_state(ours):
        stateful_lstm.reset_state(ours)
        windows = list(example.windows(9, 2))
        expected = torch.stack([ours.loss(window) for window in windows]).mean()
    torch.testing.assert_close(losses[-1], expected)
    same(weights(ours), weights(other))
    same(stateful_lstm.get_state(ours), stateful_lstm.get_state(other))


def test_validation_may_have_another_number_of_rows(example, monkeypatch):
    """It begins with a reset, after which a batch of any size is welcome."""
    model, training = new_model(example), example.windows(12, 1)
    monkeypatch.setattr(example, "ROWS", 3)
    example.make_trainer(2, val_check_interval=2).fit(model, training, example.windows(9, 2))
    assert model.lstm.state.slots == training.batch_size != 3


def stateful_model(example):
    """One whose state is not zero, and what it is."""
    model = new_model(example)
    for window in list(example.windows(8, 5))[:2]:
        model.loss(window)
    return model, stateful_lstm.get_state(model)


@pytest.mark.parametrize("way", ["validate", "test", "predict"])
def test_no_other_run_leaves_a_trace(example, way):
    model, state = stateful_model(example)
    quiet = {} if way == "predict" else {"verbose": False}
    found = getattr(example.make_trainer(1), way)(model, example.windows(9, 2), **quiet)
    assert found
    assert any(h.any() for h, _ in state.values())
    same(stateful_lstm.get_state(model), state)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_validation_run_that_fails_leaves_no_trace(example, error):
    model, seen = new_model(example), []

    def fails(window, batch_idx):
        model.loss(window)
        if model.trainer.global_step:  # in training, not in Lightning's check before
            raise error("on purpose")

    def remember(*args):
        seen[:] = [stateful_lstm.get_state(model)]

    model.validation_step, model.on_train_batch_end = fails, remember
    trainer = example.make_trainer(1, val_check_interval=3)
    with pytest.raises((error, SystemExit)):
        trainer.fit(model, example.windows(12, 1), example.windows(9, 2))
    assert any(h.any() for h, _ in seen[0].values())
    same(stateful_lstm.get_state(model), seen[0])


def test_a_checkpoint_that_was_only_looked_at_begins_no_fit(example, tmp_path):
    trained = new_model(example)
    trainer = example.make_trainer(-1, max_steps=3)
    trainer.fit(trained, example.windows(12, 1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer = example.make_trainer(-1, max_steps=3)
    trainer.validate(new_model(example), example.windows(9, 2), ckpt_path=tmp_path / "a.ckpt")
    fresh = new_model(example)
    trainer.fit(fresh, example.windows(12, 1))
    same(weights(fresh), weights(trained))


def test_a_checkpoint_without_a_state_is_taken(example, tmp_path):
    trainer = example.make_trainer(-1, max_steps=3)
    trainer.callbacks = [
        each for each in trainer.callbacks if type(each).__name__ != "ResidentState"
    ]
    trainer.fit(new_model(example), example.windows(12, 1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer = example.make_trainer(-1, max_steps=5)
    trainer.fit(new_model(example), example.windows(12, 1), ckpt_path=tmp_path / "a.ckpt")
    assert trainer.global_step == 5


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train(example, precision):
    """The "true" ones make new windows of the floats in ours."""
    model = new_model(example)
    before = weights(model)
    example.make_trainer(1, precision=precision).fit(model, example.windows(12, 1))
    after = weights(model)
    assert all(p.isfinite().all() for p in after.values())
    assert not any(torch.equal(after[name].to(p), p) for name, p in before.items())
    assert model.lstm.state.h.any()


@pytest.mark.parametrize("at", [3, 19, 25], ids=["in_the_first_epoch", "at_its_end", "later"])
def test_a_run_goes_on_from_a_checkpoint_exactly(example, at, tmp_path):
    assert len(example.windows(12, 1, shuffle=True)) == 19
    whole = new_model(example)
    steps = 2 * at + 3

    def data():
        return example.windows(12, 1, shuffle=True)

    example.make_trainer(-1, max_steps=steps).fit(whole, data())
    first = new_model(example)
    trainer = example.make_trainer(-1, max_steps=at)
    trainer.fit(first, data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = example.Answers()
    trainer = example.make_trainer(-1, max_steps=steps)
    trainer.fit(resumed, data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert trainer.global_step == steps
    same(weights(resumed), weights(whole))
    same(stateful_lstm.get_state(resumed), stateful_lstm.get_state(whole))


def test_lightnings_own_lstm_model_is_converted():
    """It hands the state over by itself, so a stateless layer is all it needs."""
    from lightning.pytorch.demos.lstm import LightningLSTM, SimpleLSTM

    torch.manual_seed(0)
    theirs = LightningLSTM(vocab_size=11)
    theirs.model = SimpleLSTM(vocab_size=11, ninp=6, nhid=5, nlayers=2)
    ours = stateful_lstm.convert(copy.deepcopy(theirs), stateful=False)
    assert isinstance(ours.model.rnn, StatefulLSTM)
    batches = [tuple(torch.randint(11, (2, 3, 7))) for _ in range(4)]
    fitted = []
    for model in (ours, theirs):
        torch.manual_seed(1)  # of the dropout
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        model.prepare_data = lambda: None  # it would download a corpus
        model.configure_optimizers = lambda m=model: torch.optim.SGD(m.parameters(), 0.1)
        trainer.fit(model, DataLoader(batches, batch_size=None))
        fitted.append(weights(model))
    torch.testing.assert_close(*fitted)


def test_the_example_runs(example, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning_tbptt.py", "--quick", "--out", str(tmp_path)])
    example.main()
    assert "with the state" in capsys.readouterr().out
    assert (tmp_path / "lightning_tbptt.ckpt").exists()
