"""A user's file: mypy --strict reads it where only the wheel is installed. It never runs."""

import torch
from torch import Tensor
from typing_extensions import assert_type

import stateful_lstm
from stateful_lstm import LSTMState, StatefulLSTM
from stateful_lstm.data import ContinuousBatches
from stateful_lstm.training import Trainer

lstm = StatefulLSTM(8, 16, num_layers=2)
assert_type(lstm, StatefulLSTM)
assert_type(lstm.state, LSTMState | None)
assert_type(lstm.allocate_state(4), LSTMState)
assert_type(lstm.new_state(4).read(), tuple[Tensor, Tensor])
output, (h_n, c_n) = lstm(torch.zeros(5, 4, 8), state_indices=torch.arange(4))
assert_type(h_n, Tensor)
assert_type(stateful_lstm.get_state(lstm), dict[str, tuple[Tensor, Tensor]])
assert_type(stateful_lstm.__version__, str)

windows = ContinuousBatches([torch.zeros(9, 1)], batch_size=1, window=3)
trainer = Trainer(lstm, torch.optim.SGD(lstm.parameters(), lr=0.1), torch.nn.MSELoss())
assert_type(trainer.current_loss(), float)
stateful_lstm.interop.export_onnx(lstm, "lstm.onnx")  # without an import of its own
