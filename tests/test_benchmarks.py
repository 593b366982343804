import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import compare
from benchmarks.configurations import (
    CONFIGURATIONS,
    Configuration,
    ConvLSTM,
    Dense,
    Embedding,
    Recurrent,
    bidirectional,
    single,
)
from benchmarks.peers import ENGINES, keras_style_model, onnx_weights, torch_weights
from benchmarks.worker import Worker, WorkerError

TINY = Configuration((Recurrent("gru", 3), Recurrent("lstm", 2, False), Dense(2, "tanh")), 2, 2, 3)
BOTH = Recurrent("lstm", 3, bidirectional=True)
LAST = [Recurrent(cell, 2, False, bidirectional=True) for cell in ("rnn", "lstm", "gru")]
SEVERAL = [
    TINY,
    Configuration((Recurrent("rnn", 3), Dense(2)), 2, 2, 3),
    single("rnn", 1, 2, 2, 3),
    bidirectional("gru", 2, 3, 2, 4),
    Configuration((BOTH, BOTH, Dense(2)), 2, 2, 3),
    *(Configuration((BOTH, last), 2, 2, 3) for last in LAST),
    Configuration((Embedding(3), LAST[0], Dense(2)), 7, 2, 4),
]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def onnx_form(w, r, b):
    return w[0].T, r[0].T, *np.split(b[0], 2)


def torch_form(weight_ih, weight_hh, bias_ih, bias_hh):
    return weight_ih.T, weight_hh.T, bias_ih, bias_hh


ONNX_GATES = {"rnn": "h", "lstm": "iofg", "gru": "zrn"}
TORCH_GATES = {"rnn": "h", "lstm": "ifgo", "gru": "rzn"}


def recurrence(cell, gates, x, w, r, w_bias, r_bias):
    """The equations that ONNX's and PyTorch's documents share; x is (timesteps, batch, n)."""
    h = c = np.zeros((x.shape[1], len(r)))
    for x_t in x:
        inputs = dict(zip(gates, np.split(x_t @ w + w_bias, len(gates), axis=1), strict=True))
        states = dict(zip(gates, np.split(h @ r + r_bias, len(gates), axis=1), strict=True))
        if cell == "gru":
            z = sigmoid(inputs["z"] + states["z"])
            r_t = sigmoid(inputs["r"] + states["r"])
            h = (1 - z) * np.tanh(inputs["n"] + r_t * states["n"]) + z * h
        elif cell == "lstm":
            i, f, o = (sigmoid(inputs[gate] + states[gate]) for gate in "ifo")
            c = f * c + i * np.tanh(inputs["g"] + states["g"])
            h = o * np.tanh(c)
        else:
            h = np.tanh(inputs["h"] + states["h"])
        yield h


def keras_output(configuration):
    keras = pytest.importorskip("keras")
    model = keras_style_model(keras, configuration, configuration.parameters())
    return np.asarray(model(configuration.inputs()))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(
    ("convert", "form", "gates"),
    [(onnx_weights, onnx_form, ONNX_GATES), (torch_weights, torch_form, TORCH_GATES)],
    ids=["onnx", "torch"],
)
def test_converted_weights_mean_what_they_mean_in_keras(cell, convert, form, gates):
    configuration = single(cell, 3, 5, 2, 4)
    x = configuration.inputs().swapaxes(0, 1)
    weights = form(*convert(cell, *configuration.parameters()[0]))
    steps = list(recurrence(cell, gates[cell], x, *weights))
    np.testing.assert_allclose(np.stack(steps, axis=1), keras_output(configuration), atol=1e-6)


@pytest.mark.parametrize("engine", ["fastrnn", "ONNX Runtime", "PyTorch"])
@pytest.mark.parametrize(
    "configuration",
    SEVERAL,
    ids=lambda configuration: configuration.name,
)
def test_adapter_gives_what_keras_gives(engine, configuration):
    if ENGINES[engine].missing():
        pytest.skip(f"{engine} is not installed")
    x = configuration.inputs()
    model = ENGINES[engine](1).prepare(configuration, configuration.parameters(), x)
    y = model.to_numpy(model.call())
    np.testing.assert_allclose(y, keras_output(configuration), atol=1e-6)


