"""Pitfalls of recurrent state: one test or more for each of sixteen numbered ones, and two others.

15 (Inductor skips CUDA graphs for mutated inputs without static addresses) and 16 (streams and
synchronization in constructors and destructors) exist on CUDA only; tests/gpu has their tests.
"""

import contextlib
import copy
import weakref

import pytest
import torch
from state_support import (
    addresses,
    assert_unmoved,
    by_hand,
    call,
    close,
    every_mode,
    make,
    noise,
    plain,
    refused,
    same_bits,
    snapshot,
)
from torch.utils.checkpoint import checkpoint


def filled(**options):
    lstm = make(**options)
    lstm(noise(3, 4, 3, seed=8, dtype=lstm.weight_ih_l0.dtype))
    return lstm


@pytest.mark.parametrize("recompute", ["none", "gates", "segments", "auto"])
@pytest.mark.parametrize("steps", [1, 4])
def test_trap_1_backward_after_further_calls_uses_the_state_of_its_own_call(steps, recompute):
    lstm = filled(num_layers=2, recompute=recompute)
    started_from = lstm.state.read()
    x, oracle = noise(steps, 4, 3), plain(lstm)
    loss = lstm(x)[0].square().sum()
    call(lstm, noise(1, 4, 3, seed=3))
    lstm(noise(4, 4, 3, seed=4))
    lstm.reset_state()
    loss.backward()
    oracle(x, started_from)[0].square().sum().backward()
    for ours, theirs in zip(lstm.parameters(), oracle.parameters(), strict=True):
        close(ours.grad, theirs.grad)


@pytest.mark.parametrize("steps", [1, 4])
def test_trap_1_the_state_handed_in_as_hx_is_kept_for_backward(steps):
    lstm = filled()
    started_from = lstm.state.read()
    x, oracle = noise(steps, 4, 3), plain(lstm)
    loss = lstm(x, (lstm.state.h, lstm.state.c))[0].square().sum()
    loss.backward()
    oracle(x, started_from)[0].square().sum().backward()
    for ours, theirs in zip(lstm.parameters(), oracle.parameters(), strict=True):
        close(ours.grad, theirs.grad)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_trap_2_a_forward_re_run_inside_backward_is_refused(use_reentrant, steps):
    lstm = filled()
    x = noise(steps, 4, 3).requires_grad_()
    y = checkpoint(lambda given: lstm(given)[0], x, use_reentrant=use_reentrant)
    with refused(RuntimeError, "recompute", untouched=[lstm]):
        y.sum().backward()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_trap_2_checkpointing_a_stateless_layer_is_fine(use_reentrant):
    lstm, oracle = make(stateful=False), plain(make(stateful=False))
    for layer in (lstm, oracle):
        x = noise(4, 4, 3).requires_grad_()
        y = checkpoint(lambda given, layer=layer: layer(given)[0], x, use_reentrant=use_reentrant)
        y.square().sum().backward()
    for ours, theirs in zip(lstm.parameters(), oracle.parameters(), strict=True):
        close(ours.grad, theirs.grad)


def test_trap_3_warm_up_leaves_no_trace():
    warmed, cold = make(), make()
    with warmed.preserve_state():
        for _ in range(3):
            warmed(noise(4, 4, 3, seed=5))[0].sum().backward()
            call(warmed, noise(1, 4, 3, seed=6))
    for seed in (1, 2):
        x = noise(4, 4, 3, seed=seed)
        assert same_bits(warmed(x)[0], cold(x)[0])


def test_trap_3_an_lbfgs_closure_starts_each_evaluation_from_the_same_state():
    lstm = filled()
    before = snapshot(lstm.state)
    optimizer = torch.optim.LBFGS(lstm.parameters(), max_iter=5, line_search_fn="strong_wolfe")
    x, losses = noise(4, 4, 3), []

    def closure():
        optimizer.zero_grad()
        with lstm.preserve_state():
            loss = (lstm(x)[0] - 0.3).square().sum()
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)
    assert_unmoved(before, lstm.state)
    assert len(losses) > 2 and losses[-1] < losses[0]
    expected = by_hand(lstm, x, lstm.state.read())[0]
    with lstm.preserve_state():
        close(lstm(x)[0], expected)


