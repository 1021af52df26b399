"""StatefulLSTM in place of nn.LSTM: the same results, and the new features.

python examples/quickstart.py     (a second; --quick and --out are accepted and change nothing)
"""

import argparse

import torch
from torch import nn
from torch.testing import assert_close

from stateful_lstm import StatefulLSTM

parser = argparse.ArgumentParser(description="StatefulLSTM in a page")
parser.add_argument("--quick", action="store_true", help="no effect: the example is quick already")
parser.add_argument("--out", metavar="DIR", help="no effect: the example writes no file")
parser.parse_args()

T, B, FEATURES, H = 12, 4, 8, 32
torch.manual_seed(0)
x = torch.randn(T, B, FEATURES)

# The same arguments; a state_dict of either class loads into the other.
old = nn.LSTM(FEATURES, H, num_layers=2)
lstm = StatefulLSTM(FEATURES, H, num_layers=2)
lstm.load_state_dict(old.state_dict())
old.load_state_dict(lstm.state_dict())
expected, (h_n, c_n) = old(x)

# One call gives the results of nn.LSTM.
output, (h, c) = lstm(x)
assert_close((output, h, c), (expected, h_n, c_n))
print("one call:                 the same as nn.LSTM")

# The layer keeps its state: two calls, or T calls of one step, continue each other.
for pieces in (2, T):
    lstm.reset_state()
    output = torch.cat([lstm(piece)[0] for piece in x.chunk(pieces)])
    assert_close(output, expected)
    print(f"{pieces:2} calls:                 the same, no state passed")

# Gradients stop at the start of a call, so training on pieces needs no detach.
lstm.reset_state()
for piece in x.chunk(3):
    lstm(piece)[0].square().mean().backward()
print("3 calls, 3 backwards:     no detach, no retain_graph")

# Some rows restart between two calls, the others continue ...
lstm.reset_state()
lstm(x[:6])
lstm.reset_state(torch.tensor([False, True, False, True]))
output, _ = lstm(x[6:])
assert_close(output[:, [0, 2]], expected[6:, [0, 2]])
assert_close(output[:, [1, 3]], old(x[6:, [1, 3]])[0])
print("reset_state(rows):        rows 1 and 3 restart from zero")

# ... or inside a call: True means "the state is zero before this step".
starts = torch.zeros(T, B, dtype=torch.bool)
starts[6, [1, 3]] = True
lstm.reset_state()
assert_close(lstm(x, reset_mask=starts)[0][6:], output)
print("reset_mask:               the same inside a single call")

# A look ahead, a validation run or a warm-up does not change the state.
assert lstm.state is not None
before = lstm.state.read()
with lstm.preserve_state():
    lstm(torch.randn(5, B, FEATURES))
assert_close(lstm.state.read(), before, rtol=0, atol=0)
print("preserve_state:           the state is restored, bit for bit")
