"""Arguments of ``stateful_lstm.data``: other kinds, NumPy's numbers, another device."""

import numpy as np
import pytest
import torch

from stateful_lstm.data import ContinuousBatches, Window, bucket_by_length

SERIES = np.arange(100.0)


class DataFrame(dict):
    """Like pandas' in what matters here: its name, and that numbers are no keys."""

    shape = (3, 2)


class Series(DataFrame):
    shape = (3,)


EXPECTED = r"sequences must be a list of arrays \(T, ...\) or one array \(N, T, ...\)"


@pytest.mark.parametrize(
    ("sequences", "error", "text"),
    [
        (SERIES, ValueError, r"got one array of shape \(100,\): .* \[series\.reshape\(-1, 1\)\]"),
        (torch.arange(9), ValueError, r"got one array of shape \(9,\)"),
        (np.float64(3), TypeError, "got a float64"),
        (torch.tensor(3.0), ValueError, r"got one array of shape \(\)"),
        (DataFrame(a=[1.0, 2.0]), TypeError, r"got a DataFrame: .* \[frame\.to_numpy\(\)\]"),
        (Series(a=1.0), TypeError, r"got a Series: .* \[frame\.to_numpy\(\)\]"),
        ({"a": SERIES}, TypeError, r"got a dict: pass list\(sequences\.values\(\)\)"),
        ((s for s in [SERIES]), TypeError, "map-style dataset of arrays; got a generator"),
        ("series", TypeError, "got a str"),
        (None, TypeError, "got a NoneType"),
    ],
)
def test_what_are_no_sequences_is_refused_by_name(sequences, error, text):
    with pytest.raises(error, match=f"{EXPECTED}.*{text}"):
        ContinuousBatches(sequences, 1, 10)
    with pytest.raises(error, match=f"{EXPECTED}.*{text}"):
        Window.pad(sequences)
    if sequences is not None:
        with pytest.raises(error, match=f"targets must .*{text}"):
            ContinuousBatches([SERIES], 1, 10, targets=sequences)


@pytest.mark.parametrize("kind", [DataFrame, Series])
def test_frames_in_a_list_are_refused_by_name(kind):
    with pytest.raises(TypeError, match=rf"sequences\[1\] .* got {kind.__name__}: .* to_numpy\(\)"):
        ContinuousBatches([SERIES, kind()], 2, 60)
    with pytest.raises(TypeError, match=rf"targets\[0\] .* got {kind.__name__}"):
        Window.pad([SERIES], [kind()])


def test_arrays_of_objects_are_refused_by_name():
    mixed = np.array([[1.0, "a"], [2.0, "b"]], dtype=object)
    with pytest.raises(TypeError, match=r"sequences\[0\] must have a dtype of numbers, got object"):
        ContinuousBatches([mixed], 1, 2)
    with pytest.raises(TypeError, match=r"targets\[0\] must have a dtype of numbers, got object"):
        Window.pad([SERIES[:2]], [mixed])


def test_frames_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]})
    with pytest.raises(TypeError, match=r"got a DataFrame: pass one series as \[frame\.to_numpy"):
        ContinuousBatches(frame, 1, 3)
    with pytest.raises(TypeError, match="got a Series"):
        ContinuousBatches(frame["a"], 1, 3)
    (window,) = ContinuousBatches([frame.to_numpy()], 1, 3)
    assert window.input[:, 0].tolist() == frame.to_numpy().tolist()
    lengths = pandas.Series([3, 5, 4], index=[7, 8, 9])
    assert bucket_by_length(lengths, 2) == [[0, 2], [1]]


