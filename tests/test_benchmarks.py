import ctypes
import dataclasses
import importlib.util
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))

import fastrnn
from benchmarks import (
    bulk,
    chart,
    compare,
    contention,
    draw,
    growth,
    limits,
    machine,
    oracle,
    padding,
    startup,
    streams,
    subject,
)
from benchmarks.configurations import (
    DESIGN,
    MODELS,
    Configuration,
    ConvLSTM,
    Dense,
    Embedding,
    Recurrent,
    bidirectional,
    single,
)
from benchmarks.peers import ENGINES, keras_style_model, onnx_weights, torch_weights
from benchmarks.worker import Worker, WorkerError, time_calls
from tests.clock import Clock

MACHINE = machine.Machine(
    threads=1,
    flops=100.0,
    levels=(machine.Level("L1", 1000, 40.0), machine.Level("memory", None, 10.0)),
    tanh=0.5,
    sigmoid=0.25,
)
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


@pytest.mark.parametrize("engine", ["fastrnn", "ONNX Runtime", "OpenVINO", "PyTorch"])
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
    assert able == ["fastrnn", "Keras jit", "Keras predict", "TF function", "TF predict"]
    model = ENGINES["fastrnn"](1).prepare(configuration, configuration.parameters(), x)
    np.testing.assert_allclose(model.call(), keras_output(configuration), atol=1e-6)
    assert configuration.name == "convlstm2d 2->2, 1, 3, 4x4"


def test_names_tell_the_configurations_apart():
    names = [configuration.name for configuration in DESIGN + MODELS + draw.DRAWN]
    assert len(set(names)) == len(names)
    assert names[0] == "rnn 1->2 + dense 2->1, 1, 12"


@pytest.fixture
def tiny_comparison(monkeypatch):
    monkeypatch.setattr(compare, "ROWS", {"design": (TINY,)})
    monkeypatch.setattr(compare, "QUICK", compare.Budget(seconds=1e-3, calls=2, rounds=2, cap=1))
    monkeypatch.setattr(machine, "measure", lambda threads: MACHINE)
    return ["--quick", "--threads", "1"]


@pytest.mark.slow
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
        assert timing["error"] < 1e-6
    assert row["fraction"] == row["limit"] / timings["fastrnn"]["median"]
    assert "1 rows, 2 engines, threads [1]: some " in printed.out
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
        return np.broadcast_to(
            self._output, (1, np.size(self._output)) if np.ndim(self._output) else (1, 2)
        )

    def measure(self, seconds, calls, cap):
        self.measured += 1
        return [(self._seconds, calls)]


def measured_row(workers, budget=compare.QUICK):
    return compare.measure_row(workers, TINY, 1, budget, np.full((1, 2), 0.5), limit=5e-7)


def test_an_engine_that_disagrees_or_fails_is_not_timed():
    workers = [
        FakeWorker("fastrnn", 0.5, seconds=1e-6),
        FakeWorker("right", 0.5, seconds=3e-6),
        FakeWorker("wrong", 0.6),
        FakeWorker("not a number", np.nan),
        FakeWorker("misshapen", np.zeros(3)),
        FakeWorker("broken", WorkerError("broken failed")),
    ]
    row = measured_row(workers)
    assert set(row.timings) == {"fastrnn", "right"}
    assert "wrong is 2.0e-01 of the output's scale off the oracle in gru" in row.failures["wrong"]
    assert row.failures["misshapen"] == "misshapen gives (1, 3), not (1, 2)"
    assert row.failures["broken"] == "broken failed"
    assert [worker.measured for worker in workers] == [2, 2, 0, 0, 0, 0]
    assert row.best_peer() == "right"
    assert row.ratio() == row.ratio("minimum") == pytest.approx(3)
    assert row.fraction() == pytest.approx(0.5)


def test_reduced_precision_is_timed_and_not_compared():
    workers = [
        FakeWorker("fastrnn", 0.5, seconds=2e-6),
        FakeWorker("OpenVINO", 0.5 + 1e-7, seconds=3e-6),
        FakeWorker("OpenVINO bf16", 0.501, seconds=1e-6),
    ]
    row = measured_row(workers)
    assert row.timings["OpenVINO bf16"].error == pytest.approx(2e-3)
    assert row.best_peer() == "OpenVINO"
    assert row.least_error() == pytest.approx(2e-7, rel=0.01)


