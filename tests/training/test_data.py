"""``stateful_lstm.data``: every step once, in order, in one row; positions, workers, ranks."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from stateful_lstm.data import ContinuousBatches, Window, bucket_by_length

# Many small cases on purpose; the warning has a file of its own, test_padding.py.
pytestmark = pytest.mark.filterwarnings("ignore:.* of an epoch's steps are padding:UserWarning")

FIELDS = ("input", "target", "reset_mask", "lengths", "target_mask")


def numbered(lengths):
    """Sequences whose steps are numbers that occur nowhere else: 1000 k + t."""
    return [1000 * (k + 1) + torch.arange(n) for k, n in enumerate(lengths)]


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def all_same(a, b):
    a, b = list(a), list(b)
    return len(a) == len(b) and all(map(same, a, b))


def time_major(window):
    """input, target, reset_mask, target_mask as (T, B)."""
    tensors = window.input, window.target, window.reset_mask, window.target_mask
    return [t.transpose(0, 1) if window.batch_first else t for t in tensors]


SHAPES = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 5),
        "window": st.integers(1, 7),
        "shuffle": st.booleans(),
        "seed": st.integers(0, 3),
        "batch_first": st.booleans(),
    }
)
LENGTHS = st.lists(st.integers(1, 25), min_size=1, max_size=9)


# ---- ContinuousBatches ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(LENGTHS, SHAPES, st.integers(1, 3))
def test_every_step_comes_once_and_in_its_row(lengths, shape, world_size):
    seen = []
    counts = set()
    for rank in range(world_size):
        data = ContinuousBatches(numbered(lengths), **shape, rank=rank, world_size=world_size)
        windows = list(data)
        counts.add(len(windows))
        before = [None] * shape["batch_size"]
        ended = [False] * shape["batch_size"]
        for window in windows:
            x, target, reset, target_mask = time_major(window)
            assert x.shape == (shape["window"], shape["batch_size"])
            for row, length in enumerate(window.lengths.tolist()):
                assert not (ended[row] and length), "a row goes on after its padding"
                ended[row] = length < shape["window"]
                assert not x[length:, row].any() and not target_mask[length:, row].any()
                assert not reset[length:, row].any()
                for t in range(length):
                    step = int(x[t, row])
                    seen.append(step)
                    number, at = step // 1000 - 1, step % 1000
                    assert bool(reset[t, row]) == (at == 0)
                    assert at == 0 or before[row] == step - 1
                    assert bool(target_mask[t, row]) == (at + 1 < lengths[number])
                    assert int(target[t, row]) == (step + 1 if target_mask[t, row] else 0)
                    before[row] = step
    assert sorted(seen) == sorted(torch.cat(numbered(lengths)).tolist())
    assert len(counts) == 1, "the ranks have different numbers of windows"


@settings(max_examples=60, deadline=None)
@given(LENGTHS, SHAPES, st.integers(2, 3))
def test_the_ranks_windows_side_by_side_are_those_of_one_process(lengths, shape, ranks):
    joined = {**shape, "batch_size": ranks * shape["batch_size"]}
    one = list(ContinuousBatches(numbered(lengths), **joined))
    each = [
        list(ContinuousBatches(numbered(lengths), **shape, rank=rank, world_size=ranks))
        for rank in range(ranks)
    ]
    for k, window in enumerate(one):
        for name in FIELDS:
            dim = 0 if shape["batch_first"] or name == "lengths" else 1
            parts = [getattr(windows[k], name) for windows in each]
            assert torch.equal(torch.cat(parts, dim), getattr(window, name)), name


@settings(max_examples=30, deadline=None)
@given(LENGTHS, SHAPES, st.data())
def test_a_position_goes_on_exactly_there(lengths, shape, data):
    windows = list(ContinuousBatches(numbered(lengths), **shape))
    k = data.draw(st.integers(0, len(windows) - 1))
    by_window = ContinuousBatches(numbered(lengths), **shape)
    by_window.load_state_dict(windows[k].position)
    assert all_same(by_window, windows[k + 1 :])

    first = ContinuousBatches(numbered(lengths), **shape)
    *_, last = itertools.islice(first, k + 1)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    assert state == last.position == windows[k].position
    other = ContinuousBatches(numbered(lengths), **shape)
    other.load_state_dict(state)
    assert all_same(other, windows[k + 1 :])
    # After the epoch's rest both go on with the next one; where there is no rest, at once.
    over = k == len(windows) - 1
    assert first.epoch == over and other.epoch == 1
    if not over:
        list(first)
    assert all_same(first, other)


def test_who_counts_to_the_length_goes_on_to_the_next_epoch():
    """Some training loops never ask for more than there is."""
    shape = {"batch_size": 2, "window": 4, "shuffle": True}
    counted, whole = (ContinuousBatches(numbered([5] * 20), **shape) for _ in range(2))
    for epoch in range(3):
        assert counted.epoch == epoch
        windows = [window for _, window in zip(range(len(counted)), counted, strict=False)]
        assert windows[-1].position == counted.state_dict()
        assert all_same(windows, whole)


def test_each_epoch_has_an_order_of_its_own():
    shape = {"batch_size": 2, "window": 4, "shuffle": True}
    data = ContinuousBatches(numbered([5] * 20), **shape, seed=1)
    first, second = list(data), list(data)
    assert not all_same(first, second)
    data.set_epoch(0)
    assert all_same(data, first)
    assert all_same(data, second)
    assert not all_same(ContinuousBatches(numbered([5] * 20), **shape, seed=2), first)


def test_an_epoch_that_was_left_begins_anew():
    data = ContinuousBatches(numbered([9]), 1, 2)
    next(iter(data))
    assert len(list(data)) == 5
    data.load_state_dict({**data.state_dict(), "epoch": 1, "window": 3})
    assert len(list(data)) == 2
    assert data.epoch == 2 and len(list(data)) == len(data) == 5


def test_targets_of_another_shape_and_dtype():
    x = [torch.randn(n, 3) for n in (5, 4)]
    labels = [torch.randint(1, 9, (n, 2, 2), dtype=torch.int16) for n in (5, 4)]
    (window,) = ContinuousBatches(x, 1, 10, targets=labels)
    assert window.target.dtype == torch.int16 and window.target.shape == (10, 1, 2, 2)
    assert torch.equal(window.input[:9, 0], torch.cat(x))
    assert torch.equal(window.target[:9, 0], torch.cat(labels))
    assert window.target_mask[:9].all() and not window.target_mask[9]


@pytest.mark.parametrize("kind", ["list", "array", "whole", "dataset", "tensor"])
def test_kinds_of_sequences(kind):
    whole = torch.randn(4, 6, 2)
    kinds = {
        "list": list(whole),
        "array": [s.numpy() for s in whole],
        "whole": whole.numpy(),
        "tensor": whole.clone().requires_grad_(),
        "dataset": Items(list(whole)),
    }
    assert all_same(ContinuousBatches(kinds[kind], 3, 4), ContinuousBatches(list(whole), 3, 4))
    assert not next(iter(ContinuousBatches(kinds[kind], 3, 4))).input.requires_grad


class Items(Dataset):
    """A map-style dataset that counts how often an item is taken."""

    def __init__(self, items):
        self.items, self.taken = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        self.taken += 1
        return self.items[k]


def test_a_dataset_is_read_as_sequences_begin():
    items = Items([torch.randn(n, 1) for n in (50, 50, 50, 50)])
    windows = iter(ContinuousBatches(items, 2, 10))
    assert items.taken == 0
    for _ in range(4):
        next(windows)
    assert items.taken == 4  # two for their length, and for their steps
    list(windows)
    assert items.taken == 8


def test_a_file_larger_than_what_is_read(tmp_path):
    shape = (3, 40_000, 64)  # 30 MB
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, shape)
    file[:, ::100] = 1.0
    file.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = ContinuousBatches(mapped, 3, 100)
    window = next(iter(data))
    assert window.input[0].eq(1).all() and not window.input[1:].any()
    # Windows own their memory: nothing of the file is held.
    assert window.input.untyped_storage().nbytes() == 100 * 3 * 64 * 4
    assert len(data) == 400


class Counted(np.ndarray):
    """An array that knows how many steps at most have been made of it at once."""

    most = 0

    def __array_finalize__(self, other):
        if other is not None and self.ndim == 2:
            Counted.most = max(Counted.most, len(self))


def test_of_a_sequence_only_a_window_is_read_at_once():
    array = np.zeros((500, 3), np.float32).view(Counted)
    data = ContinuousBatches([array], 1, 10)
    Counted.most = 0
    assert len(list(data)) == 50
    assert Counted.most == 11, "a window, and the target of its last step"


@pytest.mark.parametrize("kind", ["one", "list", "part"])
def test_memory_maps_go_to_spawned_workers_as_the_name_of_their_file(tmp_path, kind):
    numbers = np.arange(3 * 400 * 64, dtype=np.float32).reshape(3, 400, 64)
    np.save(tmp_path / "x.npy", numbers)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    sequences = {"one": mapped, "list": list(mapped), "part": mapped[:, 7::3, ::2]}[kind]
    data = ContinuousBatches(sequences, 2, 50)
    sent = pickle.dumps(data)
    assert len(sent) < 5000 < numbers.nbytes
    assert all_same(pickle.loads(sent), data)
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")  # whose changes no file has
    changed[0, 0] = 5
    copied = pickle.loads(pickle.dumps(ContinuousBatches(changed, 2, 50)))
    assert next(iter(copied)).input[0, 0].eq(5).all()
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    if kind == "part":
        assert all_same(loader, ContinuousBatches(sequences, 2, 50))


def test_arrays_that_torch_does_not_take():
    backwards, foreign = np.arange(9.0)[::-1], np.arange(9, dtype=">f8")
    windows = list(ContinuousBatches([backwards, foreign], 2, 9))
    assert windows[0].input[:, 0].tolist() == backwards.tolist()
    assert windows[0].input[:, 1].tolist() == foreign.tolist()


def test_an_item_that_is_another_length_later_is_refused():
    items = Items([torch.randn(9, 1)])
    data = ContinuousBatches(items, 1, 3)
    assert len(data) == 3
    items.items[0] = torch.randn(5, 1)
    with pytest.raises(ValueError, match=r"sequences\[0\] has 5 steps now, it had 9 before"):
        list(data)


def test_fewer_sequences_than_rows():
    (window,) = ContinuousBatches(numbered([3]), 4, 5)
    assert window.lengths.tolist() == [3, 0, 0, 0]
    assert window.reset_mask.sum() == 1 and window.target_mask.sum() == 2


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_in_a_dataloader_with_workers(workers, persistent):
    def make():
        return ContinuousBatches(numbered([17, 3, 9, 1, 30, 2]), 2, 4, shuffle=True)

    alone, data = make(), make()
    loader = DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=persistent)
    for epoch in range(2):
        data.set_epoch(epoch)
        windows = list(loader)
        assert all_same(windows, alone)
    data.set_epoch(1)
    data.load_state_dict(windows[2].position)
    assert all_same(loader, windows[3:])


def test_a_window_says_how_it_is_pinned_and_moved():
    window = next(iter(ContinuousBatches(numbered([4]), 1, 4)))
    moved = window.to("meta")
    assert {getattr(moved, name).device.type for name in FIELDS} == {"meta"}
    assert moved.position == window.position and moved.batch_first == window.batch_first
    if torch.cuda.is_available():
        assert window.pin_memory().input.is_pinned()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more, got 0"),
        ({"window": 0}, ValueError, "window must be 1 or more, got 0"),
        ({"world_size": 0}, ValueError, "world_size must be 1 or more, got 0"),
        ({"seed": -1}, ValueError, "seed must be 0 or more, got -1"),
        ({"rank": 2, "world_size": 2}, ValueError, "rank must be 0 to 1, got 2"),
        ({"sequences": []}, ValueError, "at least one sequence"),
        ({"sequences": [torch.ones(2), torch.ones(0)]}, ValueError, r"sequences\[1\] is empty"),
        ({"sequences": [torch.ones(2, 3), torch.ones(2, 4)]}, ValueError, r"\(4,\).*\(3,\)"),
        ({"sequences": [torch.ones(2), torch.ones(2).int()]}, ValueError, "int32.*float32"),
        ({"sequences": [torch.tensor(1.0)]}, ValueError, "empty: expected"),
        ({"sequences": [[1.0, 2.0]]}, TypeError, "tensor or an array, got list"),
        ({"targets": [torch.ones(3)]}, ValueError, "2 sequences and 1 targets"),
        ({"targets": [torch.ones(3), torch.ones(9)]}, ValueError, r"targets\[1\] has 9 steps"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, text):
    arguments = {
        "sequences": [torch.ones(3), torch.ones(4)],
        "batch_size": 2,
        "window": 3,
        **arguments,
    }
    with pytest.raises(error, match=text):
        ContinuousBatches(**arguments)


def test_a_dataset_item_that_does_not_fit_is_refused_when_it_is_read():
    data = ContinuousBatches(Items([torch.ones(5), torch.ones(0)]), 1, 2)
    with pytest.raises(ValueError, match=r"sequences\[1\] is empty"):
        list(data)


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 3}, {"window": 5}, {"seed": 1}, {"shuffle": True}, {"lengths": [9, 8]}],
)
def test_a_position_in_other_data_is_refused(change):
    shape = {"batch_size": 2, "window": 4}
    position = ContinuousBatches(numbered([9, 9]), **shape).state_dict()
    lengths = change.pop("lengths", [9, 9])
    other = ContinuousBatches(numbered(lengths), **{**shape, **change})
    with pytest.raises(ValueError, match="this position is of"):
        other.load_state_dict(position)
    with pytest.raises(ValueError, match="expected a position"):
        other.load_state_dict({"epoch": 0})
    assert other.state_dict()["window"] == 0
    for name, wrong, text in (
        ("window", 4, "behind window 4, and the data ends earlier"),
        ("window", -1, "window must be a whole number from 0 on, got -1"),
        ("window", 1.7, "window must be a whole number from 0 on, got 1.7"),
        ("epoch", "1", "epoch must be a whole number from 0 on, got '1'"),
    ):
        with pytest.raises(ValueError, match=text):
            other.load_state_dict({**other.state_dict(), name: wrong})
    assert other.state_dict()["window"] == 0


# ---- whole sequences -----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 60), max_size=40),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
)
def test_buckets(lengths, batch_size, shuffle, drop_last, seed):
    how = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
    batches = bucket_by_length(lengths, batch_size, **how)
    assert batches == bucket_by_length(torch.tensor(lengths), batch_size, **how)
    assert all(len(batch) <= batch_size for batch in batches)
    seen = [k for batch in batches for k in batch]
    assert len(seen) == len(set(seen))
    missing = len(lengths) - len(seen)
    assert missing == (len(lengths) % batch_size if drop_last else 0)
    # No two batches overlap in length, which is why no others with full batches pad less.
    spans = sorted((min(lengths[k] for k in b), max(lengths[k] for k in b)) for b in batches)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


def test_buckets_in_another_order_with_another_seed():
    lengths = [3] * 10 + [8] * 10
    one, two = (bucket_by_length(lengths, 5, shuffle=True, seed=seed) for seed in (0, 1))
    assert one != two
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        bucket_by_length(lengths, 0)
    with pytest.raises(ValueError, match=r"lengths\[1\] is 0"):
        bucket_by_length([1, 0], 2)
    with pytest.raises(TypeError, match=r"whole numbers, got torch\.float32"):
        bucket_by_length([2.0, 2.7], 2)


def padding(batches, lengths):
    return sum(max(lengths[k] for k in b) - lengths[k] for b in batches for k in b)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 5), st.randoms())
def test_no_other_full_batches_pad_less(lengths, batch_size, random):
    order = list(range(len(lengths)))
    random.shuffle(order)
    others = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
    if len(others[-1]) < batch_size:  # the longest one's
        longest = max(order, key=lambda k: lengths[k])
        order.remove(longest)
        order.append(longest)
        others = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
    ours = bucket_by_length(lengths, batch_size)
    assert padding(ours, lengths) <= padding(others, lengths)


@pytest.mark.parametrize("batch_first", [False, True])
def test_whole_sequences_as_a_window(batch_first):
    x = [torch.randn(n, 2) for n in (3, 1, 5)]
    window = Window.pad(x, batch_first=batch_first)
    inputs, targets, reset, mask = time_major(window)
    assert inputs.shape == (5, 3, 2) and window.lengths.tolist() == [3, 1, 5]
    assert reset[0].all() and not reset[1:].any()
    for row, sequence in enumerate(x):
        n = len(sequence)
        assert torch.equal(inputs[:n, row], sequence) and not inputs[n:, row].any()
        assert torch.equal(targets[: n - 1, row], sequence[1:])
        assert mask[:, row].tolist() == [t < n - 1 for t in range(5)]
    labels = [torch.arange(len(s)) for s in x]
    given_targets = Window.pad(x, labels, batch_first)
    assert given_targets.target_mask.sum() == 9 and given_targets.target.dtype == torch.int64


@pytest.mark.parametrize(
    ("sequences", "targets", "text"),
    [
        ([], None, "at least one sequence"),
        ([torch.ones(0)], None, r"sequences\[0\] is empty"),
        ([torch.ones(2), torch.ones(2, 1)], None, r"sequences\[1\] has steps of shape"),
        ([torch.ones(2)], [torch.ones(3)], r"targets\[0\] has 3 steps, its sequence has 2"),
        ([torch.ones(2)], [], "1 sequences and 0 targets"),
    ],
)
def test_sequences_that_make_no_window(sequences, targets, text):
    with pytest.raises(ValueError, match=text):
        Window.pad(sequences, targets)
