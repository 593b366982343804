"""Products in bfloat16 and int8: every build against NumPy on rounded numbers, and whole models."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import _core, _dispatch, activations, sunspots
from fastrnn.dtypes import PRECISIONS, rounded
from tests.builds import LEVELS, Core, core_of
from tests.test_core import GATES, samples, weights_of

NARROW = ("bfloat16", "int8")
FEATURES_LEFT_ALONE = 8
TRAINED = Path(fastrnn.__file__).parents[1].parent / "shared" / "models"
BUILDS = [
    (level, portable) for level in LEVELS for portable in (False, True)[: 1 + (level == "v4")]
]
CASES = samples(
    40,
    5,
    kind=list(GATES),
    precision=NARROW,
    features=[1, 8, 9, 13, 40],
    units=[1, 4, 5, 16, 17, 33, 50, 64, 100],
    batch=[1, 2, 3, 4, 5, 6, 7, 13, 50],
    steps=[1, 2, 30],
    activation=["tanh", "tanh", "relu"],
    use_bias=[True, True, False],
)


@pytest.fixture(params=BUILDS, ids=lambda build: build[0] + "_portable" * build[1])
def build(request):
    """A float32 build of the core, and whether it leaves the CPU's dot products alone."""
    level, portable = request.param
    before = fastrnn.get_num_threads()
    _core.set_num_threads(1)
    yield core_of(level, 32), portable
    _core.set_num_threads(before)


# What the products should be


def quantised(matrix, axis):
    """`matrix` as whole numbers up to 127 times a scale along `axis`, in float64."""
    largest = np.abs(matrix).max(axis=axis, keepdims=True).astype(np.float32)
    scale = np.where(largest > 0, largest, np.float32(1)) / np.float32(127)
    return np.rint(matrix / scale.astype(np.float64)) * scale


def narrow_recurrent(matrix, precision, axis):
    """The numbers that a recurrent product is of: `axis` 0 for weights, 1 for states."""
    if precision == "int8":
        return quantised(np.asarray(matrix, np.float64), axis)
    return rounded(matrix, "bfloat16").astype(np.float64)


def narrow_inputs(matrix, features):
    """The numbers that x @ kernel is of."""
    if features <= FEATURES_LEFT_ALONE:
        return np.asarray(matrix, np.float64)
    return rounded(matrix, "bfloat16").astype(np.float64)