def test_a_slow_engine_has_fewer_turns():
    worker = FakeWorker("fastrnn", 0.5, seconds=2)
    row = measured_row([worker], compare.Budget(seconds=0.1, calls=4, rounds=4, cap=3))
    assert worker.measured == 2
    assert row.timings["fastrnn"].calls == 2


def test_a_call_that_is_longer_than_the_cap_is_timed_once(monkeypatch):
    calls, clock = [], Clock()
    monkeypatch.setattr("benchmarks.worker.time", clock)

    def call():
        calls.append(None)
        clock.sleep(0.3)

    ((seconds, count),) = time_calls(call, 10, 20, cap=0.2)
    assert len(calls) == count == 1
    assert seconds == pytest.approx(0.3)
    samples = time_calls(call, 0.001, 20, cap=0.8)
    assert samples == [(pytest.approx(0.3), 1)] * 3


@pytest.mark.slow
def test_a_worker_tells_what_went_wrong():
    worker = Worker("no such engine", 1)
    with pytest.raises(WorkerError, match=r"no such engine failed:(.|\n)*KeyError"):
        worker.describe()
    worker.close()


def test_table_goes_between_the_markers_of_a_document(tmp_path):
    document = tmp_path / "README.md"
    document.write_text(f"before\n{compare.START}\nold\n{compare.END}\nafter\n")
    timing = compare.Timing(median=2.0, minimum=1.5, calls=3, error=1e-7)
    row = compare.Row(TINY, 1, {"fastrnn": timing, "PyTorch": timing}, {}, limit=0.75)
    table = compare.Table(["fastrnn", "PyTorch", "Keras jit"], [TINY]).markdown([row])
    compare.write_table(document, table, {"fastrnn": "fastrnn 1.0"}, "a command")
    text = document.read_text()
    assert text.startswith(f"before\n{compare.START}\n")
    assert text.endswith(f"{compare.END}\nafter\n")
    assert (
        f"| {TINY.name} | 1 | 2.00 (1.50) | 2.00 (1.50) | - | 1.00 (1.00) | 38% (50%) | 1.0e-07 (1.0e-07) |"
        in text
    )
    assert "old" not in text
    assert "a command" in text
    document.write_text("no markers\n")
    with pytest.raises(SystemExit, match="lacks"):
        compare.write_table(document, table, {}, "a command")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--threads", "0"],
        ["--engines", "Theano"],
        ["--only", "no such row"],
        ["--rows", "no such table"],
    ],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(SystemExit):
        compare.main(arguments)


@pytest.mark.parametrize("configuration", SEVERAL, ids=lambda configuration: configuration.name)
def test_oracle_gives_what_keras_gives(configuration):
    expected = oracle.expected(configuration)
    assert expected.dtype == np.float64
    assert oracle.error(keras_output(configuration), expected) < 1e-6


def test_oracle_computes_a_sample_of_a_large_batch():
    large = single("gru", 2, 3, batch=100, timesteps=2)
    chosen = oracle.sample(100)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 99, 8)
    assert oracle.sample(3).tolist() == [0, 1, 2]
    keras = keras_output(large)[chosen]
    np.testing.assert_allclose(oracle.expected(large), keras, atol=1e-6)


def test_the_draw_is_the_committed_one():
    listed = Path(draw.__file__).with_suffix(".txt").read_text().splitlines()
    assert [configuration.name for configuration in draw.DRAWN] == listed


def test_the_draw_takes_each_value_equally_often():
    assert len(draw.DRAWN) == 80
    layers = [configuration.layers[0] for configuration in draw.DRAWN]
    for values, drawn in [
        (draw.CELLS, [layer.cell for layer in layers]),
        (draw.UNITS, [layer.units for layer in layers]),
        (draw.FEATURES, [configuration.features for configuration in draw.DRAWN]),
        (draw.BATCHES, [configuration.batch for configuration in draw.DRAWN]),
        (draw.TIMESTEPS, [configuration.timesteps for configuration in draw.DRAWN]),
    ]:
        counts = Counter(drawn)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_limit_of_a_small_layer_is_bound_by_its_cache():
    # 2 flops for each of 3 x 20 numbers of the kernel, then 5 x 20 weights of 4 bytes a step, from L1.
    lstm = single("lstm", 3, 5, batch=1, timesteps=7)
    expected = 7 * 120 / 100 + 7 * 400 / 40 + 7 * 5 * (2 * 0.5 + 3 * 0.25)
    assert limits.limit(lstm, MACHINE) == pytest.approx(expected)


