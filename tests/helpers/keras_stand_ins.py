"""Stand-ins for Keras's layers: their names and attributes, without computations."""


def tanh(x):
    raise AssertionError("nobody calls it")


def sigmoid(x):
    raise AssertionError("nobody calls it")


def hard_sigmoid(x):
    raise AssertionError("nobody calls it")


class LSTMCell:
    def __init__(self, weights, **options):
        self.weights = weights
        self.activation, self.recurrent_activation = tanh, sigmoid
        self.dropout = self.recurrent_dropout = 0.0
        self.unit_forget_bias = True
        vars(self).update(options)

    def get_weights(self):
        return list(self.weights)


class StackedRNNCells:
    def __init__(self, cells):
        self.cells = cells


class RNN:
    def __init__(self, cell, **options):
        self.cell, self.name = cell, "some_rnn"
        self.go_backwards, self.stateful, self.states = False, False, None
        vars(self).update(options)


class LSTM(RNN):
    def __init__(self, weights, cell=None, **options):
        super().__init__(LSTMCell(weights, **(cell or {})), **options)


class Bidirectional:
    """A wrapper with the weights of both directions, and their states (h, c, h, c)."""

    def __init__(self, weights, merge_mode="concat", states=None, cell=None, **options):
        half = len(weights) // 2
        self.merge_mode, self.name = merge_mode, "both_ways"
        each = [None, None] if states is None else [states[:2], states[2:]]
        self.forward_layer = LSTM(weights[:half], cell, states=each[0], **options)
        self.backward_layer = LSTM(
            weights[half:], cell, states=each[1], **{"go_backwards": True, **options}
        )


class Sequential:
    def __init__(self, layers):
        self.layers = layers


class GRU(RNN):
    pass


class Dense:
    name = "head"


for _each in (tanh, sigmoid, hard_sigmoid):
    _each.__module__ = "keras.activations"
for _each in (LSTMCell, StackedRNNCells, RNN, LSTM, Bidirectional, Sequential):
    _each.__module__ = "keras.layers"  # the converter recognizes Keras classes by this
