"""``Trainer`` on the device: as on the CPU, without waiting, and bit for bit after a restart."""

import pytest
import torch
from gpu_support import DEVICE, needs_cuda
from torch import nn
from torch.utils.data import DataLoader
from training_support import Net, everything, make_data, make_trainer, same

from stateful_lstm.training import Trainer


def on_device(seed=0, dropout=0.3, **options):
    torch.manual_seed(seed)
    return make_trainer(Net(dropout=dropout).to(DEVICE), seed=seed, **options)


def test_training_is_that_of_the_cpu():
    torch.manual_seed(0)
    there, here = on_device(dropout=0.0), make_trainer(Net(dropout=0.0))
    here.model.load_state_dict({k: v.cpu() for k, v in there.model.state_dict().items()})
    histories = [trainer.fit(make_data(), 2, progress=False) for trainer in (there, here)]
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)
    for one, other in zip(there.model.parameters(), here.model.parameters(), strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-2)
    assert there.evaluate(make_data()) == pytest.approx(here.evaluate(make_data()), rel=1e-3)


@pytest.mark.parametrize("after", [4, 13])
def test_a_fit_goes_on_bit_for_bit(tmp_path, after):
    def save(trainer):
        if trainer.updates == after:
            trainer.save(tmp_path / "training.pt")

    whole = on_device()
    history = whole.fit(make_data(), 3, progress=False, callback=save)
    expected = [t.cpu() for t in everything(whole)]
    resumed = on_device(seed=9)
    resumed.load(tmp_path / "training.pt")
    assert resumed.fit(make_data(), 3, progress=False) == history
    assert same([t.cpu() for t in everything(resumed)], expected)


@needs_cuda
def test_an_update_waits_for_nothing():
    trainer = on_device()
    windows = [window.pin_memory() for window in make_data()]
    trainer.update(windows[0])  # what is set up once
    assert any(window.reset_mask.any() for window in windows[1:4])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for window in windows[1:4]:
            trainer.update(window)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.current_loss() > 0


@needs_cuda
def test_a_dataloader_pins_windows():
    loader = DataLoader(make_data(), batch_size=None, num_workers=2, pin_memory=True)
    windows = list(loader)
    assert all(window.input.is_pinned() and window.lengths.is_pinned() for window in windows)
    trainer = on_device()
    trainer.fit(loader, progress=False)
    assert trainer.updates == len(windows)


@needs_cuda
def test_a_loss_that_turns_nan_is_told_of_later():
    trainer = on_device()
    windows = list(make_data())
    windows[2].target.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss of update 3 is nan"):
        trainer.fit(windows, progress=False)


@needs_cuda
def test_float16_with_scaled_gradients(tmp_path):
    trainer = on_device(autocast=torch.float16)
    history = trainer.fit(make_data(), 8, progress=False)
    assert history[-1] < history[0]
    trainer.save(tmp_path / "training.pt")
    other = on_device(seed=3, autocast=torch.float16)
    other.load(tmp_path / "training.pt")
    assert same(everything(other), everything(trainer))
    model = Net().to(DEVICE)
    plain = Trainer(model, torch.optim.Adam(model.parameters()), nn.MSELoss())
    with pytest.raises(ValueError, match="this trainer has none"):
        plain.load(tmp_path / "training.pt")