def test_limit_of_a_batch_is_bound_by_arithmetic():
    gru = single("gru", 3, 5, batch=50, timesteps=7)
    expected = 50 * 7 * (2 * 45 + 2 * 75) / 100 + 50 * 7 * 5 * (0.5 + 2 * 0.25)
    assert limits.limit(gru, MACHINE) == pytest.approx(expected)


def test_limit_of_weights_that_no_cache_holds_is_bound_by_memory():
    rnn = single("rnn", 1, 20, batch=1, timesteps=2)
    expected = 2 * 40 / 100 + 2 * 1600 / 10 + 2 * 20 * 0.5
    assert limits.limit(rnn, MACHINE) == pytest.approx(expected)


def test_threads_share_weights_and_so_the_caches():
    rnn = single("rnn", 1, 20, batch=1, timesteps=2)
    two = dataclasses.replace(MACHINE, threads=2)
    expected = 2 * 40 / 200 + 2 * 800 / 40 + 2 * 20 * 0.5 / 2
    assert limits.limit(rnn, two) == pytest.approx(expected)


def test_limit_of_a_model_is_that_of_its_layers():
    first = bidirectional("lstm", 2, 3, batch=2, timesteps=4)
    # The second layer has 6 features, the dense one the last step of each sequence.
    second = single("gru", 6, 5, batch=2, timesteps=4)
    both = Configuration((*first.layers, Recurrent("gru", 5, False), Dense(3, "tanh")), 2, 2, 4)
    expected = limits.limit(first, MACHINE) + limits.limit(second, MACHINE)
    expected += 2 * 2 * 5 * 3 / 100 + 2 * 3 * 0.5
    assert limits.limit(both, MACHINE) == pytest.approx(expected)
    one = single("lstm", 2, 3, batch=2, timesteps=4)
    assert limits.limit(first, MACHINE) == pytest.approx(2 * limits.limit(one, MACHINE))


def test_products_of_an_embedding_are_looked_up():
    model = Configuration((Embedding(3), Recurrent("rnn", 5)), 7, 1, 4)
    expected = 4 * 100 / 40 + 4 * 5 * 0.5
    assert limits.limit(model, MACHINE) == pytest.approx(expected)


def test_limit_of_images_counts_every_place():
    images = Configuration((ConvLSTM(2, 3),), 1, 1, 3, size=4)
    flops = 2 * 16 * 3 * (1 * 72 + 2 * 72)
    expected = flops / 100 + 16 * 3 * 2 * (2 * 0.5 + 3 * 0.25)
    assert limits.limit(images, MACHINE) == pytest.approx(expected)


@pytest.mark.slow
def test_machine_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "REPEATS", 3)
    measured = machine.measure(1)
    assert [level.name for level in measured.levels] == [*machine.cache_sizes([0]), "memory"]
    assert measured.flops > 1e9
    assert all(level.bandwidth > 1e8 for level in measured.levels)
    assert 0 < measured.tanh < 1e-7
    assert 0 < measured.sigmoid < 1e-7
    assert measured.level(100) == measured.levels[0]


def test_a_cache_is_divided_among_those_that_share_it(tmp_path, monkeypatch):
    for index, (kind, level, size, sharing) in enumerate(
        [
            ("Data", 1, "48K", "2-3"),
            ("Instruction", 1, "32K", "2-3"),
            ("Unified", 2, "2M", "2"),
            ("Unified", 3, "30M", "0-3,8"),
        ]
    ):
        cache = tmp_path / "2" / f"index{index}"
        cache.mkdir(parents=True)
        (cache / "type").write_text(f"{kind}\n")
        (cache / "level").write_text(f"{level}\n")
        (cache / "size").write_text(f"{size}\n")
        (cache / "shared_cpu_list").write_text(f"{sharing}\n")
    monkeypatch.setattr(machine, "CACHES", str(tmp_path / "{}"))
    assert machine.cache_sizes([2]) == {"L1": 48 << 10, "L2": 2 << 20, "L3": 30 << 20}
    assert machine.cache_sizes([2, 3, 8]) == {"L1": 24 << 10, "L2": 2 << 20, "L3": 10 << 20}


