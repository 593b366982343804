"""`fastrnn.explain`, and the ways of computing that can be forced."""

import json

import numpy as np
import pytest

import fastrnn
from fastrnn import _core, cli, layers


@pytest.fixture
def forced():
    """Let a test force ways."""
    yield _core.force
    _core.force()


def model_of(*parts, shape=(30, 40)):
    return fastrnn.Sequential([fastrnn.Input(shape), *parts])


def test_every_operation_is_told_in_its_order():
    model = model_of(layers.LSTM(20, return_sequences=True), layers.Conv1D(3, 2), layers.GRU(4))
    told = fastrnn.explain(model, (2, 30, 40))
    names = [one.name for one in told.operations]
    assert names[0] == names[-1] == "Recurrent"
    numpy_steps = [one for one in told.operations if one.runs_on == "NumPy"]
    assert numpy_steps
    assert all(np.isnan(one.share_of_cost) for one in numpy_steps)
    kernels = [one for one in told.operations if one.runs_on != "NumPy"]
    assert sum(one.share_of_cost for one in kernels) == pytest.approx(1)
    assert kernels[0].weight_bytes > 4 * 20 * (20 + 40) * 4
    assert len(str(told).splitlines()) == 1 + len(told.operations)


def test_ways_follow_the_rows(threads):
    fastrnn.set_num_threads(1)
    few = fastrnn.explain(model_of(layers.LSTM(2)), (1, 30, 40)).operations[0]
    many = fastrnn.explain(model_of(layers.LSTM(1), shape=(30, 1)), (64, 30, 1)).operations[0]
    assert (few.ways, few.tile_rows) == (("projection ahead",), 1)
    assert (many.ways, many.tile_rows) == (("rows in lanes",), 64)


def test_threads_share_what_is_worth_it(threads):
    model = model_of(layers.Bidirectional(layers.LSTM(64)))
    fastrnn.set_num_threads(2)
    assert {one.threads for one in fastrnn.explain(model, (300, 30, 40)).operations} == {2}
    assert {one.threads for one in fastrnn.explain(model, (1, 30, 40)).operations[2:]} == {1}
    fastrnn.set_num_threads(1)
    assert {one.threads for one in fastrnn.explain(model, (300, 30, 40)).operations} == {1}


def test_states_stay_as_they_are():
    model = fastrnn.Sequential([fastrnn.Input(batch_shape=(2, 5, 3)), layers.GRU(4, stateful=True)])
    model(np.ones((2, 5, 3), np.float32))
    before = [state.copy() for state in model.states]
    fastrnn.explain(model, (2, 5, 3))
    np.testing.assert_array_equal(model.states, before)


def test_several_inputs_are_told_apart():
    a, b = fastrnn.Input((5, 3)), fastrnn.Input((5, 2))
    y = layers.LSTM(4)(layers.Concatenate()([a, b]))
    told = fastrnn.explain(fastrnn.Model([a, b], y), [(7, 5, 3), (7, 5, 2)])
    assert told.operations[-1].name == "Recurrent"


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        fastrnn.explain(model_of(layers.LSTM(8)), (1, 30, 41))


@pytest.mark.parametrize("batch", [1, 5, 70])
@pytest.mark.parametrize("way", ["rows_in_lanes", "hoisting"])
@pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.LSTM, layers.GRU])
def test_forced_ways_are_taken_and_change_no_bit(kind, way, batch, forced, rng):
    model = model_of(kind(8, return_sequences=True))
    x = rng.normal(size=(batch, 30, 40)).astype(np.float32)
    told, results = set(), []
    for choice in ("never", "always"):
        forced(**{way: choice})
        told.add(fastrnn.explain(model, x.shape).operations[0].ways)
        results.append(model(x))
    assert len(told) == 2
    np.testing.assert_array_equal(*results)


def test_an_unknown_choice_is_refused(forced):
    with pytest.raises(KeyError, match="perhaps"):
        forced(hoisting="perhaps")


def test_the_command_prints_a_table_or_json(capsys):
    path = str(cli.Path(fastrnn.__file__).with_name("data") / "sunspots.keras")
    assert cli.main(["explain", path, "--shape", "5,12,1"]) == cli.OK
    assert "Recurrent" in capsys.readouterr().out
    assert cli.main(["explain", path, "--shape", "5x12x1", "--json"]) == cli.OK
    assert json.loads(capsys.readouterr().out)["operations"][0]["name"] == "Recurrent"
    assert cli.main(["explain", path, "--shape", "5,12,7"]) == cli.USAGE