class NarrowCell:
    """One step of a cell in float64 on operands that were rounded."""

    def __init__(self, kind, weights, precision, activation):
        kernel, recurrent_kernel, bias = weights
        columns = kernel.shape[1]
        self.kind, self.precision, self.features = kind, precision, len(kernel)
        self.kernel = narrow_inputs(kernel, self.features)
        self.recurrent_kernel = narrow_recurrent(recurrent_kernel, precision, 0)
        bias = np.zeros((2, columns)) if bias is None else np.asarray(bias, np.float64)
        self.bias, self.recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros(columns))
        self.activation = activations.get(activation)

    def times(self, h, gates=slice(None)):
        units = h.shape[1]
        columns = np.arange(self.kernel.shape[1]).reshape(-1, units)[gates].ravel()
        return narrow_recurrent(h, self.precision, 1) @ self.recurrent_kernel[:, columns]

    def step(self, x, h, c):
        """Return h' and c' for float32 x (batch, features) and h (batch, units)."""
        zx = narrow_inputs(x, self.features) @ self.kernel + self.bias
        h64, sigmoid = h.astype(np.float64), activations.sigmoid
        if self.kind == "simple_rnn":
            return self.activation(zx + self.times(h)), c
        if self.kind == "lstm":
            i, f, g, o = np.split(zx + self.times(h), 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * self.activation(g)
            return sigmoid(o) * self.activation(c), c
        xz, xr, xg = np.split(zx, 3, axis=1)
        if self.kind == "gru":
            hz, hr, hg = np.split(self.times(h) + self.recurrent_bias, 3, axis=1)
            z, g = sigmoid(xz + hz), self.activation(xg + sigmoid(xr + hr) * hg)
        else:
            hz, hr = np.split(self.times(h, slice(0, 2)), 2, axis=1)
            reset = (sigmoid(xr + hr) * h64).astype(np.float32)
            z, g = sigmoid(xz + hz), self.activation(xg + self.times(reset, slice(2, 3)))
        return z * h64 + (1 - z) * g, c


def recurrent(core, kind, weights, activation="tanh", **options):
    kernel, recurrent_kernel, bias = weights
    bias, after = bias if kind == "gru" and bias is not None else (bias, None)
    step = core.Recurrent(
        kind, kernel, recurrent_kernel, bias, after, activation, "sigmoid", **options
    )
    inputs = [options["x"], *options.get("initial", ())]
    outputs = [options["y"], *options.get("final", ())]
    return core.Program(max(*inputs, *outputs) + 1, [step], inputs, outputs)


def assert_nearly_all(got, expected, atol, rest):
    """Numbers that lie between two roundings may come out as either: few may differ by more than `atol`."""
    errors = np.abs(got - expected)
    assert errors.max() <= rest
    assert np.mean(errors > atol) <= 0.02


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_products_are_of_rounded_numbers(build, case, rng):
    core, portable = build
    kind, precision, units = case["kind"], case["precision"], case["units"]
    weights = weights_of(kind, case["features"], units, rng, case["use_bias"])
    x = rng.normal(size=(case["batch"], case["steps"], case["features"])).astype(np.float32)
    n_states = 2 if kind == "lstm" else 1
    states = [rng.normal(0, 0.5, (len(x), units)).astype(np.float32) for _ in range(n_states)]
    program = recurrent(
        core, kind, weights, case["activation"], x=0, y=1, initial=range(2, 2 + n_states),
        return_sequences=True, precision=precision, portable=portable,
    )  # fmt: skip
    y = program.run((x, *states))
    cell = NarrowCell(kind, weights, precision, case["activation"])
    h, c = states[0], states[-1].astype(np.float64)
    for t in range(case["steps"]):
        expected, c = cell.step(x[:, t], h, c)
        # Each step starts from what the core made of the one before: a rounding that fell the other way counts once.
        scale = max(1, np.abs(expected).max())
        if kind == "gru_reset_before":
            assert_nearly_all(y[:, t], expected, 1e-5 * scale, 1e-2 * scale)
        else:
            np.testing.assert_allclose(y[:, t], expected, rtol=0, atol=1e-5 * scale)
        h = y[:, t]


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("kind", GATES)
def test_directions_masks_and_states(build, kind, precision, rng):
    core, portable = build
    features, units, steps = 10, 21, 9
    weights = weights_of(kind, features, units, rng)
    x = rng.normal(size=(7, steps, features)).astype(np.float32)
    lengths = np.array([9, 1, 4, 0, 7, 9, 2])
    mask = np.arange(steps) < lengths[:, np.newaxis]
    options = {"precision": precision, "portable": portable, "return_sequences": True}
    n_states = 2 if kind == "lstm" else 1
    whole = recurrent(core, kind, weights, x=0, y=1, **options)
    step = core.Recurrent(
        kind, *weights[:2], *(weights[2] if kind == "gru" else (weights[2], None)), "tanh", "sigmoid",
        x=0, mask=1, y=2, final=range(3, 3 + n_states), go_backwards=True, **options,
    )  # fmt: skip
    masked = core.Program(5, [step], [0, 1], [2, 3], [1])
    y, h = masked.run((x, mask))
    for row, length in enumerate(lengths):
        if length == 0:
            assert not y[row].any()
            assert not h[row].any()
            continue
        expected = whole.run(np.ascontiguousarray(x[row : row + 1, :length][:, ::-1]))[0]
        assert_nearly_all(y[row, steps - length :], expected, 1e-5, 1e-2)
        assert not y[row, : steps - length].any()
        np.testing.assert_array_equal(h[row], y[row, -1])


@pytest.mark.parametrize("precision", NARROW)
def test_the_cpus_dot_products_and_the_portable_ones_agree(precision, rng):
    core = Core(_dispatch.build_for(np.float32))
    if precision not in core.build.dot_products:
        pytest.skip(f"this CPU has no dot product of {precision}")
    weights = weights_of("lstm", 40, 100, rng)
    x = rng.normal(size=(13, 1, 40)).astype(np.float32)
    h = rng.normal(size=(2, 13, 100)).astype(np.float32)
    results = [
        recurrent(
            core, "lstm", weights, x=0, y=1, initial=(2, 3), precision=precision, portable=portable
        ).run((x, *h))
        for portable in (False, True)
    ]
    np.testing.assert_allclose(*results, rtol=0, atol=2e-6)


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("batch", "features"), [(1, 5), (1, 40), (4, 40), (8, 40), (64, 40)])
def test_threads_share_narrow_layers(kind, precision, batch, features, threads, rng):
    core = Core(_dispatch.build_for(np.float32))
    program = recurrent(
        core, kind, weights_of(kind, features, 300, rng), x=0, y=1, return_sequences=True,
        precision=precision,
    )  # fmt: skip
    x = rng.normal(size=(batch, 20, features)).astype(np.float32)
    fastrnn.set_num_threads(1)
    alone = program.run(x)
    fastrnn.set_num_threads(2)
    for _ in range(20):
        np.testing.assert_array_equal(program.run(x), alone)


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("features", [5, 10])
def test_a_row_that_is_not_finite_stays_alone(build, precision, number, features, rng):
    core, portable = build
    weights = weights_of("simple_rnn", features, 20, rng)
    x = rng.normal(size=(8, 3, features)).astype(np.float32)
    h = rng.normal(size=(8, 20)).astype(np.float32)
    program = recurrent(
        core, "simple_rnn", weights, "linear", x=0, y=1, initial=[2], precision=precision,
        portable=portable,
    )  # fmt: skip
    expected = program.run((x, h))
    for place in (x[2, 1], h[5]):
        place[3] = number
    y = program.run((x, h))
    assert not np.isfinite(y[[2, 5]]).any()
    finite = [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(y[finite], expected[finite])


@pytest.mark.parametrize("scale", [0, 1e-35, 1e35])
def test_states_and_weights_of_any_size(build, scale, rng):
    core, portable = build
    h = (scale * rng.normal(size=(3, 20))).astype(np.float32)
    x = np.zeros((3, 1, 4), np.float32)
    kernel, recurrent_kernel, _ = weights_of("simple_rnn", 4, 20, rng)
    recurrent_kernel[:, 3] = 0
    recurrent_kernel[:, 5] *= 1e-30
    for precision in NARROW:
        program = recurrent(
            core, "simple_rnn", (kernel, recurrent_kernel, None), "linear", x=0, y=1, initial=[2],
            precision=precision, portable=portable,
        )  # fmt: skip
        y = program.run((x, h))
        exact = h.astype(np.float64) @ recurrent_kernel
        assert not y[:, 3].any()
        largest = np.abs(exact).max(axis=0)
        assert (np.abs(y - exact) <= 0.05 * largest + 1e-44).all()


def test_float64_has_no_narrow_products(rng):
    core = Core(_dispatch.build_for(np.float64))
    weights = [weight.astype(np.float64) for weight in weights_of("lstm", 3, 4, rng)]
    with pytest.raises(ValueError, match="expected weights of float32"):
        recurrent(core, "lstm", weights, x=0, y=1, precision="int8")


def test_the_configuration_tells_which_dot_products_the_cpu_has(capsys):
    assert fastrnn.show_config()["dot_products"] == list(
        _dispatch.build_for(np.float32).dot_products
    )


# Layers and models


def stack():
    """A model of every kind of layer around a recurrence, of float32."""
    layers = fastrnn.layers
    model = fastrnn.Sequential(
        [
            fastrnn.Input((6, 4, 11)),
            layers.TimeDistributed(layers.GRU(9)),
            layers.Bidirectional(layers.LSTM(10, return_sequences=True)),
            fastrnn.Sequential(
                [fastrnn.Input((6, 20)), layers.SimpleRNN(64, return_sequences=True)]
            ),
            layers.RNN([layers.GRUCell(8, reset_after=False), layers.LSTMCell(7)]),
            layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, 0.3, weight.shape) for weight in model.get_weights()])
    return model