@pytest.mark.parametrize(("name", "function"), [("time_tanh", np.tanh), ("time_sigmoid", sigmoid)])
def test_timed_activation_is_as_exact_as_float32_allows(name, function):
    x, y = machine.aligned(4096), machine.aligned(4096)
    x[:] = np.linspace(-60, 60, len(x))
    time_activation = getattr(machine.compiled(), name)
    time_activation(machine.pointer(x), machine.pointer(y), ctypes.c_long(len(x)), ctypes.c_long(1))
    np.testing.assert_allclose(y, function(x.astype(np.float64)), atol=4e-7)


def grown(axis, times):
    """Points of an axis of growth, with these medians of fastrnn by size."""
    timings = (
        {"fastrnn": compare.Timing(time, time, 1, 0.0)} if time else {} for time in times.values()
    )
    rows = (
        compare.Row(single(**{**growth.BASE, axis: size}), 1, timing, {}, limit=1.0)
        for size, timing in zip(times, timings, strict=True)
    )
    return [growth.Point(axis, size, row) for size, row in zip(times, rows, strict=True)]


def test_growth_is_told_by_its_power():
    points = grown("units", {8: 1.0, 16: 2.0, 64: 32.0})
    assert growth.exponents(points, "fastrnn") == pytest.approx([1, 2])
    # 4 gates x units**2 x 4 bytes fit 1000 bytes up to 7.9 units; 4000 on two threads with a cache each.
    assert growth.edges(points, MACHINE) == {"L1": pytest.approx(7.9, abs=0.01)}
    # 4 bytes of 64 features and 128 units a sequence of 100 timesteps.
    assert growth.edges(grown("batch", {2: 1.0, 4: 2.0}), MACHINE) == {"L1": 1000 / 76800}
    two = dataclasses.replace(MACHINE, threads=2)
    assert growth.edges(points, two) == {"L1": pytest.approx(11.18, abs=0.01)}


@pytest.mark.slow
def test_growth_is_drawn_with_the_caches_and_without_what_failed(tmp_path):
    points = [*grown("units", {8: 1.0, 16: None, 64: 32.0}), *grown("batch", {1: 1.0, 2: 2.0})]
    levels = machine.Level("L1", 10_000, 40.0), machine.Level("L2", 10**9, 30.0), MACHINE.levels[-1]
    drawn = tmp_path / "growth.svg"
    growth.draw(points, dataclasses.replace(MACHINE, levels=levels), drawn)
    text = drawn.read_text()
    assert "<!-- L1 -->" in text
    assert "<!-- L2 -->" not in text
    described = growth.report(points, MACHINE)["points"]
    assert [(point["axis"], point["size"]) for point in described][:2] == [
        ("units", 8),
        ("units", 16),
    ]
    assert described[0]["fraction"] == 1
    assert described[1]["timings"] == {}


@pytest.mark.parametrize("axis", growth.AXES)
def test_growth_changes_one_size(axis):
    configurations = growth.configurations(axis)
    base = single(**growth.BASE)
    assert configurations[growth.BASE[axis]] == base
    assert len({configuration.name for configuration in configurations.values()}) == len(
        configurations
    )


def test_every_case_of_the_regression_has_a_baseline():
    from benchmarks.test_regression import CASES

    ratios = json.loads((Path(compare.__file__).with_name("baseline.json")).read_text())
    assert list(ratios) == [configuration.name for configuration in CASES]
    assert all(ratio > 0 for ratio in ratios.values())


def test_chart_shows_the_rows_that_have_a_ratio(tmp_path):
    timing = compare.Timing(median=2.0, minimum=1.5, calls=3, error=1e-7)
    both = {"fastrnn": timing, "PyTorch": timing}
    rows = [
        compare.Row(TINY, 1, both, {}, limit=0.75),
        compare.Row(TINY, 2, both, {}, limit=0.75),
        compare.Row(SEVERAL[1], 1, {"fastrnn": timing}, {}, limit=0.75),
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(compare.report(rows, [MACHINE], {})))
    drawn = tmp_path / "chart.svg"
    chart.main([str(results), str(drawn)])
    text = drawn.read_text()
    assert "2 threads" in text
    assert TINY.name.replace(">", "&gt;") in text
    assert SEVERAL[1].name.replace(">", "&gt;") not in text


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
def test_contention_compares_with_a_quiet_thread():
    quiet, *others = contention.measure_one(single("lstm", 2, 3, 1, 4), 0.01)
    cpus = len(os.sched_getaffinity(0))
    cases = contention.cases(cpus)
    assert [result["case"] for result in others] == [case.name for case in cases]
    for case, result in zip(cases, others, strict=True):
        assert 0 < result["median"] <= result["p99"] <= result["longest"]
        callers_a_cpu = max(1, case.callers / cpus)
        assert result["ratio"] == pytest.approx(result["mean"] / quiet["mean"] / callers_a_cpu)
        assert case.name in contention.line(result)


