"""Ctrl-C, and errors in the midst of something: heard soon, and nothing is half done after."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastrnn
from fastrnn import _pace, layers


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of three rows or timesteps, where a whole second would be one."""

    def parts(self, count, most, size=1):
        step = min(3, most)
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    monkeypatch.setattr(_pace.Pace, "fitting", lambda self, size: 3)
    monkeypatch.setattr(_pace.Pace, "parts", parts)


def model_of(*, stateful=False, several=False, numpy_step=False):
    x = fastrnn.Input((None, 3), batch_size=2 if stateful else None)
    y = layers.LSTM(70, return_sequences=True, stateful=stateful)(x)
    if numpy_step:
        y = layers.Lambda(np.negative)(y)
    last = layers.GRU(4, stateful=stateful)(y)
    return fastrnn.Model(x, {"b": last, "a": [y]} if several else last)


@pytest.mark.parametrize("options", [{}, {"several": True}, {"numpy_step": True}])
def test_predict_in_parts_has_the_same_bits(options, rng, request):
    model, x = model_of(**options), rng.normal(size=(17, 5, 3)).astype(np.float32)
    whole = model.predict_on_batch(x)
    request.getfixturevalue("small_parts")
    parts = model.predict(x)
    for name in ("a", "b") if options.get("several") else [()]:
        np.testing.assert_array_equal(parts[name], whole[name])
    assert model.predict(x[:0]).shape == (0, 4) if not options.get("several") else True


@pytest.mark.parametrize(
    "form", [lambda x: x, lambda x: [x], lambda x: {"x": x}, np.ndarray.tolist]
)
def test_predict_in_parts_after_short_calls(form, rng, monkeypatch):
    """What was prepared for calls that look like them takes the short ones only."""
    taken = []
    parts = _pace.Pace.parts
    monkeypatch.setattr(_pace.Pace, "parts", lambda *args: taken.append(1) or parts(*args))
    inputs = fastrnn.Input((5, 3), name="x")
    model = fastrnn.Model(inputs, layers.LSTM(4)(inputs))
    monkeypatch.setattr(_pace, "LEAST_OPERATIONS", 40 * model.count_params() / _pace.SECONDS)
    x = rng.normal(size=(100, 5, 3)).astype(np.float32)
    short = [model.predict(form(x[:8])) for _ in range(3)]
    assert not taken
    np.testing.assert_array_equal(short[2], short[0])
    np.testing.assert_array_equal(model.predict(form(x))[:8], short[0])
    assert taken


@pytest.mark.parametrize("numpy_step", [False, True])
def test_feed_in_parts_has_the_same_bits(numpy_step, rng, request):
    model = model_of(several=True)
    if numpy_step:
        step = layers.Lambda(np.negative)
        model = fastrnn.Sequential([fastrnn.Input((None, 3)), layers.LSTM(5), step])
    chunk = rng.normal(size=(2, 17, 3)).astype(np.float32)
    whole, parts = model.stream(2), model.stream(2)
    expected = whole.feed(chunk)
    request.getfixturevalue("small_parts")
    found = parts.feed(chunk)
    if not numpy_step:
        found, expected = found["b"], expected["b"]
    np.testing.assert_array_equal(found, expected)
    for name, state in whole.state.items():
        np.testing.assert_array_equal(parts.state[name], state)


class Interrupting:
    """Stands for a method: the call of this number raises, after it has done what it does."""

    def __init__(self, method, number, error):
        self.method, self.left, self.error = method, number, error

    def __call__(self, *args, **kwargs):
        result = self.method(*args, **kwargs)
        self.left -= 1
        if self.left == 0:
            raise self.error
        return result


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError("no")])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_states_after_groups_of_which_one_fails(number, error, rng, monkeypatch):
    model, x = model_of(stateful=True), rng.normal(size=(6, 5, 3)).astype(np.float32)
    model.predict(x[:2])
    before = [state.copy() for state in model.states]
    monkeypatch.setattr(model, "_run", Interrupting(model._run, number, error))
    with pytest.raises(error if isinstance(error, type) else type(error)):
        model.predict(x)
    monkeypatch.undo()
    for state, expected in zip(model.states, before, strict=True):
        np.testing.assert_array_equal(state, expected)
    again = model_of(stateful=True)
    again.set_weights(model.get_weights())
    again.reset_states(before)
    np.testing.assert_array_equal(model.predict(x), again.predict(x))