@pytest.mark.parametrize("precision", NARROW)
def test_every_recurrence_of_a_model_is_narrow(precision, rng):
    model = stack()
    x = rng.normal(size=(5, 6, 4, 11)).astype(np.float32)
    exact = model(x)
    model.set_precision(precision)
    (executable, _), *_ = (model(x), *model._executables.values())[1:]
    steps = [*executable.plan.steps]
    for step in steps:
        inner = getattr(step, "plan", None)
        steps += inner.steps if inner is not None else ()
    cells = [step for step in steps if hasattr(step, "kernel") and hasattr(step, "cell")]
    assert len(cells) == 6
    for step in cells:
        few = len(step.cell.recurrent_kernel) < 64
        assert step.precision == ("bfloat16" if few else precision)
    errors = np.abs(model(x) - exact)
    assert 1e-6 < errors.max() < 0.03 * np.abs(exact).max()
    for name in (None, "float32"):
        model.set_precision(precision)
        model.set_precision(name)
        np.testing.assert_array_equal(model(x), exact)


@pytest.mark.parametrize("precision", NARROW)
def test_a_single_layer_and_its_copies_keep_the_precision(precision, rng):
    layer = fastrnn.layers.LSTM(20)
    x = rng.normal(size=(2, 5, 12)).astype(np.float32)
    exact = layer(x)
    layer.set_precision(precision)
    y = layer(x)
    assert not np.array_equal(y, exact)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(x), y)
    layer.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), y)


