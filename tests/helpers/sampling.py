"""The marker `sampled`: `make test` runs only a sample of a parametrized test.

A test with many combinations of parameters is sampled along a diagonal: the k-th value of one
parameter meets the k-th value of each other parameter, and shorter lists start over. So the sample
contains every value, and is as small as the longest list. `sampled(most=N)` takes at most N cases
of the sample. All other cases get the marker `slow`.
"""

from collections import defaultdict

import pytest


def mark_slow(items):
    for tests in by_function(items).values():
        sample = diagonal(tests)
        most = tests[0].get_closest_marker("sampled").kwargs.get("most", len(sample))
        sample = set(sample[:: -(-len(sample) // most)])
        for test in tests:
            if test not in sample:
                test.add_marker(pytest.mark.slow)


def by_function(items):
    functions = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            functions[item.parent.nodeid, item.originalname].append(item)
    return functions


def diagonal(tests):
    """The tests whose parameters have the same index in their lists, modulo the lengths."""
    lists = [[values(test, names) for test in tests] for names in parametrized(tests[0])]
    places = [positions(values) for values in lists]
    lengths = [1 + max(each) for each in places]
    longest = lengths.index(max(lengths))
    return [
        test
        for test, *place in zip(tests, *places, strict=True)
        if all(k == place[longest] % length for k, length in zip(place, lengths, strict=True))
    ]


def parametrized(test):
    """Yields the parameter names of each `parametrize` of a test."""
    for mark in test.iter_markers("parametrize"):
        names = mark.args[0]
        yield names.replace(" ", "").split(",") if isinstance(names, str) else names


def values(test, names):
    return tuple(id(test.callspec.params[name]) for name in names)


def positions(values):
    """The index of each value among the distinct values, in order of appearance."""
    seen = {}
    return [seen.setdefault(value, len(seen)) for value in values]
