"""``StatefulLSTM``: the front door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, fx, is_grad_enabled, nn
from torch._C import _is_any_autocast_enabled
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn.utils.rnn import PackedSequence

from . import functional, stateful_call
from .backend import arguments, operators, packed
from .state import LSTMState

Input = TypeVar("Input", Tensor, PackedSequence)


class StatefulLSTM(nn.RNNBase):
    """An LSTM whose state stays on the device between calls. It replaces ``nn.LSTM``.

    T steps, B rows, I input size, H hidden size, P size of h (H, or ``proj_size``), L layers,
    D directions, S slots. Parameters, their names, order and initialisation are those of
    ``torch.nn.LSTM``, and so are the gates (i, f, g, o).

    Args:
        input_size: I, the features of a time step.
        hidden_size: H, the size of the cell.
        num_layers: L, the number of stacked layers.
        bias: whether there are biases.
        batch_first: whether B comes before T in input, output and ``reset_mask``.
        dropout: probability of an element of a lower layer's output being zeroed, in training.
        bidirectional: D = 2. The forward direction carries its state from call to call, the reverse
            direction starts from zero at every call.
        proj_size: size of the projected h; 0: no projection.
        device: of parameters and state.
        dtype: of parameters and h; c is float32 for float16 and bfloat16.
        stateful: whether a call without ``hx`` starts from where the last one ended.
        recurrent_dropout: probability of an entry of h being zeroed before the recurrent product,
            in training, one mask per row and call (Gal & Ghahramani 2016).
        unit_forget_bias: adds 1 to the forget gate's bias when parameters are initialised.
        recompute: "none", "gates", "segments" or "auto": see :func:`stateful_lstm.lstm`.

    Raises:
        ValueError: for sizes and probabilities out of range, as ``nn.LSTM`` does.

    Example:
        >>> lstm = StatefulLSTM(8, 16)
        >>> first, _ = lstm(torch.randn(5, 3, 8))
        >>> second, _ = lstm(torch.randn(5, 3, 8))  # continues where the first ended
        >>> lstm.reset_state(torch.tensor([True, False, False]))  # row 0 starts again from zero
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        stateful: bool = True,
        recurrent_dropout: float = 0.0,
        unit_forget_bias: bool = False,
        recompute: str = "none",
    ) -> None:
        arguments.check_probability(recurrent_dropout, "recurrent_dropout")
        functional.check_recompute(recompute)
        if unit_forget_bias and not bias:
            raise ValueError("unit_forget_bias=True needs bias=True: there is no bias to add 1 to")
        super().__init__(
            "LSTM",
            arguments.as_int(input_size),
            arguments.as_int(hidden_size),
            arguments.as_int(num_layers),
            bias,
            batch_first,
            dropout,
            bidirectional,
            arguments.as_int(proj_size),
            device,
            dtype,
        )
        self._set_extras(stateful, recurrent_dropout, unit_forget_bias, recompute)
        if unit_forget_bias:
            self._add_unit_forget_bias()

    def _set_extras(
        self, stateful: bool, recurrent_dropout: float, unit_forget_bias: bool, recompute: str
    ) -> None:
        """The attributes that ``nn.LSTM`` lacks; :func:`stateful_lstm.convert` adds them to one."""
        self.stateful = stateful
        self.recurrent_dropout = recurrent_dropout
        self.unit_forget_bias = unit_forget_bias
        self.recompute = recompute
        # Neither a buffer nor in state_dict(): strict loading, another batch size and
        # DistributedDataParallel's broadcasts leave it alone.
        self._state: LSTMState | None = None

    # ------------------------------------------------------------ resident state

    @property
    def state(self) -> LSTMState | None:
        """The resident state, or None before the first call."""
        return self._state

    def new_state(self, slots: int) -> LSTMState:
        """A second, independent state for this layer, all zeros, for the argument ``state``.

        Args:
            slots: S, 0 or more.

        Returns:
            A state that belongs to the caller. The resident state does not change.

        Raises:
            ValueError: if ``slots`` is not a whole number, 0 or more.
        """
        weight = self._any_weight()
        sizes = arguments.StateSizes(
            self.num_layers * (2 if self.bidirectional else 1),
            self.proj_size or self.hidden_size,
            self.hidden_size,
        )
        return LSTMState(sizes, slots, weight.dtype, weight.device)

    def allocate_state(self, slots: int) -> LSTMState:
        """Replaces the resident state by one of ``slots`` zeros. The old state is discarded.

        Args:
            slots: S, 0 or more.

        Returns:
            The new resident state.

        Raises:
            ValueError: if ``slots`` is not a whole number, 0 or more. The old state stays.
        """
        self._state = self.new_state(slots)
        return self._state

    def reset_state(self, which: Any = None) -> None:
        """Sets rows of the resident state to zero. Before the first call it does nothing.

        After a reset of all rows the next call may have another batch size: the state is then
        reallocated. With the same batch size its address stays.

        Args:
            which: None: all rows; a bool mask (S,); or int32 or int64 indices, each once. An empty
                selection resets nothing.

        Raises:
            TypeError: for another dtype.
            ValueError: for a wrong shape, or a slot named twice (as an integer 0/1 mask names
                slots 0 and 1).
            IndexError: for a slot that does not exist.
        """
        if self._state is not None:
            self._state.reset(which)
            if which is None:
                self._state.mark_resizable()

    reset_states = reset_state  # Keras's older name

    @contextmanager
    def preserve_state(self) -> Iterator[None]:
        """A context manager that restores the state.

        On exit, also by an exception, the layer has exactly the state of the entry again; or none,
        if it had none.
        """
        state = self._state
        kept = None if state is None else state.read()
        # Compiled code cannot ask what has been written since a reset.
        resizable = state is not None and not is_compiling() and state.resizable
        try:
            yield
        finally:
            # A first Ctrl-C in between leaves no trace either.
            try:
                self._put_back(state, kept, resizable)
            except BaseException:
                self._put_back(state, kept, resizable)
                raise

    def _put_back(
        self, state: LSTMState | None, kept: tuple[Tensor, Tensor] | None, resizable: bool
    ) -> None:
        self._state = state
        if state is None or kept is None:
            return
        if kept[0].is_meta and not state.h.is_meta:
            state.reset()  # it had no numbers; a call has made it zeros since
        else:
            state.write(kept)
        if resizable:
            state.mark_resizable()

    # ------------------------------------------------------------ forward

    def forward(
        self,
        input: Input,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        reset_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        state: LSTMState | None = None,
        state_indices: Tensor | None = None,
    ) -> tuple[Input, tuple[Tensor, Tensor]]:
        """Runs a sequence. With ``stateful`` the final state becomes the resident state.

        Args:
            input: (T, B, I); (B, T, I) with ``batch_first``; (T, I) unbatched; or a
                ``PackedSequence``.
            hx: (h_0 (L*D, B, P), c_0 (L*D, B, H)), without B when unbatched. It replaces
                the resident state for this call, and gradients flow to it.
            reset_mask: bool, (T, B), or (B, T) with ``batch_first``, or (T,) unbatched: True where
                the row's state is zero before the step.
            lengths: int32 or int64 (B,), 0 to T, any device: see :func:`stateful_lstm.lstm`.
            state: another state for this call, from :meth:`new_state`. Calls that use different
                states may run in different threads at the same time.
            state_indices: int32 or int64 (B,): the slot of each row; -1: a padding row, whose
                output is 0 and which writes nothing.

        Returns:
            output, laid out as the input; (h_n, c_n) as ``nn.LSTM`` returns them.

        Raises:
            ValueError: for wrong ranks and sizes, such as a batch of another size than the state,
                and for a slot that ``state_indices`` names twice.
            RuntimeError: for sizes, devices and dtypes of ``hx``, as ``nn.LSTM`` does; and where a
                state cannot go: inside a backward pass, a ``torch.func`` transform or an export.
            TypeError: for an input that is not a tensor, or masks, lengths or indices of another
                dtype.
            IndexError: for a slot that does not exist.

        Each error says what was expected and what came. It comes before any computation, and the
        state does not change.
        """
        own = self._state if state is None else state
        if (  # the fast path: inference on an allocated state, on the CPU
            not is_grad_enabled()
            and not is_compiling()
            and hx is None
            and type(own) is LSTMState
            and own.h.is_cpu
            and (self.stateful or state is not None)
            and not _is_any_autocast_enabled()
            and not (self.training and self._drops())
            and operators.fastpath_inference is not None
            and forward_ad._current_level < 0
        ):
            done = operators.fastpath_inference(
                input,  # None is its answer to a packed sequence
                self._parameters,
                self._flat_weights_names,
                own.h,
                own.c,
                state_indices,
                reset_mask,
                lengths,
                self.bias,
                self.bidirectional,
                self.batch_first,
            )
            if done is not None:
                if state_indices is not None:
                    own.mark_used(by_slots=True)
                return done  # type: ignore[return-value]  # y is a tensor, as the input was
        if isinstance(input, fx.Proxy):
            return _fx_leaf(self, input, hx, reset_mask, lengths, state, state_indices)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, reset_mask, lengths, state, state_indices)
        weights, config = self._weights(), self._config()
        given = (input, hx, reset_mask, lengths, state_indices)
        arguments.check_memory(weights, self._flat_weights_names, *given)
        x, batched = arguments.check_input(input, weights[0], self.batch_first)
        T, B = x.shape[:2]
        sizes = arguments.state_sizes(weights, config)
        hidden = arguments.check_hx(hx, sizes, B, x, batched)
        reset = arguments.check_reset_mask(reset_mask, T, B, x.device, batched, self.batch_first)
        lengths = arguments.check_lengths(lengths, T, B, x.device)
        c_dtype = arguments.c_dtype(hidden, x)
        call = arguments.Call(x, x, x, reset, lengths, sizes, batched, self.batch_first, c_dtype)
        y, h_n, c_n = self._run(call, hidden, weights, config, state, state_indices, None)
        return call.results(y, h_n, c_n)

    if TYPE_CHECKING:
        __call__ = forward  # for type checkers: nn.Module says no more than Callable[..., Any]

    def _forward_packed(
        self,
        input: PackedSequence,
        hx: tuple[Tensor, Tensor] | None,
        reset_mask: Tensor | None,
        lengths: Tensor | None,
        state: LSTMState | None,
        state_indices: Tensor | None,
    ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]:
        """Unpacks to (T, B, I) with lengths, rows in the caller's order, and packs the results."""
        if reset_mask is not None or lengths is not None:
            raise ValueError("a PackedSequence takes neither reset_mask nor lengths")
        weights, config = self._weights(), self._config()
        data, batch_sizes = input.data, input.batch_sizes
        names = self._flat_weights_names
        arguments.check_memory(weights, names, data, hx, batch_sizes, None, state_indices)
        if data.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {data.dim()}")
        arguments.check_batch_sizes(data, batch_sizes)
        arguments.check_features(data, weights[0])
        x, row_lengths, places = packed.unpack(input)
        sizes = arguments.state_sizes(weights, config)
        hidden = arguments.check_hx(hx, sizes, x.size(1), x, True)
        given = arguments.c_dtype(hidden, x)
        call = arguments.Call(x, x, x, None, row_lengths, sizes, True, False, given)
        y, h_n, c_n = self._run(call, hidden, weights, config, state, state_indices, places)
        return packed.pack(y, places, input), call.results(y, h_n, c_n)[1]

    def _run(
        self,
        call: arguments.Call,
        hidden: tuple[Tensor, Tensor] | None,
        weights: list[Tensor],
        config: arguments.Config,
        state: LSTMState | None,
        state_indices: Tensor | None,
        packed_rows: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs a checked call from the state it carries on, and leaves its final state there."""
        own, padding = None, False
        if self.stateful or state is not None:
            own, padding = stateful_call.find_state(
                self._state if state is None else state,
                call.x,
                call.sizes,
                weights[0].dtype,
                state_indices,
                is_layers_own=state is None,
                starts_from_hx=hidden is not None,
            )
        else:
            stateful_call.check_stateless(call.x, state_indices)
        results = stateful_call.run(
            call,
            hidden,
            own,
            state_indices,
            padding,
            weights,
            config,
            self.training,
            self.recompute,
            packed_rows,
        )
        if own is not None and state is None and self._state is not own:
            self._state = own
        return results

    def _drops(self) -> bool:
        """Whether a layer in training has some dropout."""
        return bool(self.recurrent_dropout or (self.dropout and self.num_layers > 1))

    # ------------------------------------------------------------ being a module

    # Models call these methods of nn.LSTM; RNNBase has them for a single state.
    check_forward_args: Any = nn.LSTM.check_forward_args
    get_expected_cell_size: Any = nn.LSTM.get_expected_cell_size
    permute_hidden: Any = nn.LSTM.permute_hidden

    def _weights(self) -> list[Tensor]:
        """The current parameters, also replaced, parametrized or swapped ones."""
        own = self._parameters
        weights = []
        for name in self._flat_weights_names:
            weight = own.get(name)
            weights.append(getattr(self, name) if weight is None else weight)
        return weights

    def _any_weight(self) -> Tensor:
        """A parameter, for its dtype and device: a parametrized weight would be computed."""
        found = next(self.parameters(), None)
        return self._weights()[0] if found is None else found

    def _config(self) -> arguments.Config:
        return arguments.Config(
            self.num_layers,
            self.bias,
            self.batch_first,
            self.dropout,
            self.bidirectional,
            self.proj_size,
            self.recurrent_dropout,
        )

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels read the parameters in place."""

    def reset_parameters(self) -> None:
        """Initialises the parameters as ``nn.LSTM`` does, then the forget gates' biases."""
        super().reset_parameters()
        if getattr(self, "unit_forget_bias", False):
            self._add_unit_forget_bias()

    def _add_unit_forget_bias(self) -> None:
        with torch.no_grad():
            for name, weight in self.named_parameters(recurse=False):
                if name.startswith("bias_ih"):
                    weight[self.hidden_size : 2 * self.hidden_size] += 1

    def extra_repr(self) -> str:
        """As ``nn.LSTM``'s, with the extras that differ from their defaults."""
        text = super().extra_repr()
        extras = (
            ("stateful", self.stateful, True),
            ("recurrent_dropout", self.recurrent_dropout, 0.0),
            ("unit_forget_bias", self.unit_forget_bias, False),
            ("recompute", self.recompute, "none"),
        )
        changed = (f", {name}={value}" for name, value, default in extras if value != default)
        return text + "".join(changed)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StatefulLSTM:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._state is not None:
            weight = self._any_weight()
            self._state.move(weight.dtype, weight.device)
        return self

    def __prepare_scriptable__(self) -> None:
        """Refuses ``torch.jit.script``, which calls this method first."""
        raise RuntimeError(
            "torch.jit.script does not take a StatefulLSTM: use torch.compile; or, with "
            "stateful=False, torch.export or torch.jit.trace"
        )

    @property
    def __overloads__(self) -> dict[str, list[str]]:
        """None. A ``ScriptModule`` sets this attribute before it scripts a layer.

        It calls nothing else before, and ``torch.jit.trace`` never sets the attribute.
        """
        return {}

    @__overloads__.setter
    def __overloads__(self, overloads: dict[str, list[str]]) -> None:
        self.__prepare_scriptable__()

    def __getstate__(self) -> dict[str, Any]:
        contents: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        contents.pop("_compiled_call_impl", None)  # as nn.Module, but not RNNBase, does
        contents["_state"] = None  # pickles hold the weights; get_state is for the state
        return contents

    def __copy__(self) -> StatefulLSTM:
        """A copy that shares parameters and state, as copies of modules do."""
        return self._copied(dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> StatefulLSTM:
        return self._copied(lambda own: deepcopy(own, memo), memo)

    def _copied(
        self,
        copied: Callable[[dict[str, Any]], dict[str, Any]],
        memo: dict[int, Any] | None = None,
    ) -> StatefulLSTM:
        """A copy without the code of compile(), which would run the original."""
        new = self.__class__.__new__(self.__class__)
        if memo is not None:
            memo[id(self)] = new
        own = {
            k: v
            for k, v in self.__dict__.items()
            if k != "_compiled_call_impl" and not k.startswith("_flat_weight")
        }
        new.__dict__.update(copied(own))
        new.__dict__["_flat_weights_names"] = list(self._flat_weights_names)
        new._init_flat_weights()
        return new

    def _replicate_for_data_parallel(self) -> StatefulLSTM:
        if self.stateful:
            raise RuntimeError(
                "nn.DataParallel makes new replicas for every call, and their state would be lost "
                "with them: use DistributedDataParallel, or stateful=False with hx for the state"
            )
        replica: StatefulLSTM = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        return replica

    def _init_flat_weights(self) -> None:
        """Reads all weights in eval mode, in which a spectral_norm does not update itself."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        super()._init_flat_weights()
        for module, mode in modes:
            module.training = mode


def _fx_leaf(module: StatefulLSTM, *given: Any) -> Any:
    """The call as one node of a ``torch.fx`` graph, as for the modules of ``torch.nn``."""
    input, hx, *extras = given
    names = ("reset_mask", "lengths", "state", "state_indices")
    said = {k: v for k, v in zip(names, extras, strict=True) if v is not None}
    tracer = input.tracer
    if tracer.root is module:
        raise RuntimeError("torch.fx records calls of a StatefulLSTM: trace a module that holds it")
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (input, hx), said)
