"""Samples of sweeps: what they keep, and that one seed gives one sample."""

import itertools
import random
from types import SimpleNamespace

import pytest

from tests.sampling import LEVELS, drawn, sampled

ROWS, KINDS, BUILDS = (1, 96, 97, 193), ("lstm", "gru", "rnn"), ("v3", "base")


def items(**parameters):
    """A test's items, as pytest has them, for the product of these parameters."""
    values = [
        dict(zip(parameters, row, strict=True)) for row in itertools.product(*parameters.values())
    ]
    return [
        SimpleNamespace(
            nodeid=f"test_a.py::test[{number}]",
            callspec=SimpleNamespace(params=params),
            get_closest_marker=lambda name: None,
        )
        for number, params in enumerate(values)
    ]


def alone(slow=False):
    """A test without parameters."""
    mark = "a mark" if slow else None
    name = "slow" if slow else "other"
    return SimpleNamespace(nodeid=f"test_a.py::{name}", get_closest_marker=lambda _: mark)


@pytest.mark.parametrize("seed", ["0", "1", "a commit"])
def test_any_two_values_meet_in_a_sample(seed):
    every = items(rows=ROWS, kind=KINDS, build=BUILDS)
    kept = [item.callspec.params for item in sampled(every, "sample", seed)]
    assert len(kept) < len(every)
    parameters = {"rows": ROWS, "kind": KINDS, "build": BUILDS}
    for names in itertools.combinations(parameters, 2):
        met = {tuple(params[name] for name in names) for params in kept}
        assert met == set(itertools.product(*(parameters[name] for name in names)))


def test_of_numbered_cases_a_share_is_kept_on_some_build_each():
    kept = sampled(items(number=range(400), build=BUILDS), "sample", "0")
    numbers = {item.callspec.params["number"] for item in kept}
    assert len(numbers) == 50
    assert {item.callspec.params["build"] for item in kept} == set(BUILDS)
    assert len(kept) <= len(numbers) + 1


def test_a_seed_gives_one_sample_whatever_is_collected_beside_it():
    every = items(number=range(400), build=BUILDS)
    assert sampled(every, "sample", "0") == sampled([alone(), *every], "sample", "0")[1:]
    assert sampled(every, "sample", "0") != sampled(every, "sample", "1")
    assert sampled(every, "all", "0") == every


def test_quick_takes_a_few_cases_of_new_values_each():
    every = items(rows=range(3), kind=KINDS, number=range(100))
    kept = [item.callspec.params for item in sampled(every, "quick", "0")]
    assert len(kept) == LEVELS["quick"][2]
    values = [set(params.items()) for params in kept]
    for i, new in enumerate(values[1:], start=1):
        assert new - set().union(*values[:i])


def test_quick_leaves_out_what_is_slow():
    both = [alone(), alone(slow=True)]
    assert sampled(both, "sample", "0") == both
    assert sampled(both, "quick", "0") == both[:1]


def test_cases_are_drawn():
    assert sorted(drawn(range(5), "sample", random.Random(0))) == [0, 1, 2, 3, 4]
    assert len(drawn(range(400), "sample", random.Random(0))) == 50
    assert sorted(drawn(range(400), "all", random.Random(0))) == list(range(400))