def test_calls_of_all_threads_count_and_long_ones_too():
    threads = set()

    def call():
        threads.add(threading.get_ident())
        time.sleep(0.02)

    taken = contention.durations_of_threads([call, call], 0.001)
    assert len(taken) == len(threads) == 2
    assert all(seconds >= 0.02 for seconds in taken)
    assert contention.summary([1e-6, 3e-6, 8e-6]) == pytest.approx(
        {"mean": 4, "median": 3, "p99": 3, "longest": 8}
    )


@pytest.mark.usefixtures("threads")
def test_padding_changes_the_valid_steps_only():
    configuration = single("gru", 3, 4, 50, 10)
    x = configuration.inputs()
    short = padding.padded(x)
    lengths = (short != 0).any(-1).sum(1)
    assert lengths.min() >= 1
    assert 4 < lengths.mean() < 7
    for row, full, length in zip(short, x, lengths, strict=True):
        np.testing.assert_array_equal(row[:length], full[:length])
        assert not row[length:].any()
    result = padding.measure_one(configuration, 1, 0.001)
    assert result["valid"] == pytest.approx(lengths.mean() / 10)
    model = padding.masked_model(configuration)
    expected = oracle.expected(configuration)
    np.testing.assert_allclose(model(x)[oracle.sample(50)], expected, atol=1e-6)
    assert "steps valid" in padding.line(result)


def test_startup_is_told_as_a_ratio_to_what_must_be_imported(monkeypatch):
    taken = {"pass": 0.1, startup.PROGRAMS[startup.BASE]: 0.4, startup.PROGRAMS["fastrnn"]: 0.6}
    monkeypatch.setattr(startup, "seconds", lambda program, model: taken.get(program, 0.8))
    results = {result["name"]: result for result in startup.measure(quick=True)}
    assert results["fastrnn"]["ratio"] == pytest.approx(1.5)
    assert results["fastrnn and a .keras file"]["median"] == pytest.approx(800)
    assert startup.MODEL.exists()


@pytest.mark.slow
def test_startup_runs_its_programs():
    for program in startup.PROGRAMS.values():
        assert startup.seconds(program, startup.MODEL) > 0


@pytest.mark.slow
def test_bulk_measures_memory_and_throughput():
    result = bulk.predict(50_000, 1)
    assert 0 <= result["memory"] < 64
    assert result["rate"] > 0
    assert "above input and output" in bulk.line(result)


def test_a_subject_writes_all_it_printed(tmp_path, monkeypatch, capsys):
    file = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["", "--quick", "--json", str(file)])
    subject.run("m", "text", lambda quick: iter([{"quick": quick}]), lambda result: f"is {result}")
    assert capsys.readouterr().out == "is {'quick': True}\n"
    assert json.loads(file.read_text())["results"] == [{"quick": True}]


@pytest.mark.slow
def test_streams_tell_latencies_and_what_a_pool_is_of_a_batch(monkeypatch):
    before = fastrnn.get_num_threads()
    monkeypatch.setattr(streams, "ASYNC_RATE", 500)
    try:
        step = list(streams.step(quick=True))
        pool = list(streams.pool(quick=True, threads=1))
        (coroutines,) = streams.coroutines(quick=True)
    finally:
        fastrnn.set_num_threads(before)
    assert all(result["microseconds"] > 0 for result in step[:2])
    assert step[2]["ratio"] >= 1
    assert max(result["of the plain batch"] for result in pool[:2]) == 1
    assert "pool.step, ids mixed" in streams.line(pool[3])
    assert 0 < coroutines["p50"] <= coroutines["p99"]
    assert "goal: p99 < 2000 us" in streams.line(coroutines)
