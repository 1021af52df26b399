"""PyTorch's own tests of ``nn.LSTM`` as a module, applied to the layer.

The samples and the bad calls are PyTorch's: the entry for ``nn.LSTM`` in the ``module_db`` of
``torch.testing._internal``. Its test class is in no wheel, so the checks are written here.
"""

import copy
import io
import itertools
import pickle

import pytest
import torch
from comparisons import results, twin
from torch import nn

from stateful_lstm import StatefulLSTM

DTYPES = [torch.float32, torch.float64]
both = pytest.mark.parametrize("stateful", [False, True], ids=["stateless", "stateful"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # nn.LSTM says so once in a process, in inference.
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


@pytest.fixture(scope="module")
def info():
    """PyTorch's description of nn.LSTM. Imported here: it takes seconds."""
    pytest.importorskip("expecttest", reason="torch.testing._internal imports it")
    from torch.testing._internal.common_modules import module_db

    # That import forbids this whole process to set torch.backends' flags. Allow it again.
    vars(torch.backends)["__allow_nonbracketed_mutation_flag"] = True
    return next(entry for entry in module_db if entry.module_cls is nn.LSTM)


def samples(info, dtype, requires_grad=False):
    """(constructor's keywords, forward's arguments, reference) of each of PyTorch's samples."""
    found = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=True
    )
    assert len(found) >= 32
    for sample in found:
        assert not sample.constructor_input.args and not sample.forward_input.kwargs
        yield sample.constructor_input.kwargs, sample.forward_input.args, sample.reference_fn


def pair(settings, dtype, stateful):
    theirs = nn.LSTM(**settings, dtype=dtype)
    return twin(theirs, stateful=stateful), theirs


def flat(output):
    y, (h, c) = output
    return y, h, c


def close(ours, theirs):
    torch.testing.assert_close(flat(ours), flat(theirs))


@both
@each_dtype
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_forward(info, dtype, stateful, grad):
    with torch.set_grad_enabled(grad):
        for settings, args, reference in samples(info, dtype):
            ours, theirs = pair(settings, dtype, stateful)
            given = copy.deepcopy(args)
            close(ours(*args), theirs(*args))
            torch.testing.assert_close(args, given, rtol=0, atol=0, msg="an input was changed")
            ours.reset_state()
            output = ours(*args)
            ours.reset_state()
            close(output, reference(ours, *args))  # a batch of one, and its dimension taken off


@each_dtype
def test_a_second_call_is_the_first_again_or_goes_on(info, dtype):
    for settings, args, _ in samples(info, dtype):
        x, state = args[0], args[1:]
        ours, theirs = pair(settings, dtype, False)
        ours(*args)
        close(ours(*args), theirs(*args))
        ours = twin(theirs, stateful=True)
        _, state = theirs(x, *state)
        ours(*args)
        if settings["bidirectional"]:  # the reverse direction starts from zero at every call
            state = tuple(s * torch.tensor([1, 0] * 2).view(4, 1) for s in state)
        close(ours(x), theirs(x, state))


@each_dtype
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_factory_keywords(info, dtype, device):
    for settings, _, _ in samples(info, dtype):
        ours = StatefulLSTM(**settings, device=device, dtype=dtype)
        expected = nn.LSTM(**settings, device=device, dtype=dtype)
        assert list(ours.state_dict()) == list(expected.state_dict())
        for parameter in ours.parameters():
            assert parameter.device.type == device and parameter.dtype == dtype
        assert not list(ours.buffers())


@each_dtype
def test_repr_and_construction_draw_the_same(info, dtype):
    for settings, _, _ in samples(info, dtype):
        torch.manual_seed(3)
        theirs = nn.LSTM(**settings, dtype=dtype)
        torch.manual_seed(3)
        ours = StatefulLSTM(**settings, dtype=dtype)
        assert ours.extra_repr() == theirs.extra_repr()
        assert torch.equal(
            nn.utils.parameters_to_vector(ours.parameters()),
            nn.utils.parameters_to_vector(theirs.parameters()),
        )


def in_memory(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@both
@pytest.mark.parametrize(
    "through",
    [copy.deepcopy, in_memory, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deepcopy", "torch.save", "pickle"],
)
def test_copies_compute_the_same(info, stateful, through):
    for settings, args, _ in samples(info, torch.float64):
        ours, theirs = pair(settings, torch.float64, stateful)
        copied = through(ours)
        close(copied(*args), theirs(*args))
        assert copied.stateful == stateful
        for one, other in zip(copied.parameters(), ours.parameters(), strict=True):
            assert one is not other and torch.equal(one, other)


def scattered(tensor):
    """The same values, in no order of dimensions that is contiguous."""
    wide = torch.full((*tensor.shape, 2), float("nan"), dtype=tensor.dtype)
    wide[..., 0] = tensor.detach()
    return wide[..., 0].requires_grad_(tensor.requires_grad)


@both
@each_dtype
def test_non_contiguous_tensors(info, dtype, stateful):
    def tree(args, change):
        return tuple(change(a) if torch.is_tensor(a) else tree(a, change) for a in args)

    for settings, args, _ in samples(info, dtype, requires_grad=True):
        ours, theirs = pair(settings, dtype, stateful)
        hx = args[1] if len(args) > 1 else None
        expected = results(theirs, args[0], hx, dict(theirs.named_parameters()))
        for x_far, hx_far in itertools.product([False, True], [False, True]):
            if hx is None and hx_far:
                continue
            x = scattered(args[0]) if x_far else args[0]
            states = tree(hx, scattered) if hx_far else hx
            assert not x_far or not x.is_contiguous()
            ours.reset_state()
            got = results(ours, x, states, dict(ours.named_parameters()))
            torch.testing.assert_close(got, expected)


@both
def test_weights_that_are_not_contiguous(info, stateful):
    for settings, args, _ in samples(info, torch.float64):
        ours, theirs = pair(settings, torch.float64, stateful)
        for parameter in ours.parameters():
            parameter.data = scattered(parameter).detach()
            assert not parameter.is_contiguous()
        close(ours(*args), theirs(*args))


def derivatives(info, stateful, check, wanted):
    for settings, args, _ in samples(info, torch.float64, requires_grad=True):
        if not wanted(settings):
            continue
        ours, _ = pair(settings, torch.float64, stateful)
        names = [name for name, _ in ours.named_parameters()]
        count = 1 + 2 * (len(args) > 1)
        inputs = [args[0], *(args[1] if len(args) > 1 else ())]
        weights = [parameter.detach().requires_grad_() for parameter in ours.parameters()]

        def call(*tensors, ours=ours, names=names, count=count):
            ours.reset_state()  # a function of its arguments
            x, *hx = tensors[:count]
            given = dict(zip(names, tensors[count:], strict=True))
            output = torch.func.functional_call(ours, given, (x, tuple(hx) or None))
            return flat(output)

        assert check(call, [*inputs, *weights], fast_mode=True)


@both
def test_grad(info, stateful):
    derivatives(info, stateful, torch.autograd.gradcheck, lambda settings: True)


@pytest.mark.sampled(most=1)
@both
def test_gradgrad(info, stateful):
    assert info.supports_gradgrad
    # The layout is a transpose and a bias a sum: to leave them out takes a quarter of the time.
    derivatives(
        info,
        stateful,
        torch.autograd.gradgradcheck,
        lambda settings: settings["bias"] and not settings["batch_first"],
    )


@both
def test_whether_train_and_eval_differ(info, stateful):
    """They may, PyTorch says: with dropout, and not without."""
    assert info.train_and_eval_differ
    for settings, args, _ in samples(info, torch.float64):
        for dropout in (0.0, 0.5):
            ours, theirs = pair({**settings, "dropout": dropout}, torch.float64, stateful)
            trained = ours.train()(*args)
            ours.reset_state()
            evaluated = ours.eval()(*args)
            assert torch.allclose(trained[0], evaluated[0]) == (dropout == 0)
            close(evaluated, theirs.eval()(*args))


@both
@pytest.mark.parametrize("swap", [False, True], ids=["data", "swap_tensors"])
def test_to(info, stateful, swap):
    """There and back by dtype and by device, with both ways that torch has to do it."""
    for settings, args, _ in samples(info, torch.float32):
        ours, theirs = pair(settings, torch.float32, stateful)
        before = list(ours.parameters())
        torch.__future__.set_swap_module_params_on_conversion(swap)
        try:
            ours.to(torch.float64).to(torch.float32)
            assert all(a is b for a, b in zip(before, ours.parameters(), strict=True))
            close(ours(*args), theirs(*args))
            ours.to("meta")
            assert {p.device.type for p in ours.parameters()} == {"meta"}
            ours.to_empty(device="cpu")
        finally:  # load_state_dict cannot swap the parameters of an RNNBase, nn.LSTM's either
            torch.__future__.set_swap_module_params_on_conversion(False)
        ours.load_state_dict(theirs.state_dict())
        ours.reset_state()
        close(ours(*args), theirs(*args))


@both
def test_save_load(info, stateful):
    for settings, args, _ in samples(info, torch.float64):
        ours, theirs = pair(settings, torch.float64, stateful)
        ours(*args)  # a resident state is in no file
        file = io.BytesIO()
        torch.save(ours.state_dict(), file)
        file.seek(0)
        loaded = torch.load(file)
        fresh = StatefulLSTM(**settings, dtype=torch.float64, stateful=stateful)
        assert not any(fresh.load_state_dict(loaded))
        close(fresh(*args), theirs(*args))
        nn.LSTM(**settings, dtype=torch.float64).load_state_dict(loaded)


@both
@each_dtype
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_errors(info, dtype, stateful, training):
    bad = info.module_error_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=False, training=training
    )
    assert len(bad) >= 14
    forwards = 0
    for case in bad:
        sample = case.module_error_input
        args, keywords = sample.constructor_input.args, sample.constructor_input.kwargs
        if case.error_on.name == "CONSTRUCTION_ERROR":
            with pytest.raises(case.error_type, match=case.error_regex):
                StatefulLSTM(*args, **keywords, stateful=stateful)
            continue
        ours = StatefulLSTM(*args, **keywords, stateful=stateful).train(training)
        with pytest.raises(case.error_type, match=case.error_regex):
            ours(*sample.forward_input.args, **sample.forward_input.kwargs)
        assert ours.state is None
        forwards += 1
    assert forwards


# ---- and what torch's tests of nn, of the older kind, ask of nn.LSTM ---------------------------


@both
@pytest.mark.parametrize("proj_size", [0, 2])
def test_no_initial_state_means_zeros(stateful, proj_size):
    ours, theirs = pair({"input_size": 3, "hidden_size": 5, "num_layers": 2,
                         "proj_size": proj_size}, torch.float64, stateful)  # fmt: skip
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    zeros = x.new_zeros(2, 2, proj_size or 5), x.new_zeros(2, 2, 5)
    close(ours(x), theirs(x, zeros))
    ours.reset_state()
    close(ours(x, zeros), theirs(x))


def test_dropout_changed_between_calls():
    settings = {"input_size": 3, "hidden_size": 5, "num_layers": 3}
    ours, theirs = pair(settings, torch.float64, False)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    for p in (0, 0.5, 1, 0):
        ours.dropout = theirs.dropout = p
        torch.manual_seed(1)
        y = ours(x)
        torch.manual_seed(1)
        close(y, theirs(x))