@pytest.mark.parametrize("precision", NARROW)
def test_streams_are_narrow_as_well(precision, rng):
    model = fastrnn.Sequential(
        [fastrnn.Input((None, 12)), fastrnn.layers.LSTM(20, return_sequences=True)]
    )
    x = rng.normal(size=(1, 7, 12)).astype(np.float32)
    exact = model(x)
    model.set_precision(precision)
    stream = model.stream()
    y = np.stack([stream.step(x[0, t]) for t in range(7)])
    assert_nearly_all(y, model(x)[0], 1e-5, 1e-2)
    assert np.abs(y - exact[0]).max() > 1e-5


def test_convolutions_stay_float32(rng):
    layer = fastrnn.layers.ConvLSTM1D(3, 3)
    x = rng.normal(size=(2, 4, 9, 5)).astype(np.float32)
    exact = layer(x)
    layer.set_precision("int8")
    np.testing.assert_array_equal(layer(x), exact)


@pytest.mark.parametrize("precision", NARROW)
def test_the_shipped_model_forecasts_as_well(precision):
    record = sunspots.read_record()
    windows = np.lib.stride_tricks.sliding_window_view(record.scale(), 12)[..., np.newaxis].copy()
    model = sunspots.load_model()
    exact = model.predict(windows)
    model.set_precision(precision)
    errors = np.abs(model.predict(windows) - exact)
    assert 0 < errors.max() < 0.01


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 0.01), ("int8", 0.01)])
@pytest.mark.parametrize("name", ["dtln_norm_core1_seq", "mt_seq2seq", "ner_mask_bilstm_k215"])
def test_published_models_err_little(name, precision, most):
    folder = TRAINED / name
    if not folder.exists():
        pytest.skip(f"published models are not at {TRAINED}")
    (path,) = folder.glob("model.*")
    given = np.load(folder / "expected.npz")
    model = fastrnn.load_model(path, precision=precision)
    inputs = [given[key] for key in sorted(given) if key.startswith("r0_in")]
    expected = given["r0_f64_0"]
    y = model.predict(inputs if len(inputs) > 1 else inputs[0])
    y = y[0] if isinstance(y, (list, tuple)) else y
    errors = np.abs(y - expected) / np.abs(expected).max()
    assert np.sqrt(np.mean(np.square(errors))) < most


@pytest.mark.parametrize("precision", ["float16", "bf16", "INT8", "", 8, "float64", ["int8"]])
def test_another_precision_says_what_is_expected(precision, tmp_path):
    message = f"expected a precision of {', '.join(PRECISIONS)}; got"
    layer = fastrnn.layers.LSTM(2)
    with pytest.raises(ValueError, match=message):
        layer.set_precision(precision)
    with pytest.raises(ValueError, match=message):
        fastrnn.load_model(tmp_path / "none.keras", precision=precision)
    with pytest.raises(ValueError, match=message):
        fastrnn.from_keras(None, precision=precision)


@pytest.mark.parametrize("precision", NARROW)
def test_float64_models_are_refused(precision, rng):
    layers = fastrnn.layers
    model = fastrnn.Sequential(
        [fastrnn.Input((4, 3)), layers.Bidirectional(layers.LSTM(5, dtype="float64", name="wide"))]
    )
    x = rng.normal(size=(2, 4, 3))
    exact = model(x)
    with pytest.raises(
        ValueError, match=f"'{precision}'.*float32.*'(forward_)?wide' is of float64"
    ):
        model.set_precision(precision)
    np.testing.assert_array_equal(model(x), exact)
    model.set_precision("float32")


def test_half_precision_policies_multiply_narrow_too(rng):
    layer = fastrnn.layers.LSTM(20, dtype="mixed_bfloat16")
    x = rng.normal(size=(2, 5, 12)).astype(np.float32)
    exact = np.asarray(layer(x), np.float32)
    layer.set_precision("int8")
    np.testing.assert_allclose(np.asarray(layer(x), np.float32), exact, rtol=0, atol=0.03)
