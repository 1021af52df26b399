"""The benchmarks' ratios do not change when the machine changes its speed."""

import pytest

from benchmarks.cpu.timing import ROUNDS, Candidate, interleaved_turns, of_turns


def test_a_machine_that_slows_down_does_not_move_a_ratio():
    """One of the two slows down more than the other: medians would mix the machines."""
    ours = of_turns([[1.0, 1.0]] * 3 + [[4.0]] * 2)
    peer = of_turns([[2.0]] * 3 + [[6.0, 6.0, 6.0]] * 2)
    assert peer.over(ours) == 2.0
    assert peer.median / ours.median == 6.0


def test_a_round_that_one_sat_out_leaves_the_medians():
    ours = of_turns([[1.0], [1.0], [3.0]])
    assert of_turns([[4.0], [5.0]]).over(ours) == 4.5
    assert of_turns([[4.0]]).over(of_turns([[2.0]])) == 2.0


@pytest.mark.parametrize("first", [0.0, 1.5, 5.0])
def test_candidates_take_turns(first):
    called = []
    quick = Candidate("quick", lambda: called.append("quick"))
    other = Candidate("other", lambda: called.append("other"), first=first)
    turns = interleaved_turns([quick, other], 0.0)
    assert len(turns[0]) == ROUNDS and all(turns[0])
    assert len(turns[1]) == {0.0: ROUNDS, 1.5: ROUNDS, 5.0: 1}[first]
    assert ("other" in called) == (first < 5.0)
    if first < 5.0:  # quick, other; other, quick; quick, other
        changes = [name for name, last in zip(called, ["", *called], strict=False) if name != last]
        assert changes == ["quick", "other"] * 2