def test_a_series_without_features_stays_without():
    (window,) = ContinuousBatches([SERIES], 1, 100)
    assert window.input.shape == (100, 1)
    (window,) = ContinuousBatches([SERIES.reshape(-1, 1)], 1, 100)
    assert window.input.shape == (100, 1, 1)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numpys_numbers_are_numbers(kind):
    sequences = [np.arange(n) for n in (17, 9, 12)]
    how = {"batch_size": 1, "window": 5, "seed": 3, "rank": 1, "world_size": 2}
    plain = ContinuousBatches(sequences, **how, shuffle=True)
    numpys = ContinuousBatches(
        sequences, **{name: kind(number) for name, number in how.items()}, shuffle=np.bool_(True)
    )
    plain.set_epoch(2)
    numpys.set_epoch(kind(2))
    assert repr(numpys) == repr(plain)
    position = {**plain.state_dict(), "epoch": kind(2), "window": kind(1)}
    plain.load_state_dict(position)
    numpys.load_state_dict(position)
    assert numpys.state_dict() == plain.state_dict()
    assert all(type(number) in (int, bool, str) for number in numpys.state_dict().values())
    assert [w.input.tolist() for w in numpys] == [w.input.tolist() for w in plain]
    lengths = [3, 5, 4]
    expected = bucket_by_length(lengths, 2, shuffle=True, seed=1)
    for same in (np.array(lengths, kind), [kind(n) for n in lengths], torch.tensor(lengths)):
        assert bucket_by_length(same, kind(2), shuffle=True, seed=kind(1)) == expected


@pytest.mark.parametrize("name", ["batch_size", "window", "seed", "rank", "world_size"])
def test_what_is_no_whole_number_is_refused_by_name(name):
    how = {"batch_size": 1, "window": 5, name: 1.0}
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got 1.0"):
        ContinuousBatches([SERIES], **how)


def test_buckets_refuse_by_name():
    for name in ("batch_size", "seed"):
        with pytest.raises(TypeError, match=f"{name} must be a whole number, got '2'"):
            bucket_by_length([1, 2], **{"batch_size": 1, name: "2"})
    sequences = [torch.ones(3, 2), torch.ones(4, 2)]
    for wrong in (sequences, [SERIES, SERIES[1:]], {"a": 1}, ["a"], None):
        with pytest.raises(TypeError, match=r"lengths must be whole .* \[len\(s\) for s in seq"):
            bucket_by_length(wrong, 1)
    with pytest.raises(TypeError, match=r"whole numbers, got torch\.bool"):
        bucket_by_length([True, False], 1)
    with pytest.raises(ValueError, match=r"whole numbers, \(N,\), got shape \(1, 2\)"):
        bucket_by_length([[1, 2]], 1)
    assert bucket_by_length([], 1) == []


def test_set_epoch_takes_whole_numbers_only():
    data = ContinuousBatches([SERIES], 1, 10)
    with pytest.raises(TypeError, match=r"epoch must be a whole number, got 1\.5"):
        data.set_epoch(1.5)
    assert data.epoch == 0


def test_the_repr_says_sizes():
    data = ContinuousBatches([SERIES, SERIES], 2, 10, shuffle=True, seed=4)
    assert repr(data) == (
        "ContinuousBatches(sequences=2, batch_size=2, window=10, shuffle=True, seed=4, "
        "batch_first=False, rank=0, world_size=1)"
    )


def test_another_default_device_changes_nothing():
    """ "meta" stands in for "cuda"."""
    sequences = [torch.randn(n, 1) for n in (30, 20)]

    def everything():
        data = ContinuousBatches(sequences, 2, 10, shuffle=True)
        windows = list(data)
        data.load_state_dict(windows[0].position)
        windows += [*data, Window.pad(sequences), Window.pad([s.numpy() for s in sequences])]
        fields = [getattr(w, n) for w in windows for n in ("input", "target_mask", "lengths")]
        buckets = [
            bucket_by_length(lengths, 2, shuffle=True)
            for lengths in ([3, 5, 4], np.array([3, 5, 4]), torch.tensor([3, 5, 4], device="cpu"))
        ]
        return [field.tolist() for field in fields], buckets

    expected = everything()
    with torch.device("meta"):
        assert everything() == expected


@pytest.mark.parametrize("value", ["no", 0, None, torch.ones(2, 5, 1)])
def test_switches_are_true_or_false(value):
    x = torch.ones(2, 5, 1)
    for name in ("shuffle", "batch_first"):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
            ContinuousBatches(x, 2, 3, **{name: value})
    for name in ("shuffle", "drop_last"):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
            bucket_by_length([3, 4], 2, **{name: value})
    assert ContinuousBatches(x, 2, 3, shuffle=np.bool_(True)).shuffle is True


def test_masked_arrays_are_refused_since_their_mask_would_be_lost():
    series = np.ma.masked_array(np.ones((9, 1)), mask=np.eye(9, 1))
    with pytest.raises(TypeError, match=r"sequences\[0\] is a masked array: fill it"):
        ContinuousBatches([series], 1, 3)