def test_images_run_where_there_is_a_convlstm():
    configuration = Configuration((ConvLSTM(2, 3),), 2, 1, 3, size=4)
    x = configuration.inputs()
    able = [name for name, engine in ENGINES.items() if engine.runs(configuration)]
    assert able == ["fastrnn", "Keras jit", "Keras predict"]
    model = ENGINES["fastrnn"](1).prepare(configuration, configuration.parameters(), x)
    np.testing.assert_allclose(model.call(), keras_output(configuration), atol=1e-6)
    assert configuration.name == "convlstm2d 2->2, 1, 3, 4x4"


def test_names_tell_the_configurations_apart():
    names = [configuration.name for configuration in CONFIGURATIONS]
    assert len(set(names)) == len(names)
    assert names[0] == "rnn 1->2 + dense 2->1, 1, 12"


@pytest.fixture
def tiny_comparison(monkeypatch):
    monkeypatch.setattr(compare, "CONFIGURATIONS", (TINY,))
    monkeypatch.setattr(compare, "QUICK", compare.Budget(seconds=1e-3, calls=2, rounds=2))
    return ["--quick", "--threads", "1"]


def test_driver_times_the_installed_engines(tiny_comparison, tmp_path, capsys):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("Keras on JAX is the peer of this test")
    results = tmp_path / "results.json"
    engines = "fastrnn,Keras jit"
    status = compare.main([*tiny_comparison, "--engines", engines, "--json", str(results)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    (row,) = json.loads(results.read_text())["rows"]
    assert row["name"] == TINY.name
    assert row["best_peer"] == "Keras jit"
    timings = row["timings"]
    assert list(timings) == engines.split(",")
    assert row["ratio"] == timings["Keras jit"]["median"] / timings["fastrnn"]["median"]
    for timing in timings.values():
        assert 0 < timing["minimum"] <= timing["median"]
        assert timing["calls"] >= 2
        assert timing["deviation"] < 1e-6
    assert TINY.name in printed.out


class FakeWorker:
    def __init__(self, engine, output, seconds=1e-6):
        self.engine = engine
        self._output = output
        self._seconds = seconds
        self.measured = 0

    def prepare(self, configuration):
        if isinstance(self._output, WorkerError):
            raise self._output
        return np.full((1, 2), self._output)

    def measure(self, seconds, calls):
        self.measured += 1
        return [(self._seconds, calls)]


def test_an_engine_that_disagrees_or_fails_is_not_timed():
    workers = [
        FakeWorker("fastrnn", 0.5, seconds=1e-6),
        FakeWorker("right", 0.5, seconds=3e-6),
        FakeWorker("wrong", 0.6),
        FakeWorker("not a number", np.nan),
        FakeWorker("broken", WorkerError("broken failed")),
    ]
    row = compare.measure_row(workers, TINY, 1, compare.QUICK)
    assert set(row.timings) == {"fastrnn", "right"}
    assert "wrong differs by 1.0e-01" in row.failures["wrong"]
    assert row.failures["broken"] == "broken failed"
    assert [worker.measured for worker in workers] == [2, 2, 0, 0, 0]
    assert row.best_peer() == "right"
    assert row.ratio() == row.ratio("minimum") == pytest.approx(3)


def test_a_worker_tells_what_went_wrong():
    worker = Worker("no such engine", 1)
    with pytest.raises(WorkerError, match=r"no such engine failed:(.|\n)*KeyError"):
        worker.describe()
    worker.close()


def test_readme_table_goes_between_the_markers(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    monkeypatch.setattr(compare, "README", readme)
    readme.write_text(f"before\n{compare.README_START}\nold\n{compare.README_END}\nafter\n")
    timing = compare.Timing(median=2.0, minimum=1.5, calls=3, deviation=0.0)
    row = compare.Row(TINY, 1, {"fastrnn": timing, "PyTorch": timing}, {})
    table = compare.Table(["fastrnn", "PyTorch", "Keras jit"]).markdown([row])
    compare.write_readme(table, {"fastrnn": "fastrnn 1.0"}, "a command")
    text = readme.read_text()
    assert text.startswith(f"before\n{compare.README_START}\n")
    assert text.endswith(f"{compare.README_END}\nafter\n")
    assert f"| {TINY.name} | 1 | 2.00 (1.50) | 2.00 (1.50) | - | 1.00 (1.00) |" in text
    assert "old" not in text
    assert "a command" in text
    readme.write_text("no markers\n")
    with pytest.raises(SystemExit, match="lacks"):
        compare.write_readme(table, {}, "a command")


@pytest.mark.parametrize(
    "arguments", [["--threads", "0"], ["--engines", "Theano"], ["--only", "no such row"]]
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(SystemExit):
        compare.main(arguments)