@pytest.mark.usefixtures("small_parts")
def test_stream_after_a_chunk_that_was_interrupted(rng, monkeypatch):
    stream, chunk = model_of().stream(2), rng.normal(size=(2, 17, 3)).astype(np.float32)
    stream.feed(chunk)
    before = stream.state
    form = stream._steps.chunk
    monkeypatch.setattr(form, "run", Interrupting(form.run, 3, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        stream.feed(chunk)
    monkeypatch.undo()
    for name, state in stream.state.items():
        np.testing.assert_array_equal(state, before[name])
    assert stream.feed(chunk).shape == (2, 17, 4)


def test_pool_after_an_error(rng, monkeypatch):
    """Ids, states and places are as they were."""
    model = model_of()
    pool = model.stream_pool(3)
    id = pool.open()
    pool.step([id], np.ones((1, 3), np.float32))
    before, saved = pool.state([id]), pool.snapshot([id])
    for work in (pool.open, lambda: pool.restore(saved), lambda: pool.reset([id])):
        monkeypatch.setattr(pool, "_put", Interrupting(lambda *given: None, 1, KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            work()
        monkeypatch.undo()
        assert len(pool) == 1
    for name, state in pool.state([id]).items():
        np.testing.assert_array_equal(state, before[name])
    others = [pool.open(), pool.open()]
    assert pool.step([id, *others], rng.normal(size=(3, 3))).shape == (3, 4)


def test_pace(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_pace.time, "perf_counter", lambda: now[0])
    pace = _pace.Pace(operations=_pace.SECONDS * _pace.LEAST_OPERATIONS / 50)  # 50 fit at first
    sizes = []
    for part in pace.parts(10_000, most=10_000):
        sizes.append(part.stop - part.start)
        now[0] += 0.0001 * sizes[-1]  # 2000 fit
    assert sizes[:4] == [50, 400, 2000, 2000]
    assert sum(sizes) == 10_000
    for part in pace.parts(3000, most=500, size=10):
        sizes.append(part.stop - part.start)
        now[0] += 0.01 * sizes[-1]  # 20 fit
    assert sizes[-3:-1] == [20, 20]


INTERRUPTED = {
    "predict": """
        model = fastrnn.Sequential([fastrnn.Input((50, 64)), layers.LSTM(256)])
        x = np.zeros((20_000, 50, 64), np.float32)
        work, after = lambda: model.predict(x), lambda: model.predict(x[:2])
        """,
    "a stateful predict": """
        model = fastrnn.Sequential([fastrnn.Input((50, 64), batch_size=5), layers.LSTM(256, stateful=True)])
        x = np.ones((20_000, 50, 64), np.float32)
        model.predict(x[:5])
        before = model.states
        work = lambda: model.predict(x)
        def after():
            assert all(map(np.array_equal, before, model.states))
            model.predict(x[:5])
        """,
    "feed": """
        stream = fastrnn.Sequential([fastrnn.Input((None, 64)), layers.LSTM(256)]).stream()
        x = np.ones((1, 1_000_000, 64), np.float32)
        before = stream.state
        work = lambda: stream.feed(x)
        def after():
            assert all(np.array_equal(before[name], state) for name, state in stream.state.items())
            stream.feed(x[:, :5])
        """,
    "load_model": """
        import h5py, json, pathlib, tempfile
        path = pathlib.Path(tempfile.mkdtemp()) / "m.h5"
        layer = {"name": "d", "units": 8192, "activation": "linear", "batch_input_shape": [None, 8192]}
        config = {"name": "m", "layers": [{"class_name": "Dense", "config": layer}]}
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
            group = file.create_group("model_weights")
            group.attrs["layer_names"] = np.array([b"d"])
            group.create_group("d").attrs["weight_names"] = np.array([b"kernel:0", b"bias:0"])
            how = {"chunks": (8, 8192), "compression": "gzip", "compression_opts": 1}
            numbers = np.random.default_rng(0).integers(0, 99, (8192, 8192)).astype("f4")
            group.create_dataset("d/kernel:0", data=numbers, **how)
            group["d/bias:0"] = np.zeros(8192, "f4")
        work = after = lambda: fastrnn.load_model(path)
        """,
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_is_heard_within_a_second(name):
    script = f"""
import os, signal, threading, time
import numpy as np
import fastrnn
from fastrnn import layers
{textwrap.dedent(INTERRUPTED[name])}
sent = []
def press():
    time.sleep(0.3)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press, daemon=True).start()
try:
    work()
    print("nothing was heard")
except KeyboardInterrupt:
    heard = time.perf_counter()
    after()
    print(heard - sent[0])
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert float(run.stdout) < 1, run.stdout