def test_trap_4_distributed_data_parallel_has_no_state_to_broadcast():
    if not torch.distributed.is_available():
        pytest.skip("this build of torch has no torch.distributed")
    # Two ranks without a second process. (Gloo's threads want the lock that Python holds while it
    # frees the module, and now and then the two wait for each other for ever.)
    from torch.testing._internal.distributed.fake_pg import FakeStore

    lstm = filled()
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(lstm)
        assert wrapped.broadcast_buffers and not wrapped.will_sync_module_buffers()
        assert list(wrapped.modules_buffers) == []
        x = noise(4, 4, 3)
        expected = by_hand(lstm, x, lstm.state.read())[0]
        close(call(wrapped, x)[0], expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("receiver", ["stateful", "nn.LSTM"])
def test_trap_5_weights_load_strictly_whatever_the_batch_size(receiver):
    giver = filled()
    assert giver.state.slots == 4
    taker = make(seed=9)
    taker.allocate_state(7)
    taker = taker if receiver == "stateful" else plain(taker)
    taker.load_state_dict(giver.state_dict(), strict=True)
    giver.allocate_state(2)
    giver.load_state_dict(taker.state_dict(), strict=True)
    assert giver.state.slots == 2
    close(giver(noise(3, 2, 3))[0], plain(taker)(noise(3, 2, 3))[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_trap_6_casts_to_16_bits_keep_c_in_float32(dtype):
    lstm = filled(dtype=torch.float32)
    c = lstm.state.read()[1]
    lstm.to(dtype)
    assert lstm.state.h.dtype == dtype and same_bits(lstm.state.c, c)
    call(lstm, noise(1, 4, 3, dtype=dtype))
    lstm(noise(4, 4, 3, dtype=dtype))
    assert lstm.state.c.dtype == torch.float32
    assert not same_bits(lstm.state.c, lstm.state.c.to(dtype).float()), "c has been rounded"


@pytest.mark.parametrize(
    "prepare",
    [lambda lstm: lstm(noise(1, 4, 3)), lambda lstm: lstm(noise(3, 4, 3)),
     lambda lstm: lstm.allocate_state(4)],
    ids=["step", "call", "allocate"],
)  # fmt: skip
def test_trap_7_a_state_born_in_inference_mode_serves_outside_it(prepare):
    lstm = make()
    with torch.inference_mode():
        prepare(lstm)
    home = addresses(lstm)
    for x in noise(6, 4, 3, seed=2).split([1, 3, 2]):
        start = lstm.state.read()
        close(call(lstm, x)[0], by_hand(lstm, x, start)[0])
        start, oracle = lstm.state.read(), plain(lstm)
        lstm.zero_grad()
        lstm(x)[0].square().sum().backward()
        oracle(x, start)[0].square().sum().backward()
        for ours, theirs in zip(lstm.parameters(), oracle.parameters(), strict=True):
            close(ours.grad, theirs.grad)
    lstm.reset_state(torch.tensor([1]))
    lstm.state.write(lstm.state.read())
    with torch.inference_mode():
        lstm.reset_state()
        lstm(noise(1, 4, 3))
    with lstm.preserve_state():
        lstm(noise(2, 4, 3))[0].sum().backward()
    assert addresses(lstm) == home


def test_trap_7_preserve_state_inside_inference_mode():
    lstm = filled()
    before = snapshot(lstm.state)
    with torch.inference_mode(), lstm.preserve_state():
        lstm(noise(1, 4, 3))
        lstm(noise(3, 4, 3))
    assert_unmoved(before, lstm.state)
    lstm(noise(3, 4, 3))[0].sum().backward()


def test_trap_7_a_second_state_born_in_inference_mode():
    lstm = make()
    with torch.inference_mode():
        state = lstm.new_state(4)
    call(lstm, noise(1, 4, 3), state=state)
    lstm(noise(3, 4, 3), state=state)[0].sum().backward()


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_trap_7_a_state_copied_or_moved_in_inference_mode_serves_outside_it(how):
    lstm = make()
    lstm(noise(2, 4, 3))
    with torch.inference_mode():
        other = copy.deepcopy(lstm) if how == "copied" else lstm.float()
    before = [t.clone() for t in other.state.read()]
    assert not other.state.h.is_inference() and not other.state.c.is_inference()
    other.reset_state([0])
    assert not other.state.h[:, 0].any() and other.state.h[:, 1:].any()
    other.state.write(before)
    with other.preserve_state(), torch.no_grad():
        other(noise(2, 4, 3, dtype=before[0].dtype))
    assert all(map(same_bits, other.state.read(), before))


def test_trap_8_a_layer_with_a_live_graph_can_be_deep_copied():
    lstm = make()
    y, _ = lstm(noise(4, 4, 3).requires_grad_())
    twin = copy.deepcopy(lstm)
    assert same_bits(twin.state.h, lstm.state.h)
    y.sum().backward()
    assert all(p.grad is None for p in twin.parameters())


@every_mode
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float64], ids=str)
def test_trap_9_a_mask_of_another_dtype_is_refused(steps, grad, dtype):
    lstm = filled()
    with refused(TypeError, "reset_mask", "bool", untouched=[lstm]):
        call(lstm, noise(steps, 4, 3), grad, reset_mask=torch.zeros(steps, 4, dtype=dtype))


@every_mode
@pytest.mark.parametrize("where", ["resident", "hx"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")], ids=str)
def test_trap_10_a_reset_selects_and_so_kills_nan(steps, grad, where, poison):
    lstm = filled(num_layers=2)
    h, c = lstm.state.read()
    h[:, 1] = c[:, 1] = poison
    mask = torch.zeros(steps, 4, dtype=torch.bool)
    mask[0, 1] = True
    x, options = noise(steps, 4, 3), {"reset_mask": mask}
    given = (h.clone().requires_grad_(grad), c.clone().requires_grad_(grad))
    if where == "hx":
        options["hx"] = given
    else:
        lstm.state.write((h, c))
    y, _ = call(lstm, x, grad, **options)
    clean = (h.nan_to_num(0, 0, 0), c.nan_to_num(0, 0, 0))
    clean[0][:, 1] = clean[1][:, 1] = 0
    oracle = plain(lstm)
    expected, (h_end, c_end) = oracle(x, clean)
    close(y, expected)
    close(lstm.state.h, h_end)
    close(lstm.state.c, c_end)
    if grad:
        y.square().sum().backward()
        expected.square().sum().backward()
        for ours, theirs in zip(lstm.parameters(), oracle.parameters(), strict=True):
            close(ours.grad, theirs.grad)
        if where == "hx":
            assert not given[0].grad[:, 1].any() and not given[1].grad[:, 1].any()
            assert given[0].grad[:, 0].all()


@pytest.mark.parametrize("grad", [False, True])
def test_trap_10_a_reset_in_the_middle_kills_nan(grad):
    lstm = filled()
    lstm.state.h[:, 2] = float("nan")
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[2, 2] = True
    y, _ = call(lstm, noise(4, 4, 3), grad, reset_mask=mask)
    assert y[:2, 2].isnan().all() and y[2:].isfinite().all()
    close(y[2:, 2:3], by_hand(lstm, noise(4, 4, 3)[2:, 2:3])[0])
    assert lstm.state.h.isfinite().all() and lstm.state.c.isfinite().all()


def test_trap_10_reset_state_kills_nan():
    lstm = filled()
    lstm.state.h.fill_(float("nan"))
    lstm.state.c.fill_(float("inf"))
    lstm.reset_state(torch.tensor([True, False, False, True]))
    lstm.reset_state(torch.tensor([1, 2]))
    assert same_bits(lstm.state.h, torch.zeros(1, 4, 5, dtype=torch.float64))
    assert same_bits(lstm.state.c, torch.zeros(1, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("grad", [False, True])
def test_trap_11_the_final_state_is_that_of_the_last_valid_step(grad):
    lstm = filled(num_layers=2)
    start = lstm.state.read()
    x, lengths = noise(5, 4, 3), torch.tensor([5, 0, 3, 1])
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[2, 0] = True  # inside
    mask[0, 1] = True  # in a row without steps: nothing happens
    mask[3:, 2] = True  # in the padding: nothing happens
    y, (h_n, c_n) = call(lstm, x, grad, lengths=lengths, reset_mask=mask)
    expected, (h, c) = by_hand(lstm, x, start, mask, lengths)
    close(y, expected)
    for t, length in enumerate(lengths):
        assert not y[length:, t].any()
    close(h_n, h)
    close(c_n, c)
    assert same_bits(lstm.state.h, h_n) and same_bits(lstm.state.c, c_n)
    assert same_bits(lstm.state.h[:, 1], start[0][:, 1])
    assert same_bits(lstm.state.c[:, 1], start[1][:, 1])


@every_mode
def test_trap_11_a_row_without_steps_keeps_its_state(steps, grad):
    lstm = filled(num_layers=2)
    start = lstm.state.read()
    x, lengths = noise(steps, 4, 3), torch.tensor([steps, 0, steps, 0])
    y, (h_n, c_n) = call(lstm, x, grad, lengths=lengths)
    close(y, by_hand(lstm, x, start, lengths=lengths)[0])
    for row in (1, 3):
        assert not y[:, row].any()
        assert same_bits(lstm.state.h[:, row], start[0][:, row])
        assert same_bits(lstm.state.c[:, row], start[1][:, row])
    assert same_bits(lstm.state.h, h_n) and same_bits(lstm.state.c, c_n)


@every_mode
def test_trap_12_padding_never_writes_the_last_slot(steps, grad):
    lstm = filled()
    h, c = lstm.state.read()
    call(lstm, noise(steps, 3, 3), grad, state_indices=torch.tensor([-1, 0, -1]))
    assert same_bits(lstm.state.h[:, 1:], h[:, 1:]) and same_bits(lstm.state.c[:, 1:], c[:, 1:])
    with refused(ValueError, untouched=[lstm]):
        call(lstm, noise(steps, 2, 3), grad, state_indices=torch.tensor([3, 3]))


def test_trap_12_a_reset_of_row_minus_one_never_clears_the_last_slot():
    lstm = filled()
    before = snapshot(lstm.state)
    with contextlib.suppress(IndexError):
        lstm.reset_state(torch.tensor([-1]))
    assert_unmoved(before, lstm.state)


def test_trap_13_more_steps_than_a_16_bit_counter_holds():
    lstm = make(input_size=1, hidden_size=2, dtype=torch.float32)
    x = noise(70_000, 1, 1, dtype=torch.float32)
    y, (h_n, _) = call(lstm, x)
    assert same_bits(y[-1], h_n[0])
    tail_start = 66_000
    lstm.reset_state()
    call(lstm, x[:tail_start])
    close(call(lstm, x[tail_start:])[0], y[tail_start:])


# T * B * 4H >= 2^31 would need 8 GB of gates in float32: tests/gpu does it. Here only the strides
# are that large, over memory that is reserved and never touched.
@pytest.mark.parametrize("steps", [1, 4])
def test_trap_13_strides_beyond_32_bits(steps):
    stride = 2**31 + 16
    try:
        sea = torch.empty(stride + 64, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("this machine does not reserve 4 GB of memory that nobody touches")
    x = sea.as_strided((steps, 2, 3), (3, stride, 1))
    x.copy_(noise(steps, 2, 3, dtype=torch.bfloat16))
    near, far = make(dtype=torch.bfloat16), make(dtype=torch.bfloat16)
    assert same_bits(call(far, x)[0], call(near, x.clone())[0])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_trap_14_a_call_makes_older_uses_of_the_state_an_error(steps, mode):
    lstm = filled()
    weight = noise(1, 4, 5).requires_grad_()
    uses = [(lstm.state.h * weight).sum(), (lstm.state.c * weight).sum()]
    with mode():
        lstm(noise(steps, 4, 3))
    for use in uses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            use.backward()


@pytest.mark.parametrize(
    "change",
    [
        lambda lstm: lstm.reset_state(),
        lambda lstm: lstm.reset_state(torch.tensor([0])),
        lambda lstm: lstm.state.write((noise(1, 4, 5), noise(1, 4, 5))),
        lambda lstm: call(lstm, noise(1, 1, 3), state_indices=torch.tensor([2])),
        lambda lstm: call(lstm, noise(2, 1, 3), state_indices=torch.tensor([2])),
    ],
    ids=["reset", "reset_row", "write", "slot_step", "slot_call"],
)
def test_trap_14_every_other_change_is_noticed_too(change):
    lstm = filled()
    weight = noise(1, 4, 5).requires_grad_()
    uses = [(lstm.state.h * weight).sum(), (lstm.state.c * weight).sum()]
    change(lstm)
    for use in uses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            use.backward()


@pytest.mark.parametrize("steps", [1, 4])
def test_no_call_holds_on_to_the_graphs_of_those_before(steps):
    """Carried by hand, and never detached, each call's graph holds all before it."""
    lstm, alive = make(), []
    for k in range(3):
        y, _ = lstm(noise(steps, 4, 3, seed=k).requires_grad_())
        assert not any(t.requires_grad for t in (lstm.state.h, lstm.state.c))
        alive.append(weakref.ref(y.grad_fn))
    assert [node() is None for node in alive] == [
        True,
        True,
        False,
    ]  # but the last one, which is y's
    del y, _
    assert [node() for node in alive] == [None] * 3


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("grad", [False, True])
def test_a_slot_named_twice_is_refused(steps, grad):
    """Which of its two rows it would hold afterwards is anybody's guess."""
    lstm = make()
    lstm.allocate_state(4)
    before = snapshot(lstm.state)
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match="slot 2 twice"):
        lstm(noise(steps, 3, 3), state_indices=torch.tensor([2, 1, 2]))
    assert_unmoved(before, lstm.state)
