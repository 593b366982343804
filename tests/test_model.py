"""Models against real Keras: Sequential's whole surface, and functional models through from_keras."""

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import layers
from fastrnn.saving.spec import NodeSpec, TensorRef

F32 = np.dtype(np.float32)


def both(make):
    """Return what `make` makes of our names and of Keras's, with the same random weights.

    `make` gets a module with `Sequential`, `Input` and `layers`.
    """
    ours, theirs = make(fastrnn), make(keras)
    rng = np.random.default_rng(7)
    weights = [rng.normal(0, 0.4, weight.shape).astype(F32) for weight in theirs.weights]
    assert [w.shape for w in ours.weights] == [w.shape for w in weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs


def stacked(module):
    return module.Sequential(
        [
            module.Input((6, 3)),
            module.layers.LSTM(5, return_sequences=True, name="first"),
            module.layers.Dropout(0.5, name="between"),
            module.layers.GRU(4, name="second"),
            module.layers.Dense(2, activation="softmax", name="last"),
        ],
        name="stacked",
    )


def converted(inputs, outputs, rng, **options):
    """Return a Keras functional model with random weights, and our copy of it."""
    model = keras.Model(inputs, outputs, **options)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.weights])
    return model, fastrnn.from_keras(model)


def near(got, expected, atol=1e-6):
    """Assert the same structure, dtypes, shapes and, nearly, numbers."""
    if isinstance(expected, dict):
        assert isinstance(got, dict)
        assert set(got) == set(expected)
        for key, value in expected.items():
            near(got[key], value, atol)
    elif isinstance(expected, (list, tuple)):
        assert isinstance(got, (list, tuple))
        for a, b in zip(got, expected, strict=True):
            near(a, b, atol)
    else:
        assert (type(got), got.dtype) == (np.ndarray, np.asarray(expected).dtype)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.fixture
def x(rng):
    return rng.normal(size=(7, 6, 3)).astype(F32)


# Sequential: building it


def add_all(module):
    model = module.Sequential(name="stacked")
    for layer in stacked(module).layers:
        model.add(type(layer).from_config(layer.get_config()))
    model.build((None, 6, 3))
    return model


def input_shape_on_the_first_layer(module):
    first = module.layers.LSTM(5, return_sequences=True, input_shape=(6, 3))
    return module.Sequential([first, module.layers.GRU(4), module.layers.Dense(2, "softmax")])


def nested(module):
    inner = module.Sequential([module.Input((6, 3)), module.layers.LSTM(5, return_sequences=True)])
    return module.Sequential([inner, module.layers.GRU(4), module.layers.Dense(2, "softmax")])


def input_after_the_name(module):
    model = module.Sequential(name="later")
    model.add(module.Input((6, 3)))
    model.add(module.layers.SimpleRNN(4))
    model.add(module.layers.Activation("log_softmax"))
    return model


def any_length(module):
    return module.Sequential(
        [module.Input((None, 3)), module.layers.GRU(4, return_sequences=True, reset_after=False)]
    )


MAKERS = [
    stacked,
    add_all,
    input_shape_on_the_first_layer,
    nested,
    input_after_the_name,
    any_length,
]


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")
@pytest.mark.parametrize("make", MAKERS)
def test_every_way_to_build(make, x):
    ours, theirs = both(make)
    near(ours(x), theirs(x))
    near(ours.predict(x), theirs.predict(x, verbose=0))
    near(ours.predict_on_batch(x), theirs.predict_on_batch(x))
    assert ours.input_shape == theirs.input_shape
    assert ours.output_shape == theirs.output_shape
    assert ours.count_params() == theirs.count_params()
    assert ours.built
    assert [type(a).__name__ for a in ours.layers] == [type(a).__name__ for a in theirs.layers]


def deferred(module):
    return module.Sequential([module.layers.GRU(4), module.layers.Dense(2)])


@pytest.mark.parametrize("call", ["__call__", "predict", "predict_on_batch"])
def test_deferred_build(call, x):
    model = deferred(fastrnn)
    assert not model.built
    assert model.weights == []
    for shape in ("input_shape", "output_shape"):
        with pytest.raises(ValueError, match="not built"):
            getattr(model, shape)
    y = getattr(model, call)(x)
    assert model.built
    theirs = deferred(keras)
    theirs.build((None, 6, 3))
    theirs.set_weights(model.get_weights())
    near(y, theirs(x))
    assert model(x[:2, :4]).shape == (2, 2)
    with pytest.raises(ValueError, match="3"):
        model(x[..., :2])


def test_a_failed_first_call_leaves_the_model_unbuilt(x):
    model = deferred(fastrnn)
    for wrong in (x[0], x[0, 0], np.array("text")):
        with pytest.raises((ValueError, TypeError)):
            model(wrong)
        assert model.weights == []
    assert model(x).shape == (7, 2)


def test_build_needs_a_shape():
    with pytest.raises(ValueError, match="expected an input shape"):
        deferred(fastrnn).build()


def test_add_refuses():
    model = stacked(fastrnn)
    for wrong in (None, "Dense", layers.Dense, keras.layers.Dense(2)):
        with pytest.raises(TypeError, match="expected a layer"):
            model.add(wrong)
    with pytest.raises(ValueError, match="'last' already"):
        model.add(layers.Dense(3, name="last"))
    with pytest.raises(ValueError, match="input must be the first"):
        model.add(fastrnn.Input((2,)))
    assert [layer.name for layer in model.layers] == ["first", "between", "second", "last"]


def test_a_layer_that_does_not_fit_is_not_added(x):
    model = stacked(fastrnn)
    before = model(x)
    with pytest.raises(ValueError, match="ndim=3"):
        model.add(layers.LSTM(2))
    assert model.layers[-1].name == "last"
    np.testing.assert_array_equal(model(x), before)


def test_add_and_pop_take_effect_after_a_call(x):
    ours, theirs = both(stacked)
    ours(x)
    assert ours.pop().name == "last"
    theirs.pop()
    near(ours(x), theirs(x))
    near(ours.predict(x), theirs.predict(x, verbose=0))
    assert ours.output_shape == theirs.output_shape == (None, 4)
    ours.add(layers.Dense(3, kernel_initializer="ones", name="last"))
    theirs.add(keras.layers.Dense(3, kernel_initializer="ones", name="last"))
    near(ours(x), theirs(x))
    assert ours.output_shape == theirs.output_shape == (None, 3)
    assert len(ours.weights) == len(theirs.weights)


def test_pop_from_an_empty_model():
    with pytest.raises(ValueError, match="no layer to remove"):
        fastrnn.Sequential().pop()


# Sequential: describing it


def test_names_and_get_layer():
    model = stacked(fastrnn)
    assert model.name == "stacked"
    assert model.get_layer("second") is model.layers[2]
    assert model.get_layer(name="first") is model.get_layer(index=0)
    assert model.get_layer(index=-1).name == "last"
    model.layers.clear()
    assert len(model.layers) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "third"}, "'third'.*first, between, second, last"),
        ({"index": 4}, "index below 4; got 4"),
        ({"index": -5}, "got -5"),
        ({}, "a name or an index"),
        ({"name": "first", "index": 0}, "a name or an index"),
    ],
)
def test_get_layer_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        stacked(fastrnn).get_layer(**arguments)


SUMMARY = """\
Model: "stacked"
Layer (type)       Output Shape  Param #
----------------------------------------
first (LSTM)       (None, 6, 5)      180
between (Dropout)  (None, 6, 5)        0
second (GRU)       (None, 4)         132
last (Dense)       (None, 2)          10
----------------------------------------
Total params: 322
"""


def test_summary(capsys):
    stacked(fastrnn).summary()
    assert capsys.readouterr().out == SUMMARY
    lines = []
    stacked(fastrnn).summary(print_fn=lines.append)
    assert "\n".join(lines) + "\n" == SUMMARY
    deferred(fastrnn).summary()
    out = capsys.readouterr().out
    assert "?" in out
    assert "Total params" not in out


@pytest.mark.parametrize("make", [stacked, nested, any_length])
def test_weights_are_in_keras_order(make):
    ours, theirs = both(make)
    for mine, get, other in zip(ours.weights, ours.get_weights(), theirs.weights, strict=True):
        np.testing.assert_array_equal(mine, other)
        np.testing.assert_array_equal(get, other)
        assert not mine.flags.writeable
        get[...] = 0
    assert all(np.any(weight != 0) for weight in ours.weights)


@pytest.mark.parametrize("make", [stacked, nested, any_length, deferred])
def test_config_round_trip(make, x):
    model = make(fastrnn)
    copy = fastrnn.Sequential.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    assert copy.name == model.name
    y = model(x)
    copy(x)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(x), y)


@pytest.mark.parametrize("make", [stacked, nested, any_length, input_after_the_name])
def test_keras_reads_the_config_and_it_reads_keras(make, x):
    ours, theirs = both(make)
    from_ours = keras.Sequential.from_config(ours.get_config())
    from_ours.set_weights(ours.get_weights())
    near(from_ours(x), theirs(x))
    from_theirs = fastrnn.Sequential.from_config(theirs.get_config())
    from_theirs.set_weights(ours.get_weights())
    near(from_theirs(x), theirs(x))


# Setting weights


@pytest.mark.parametrize("where", ["model", "layer", "cell", "nested model", "nested layer"])
def test_set_weights_after_a_call(where, x):
    model = nested(fastrnn)
    before = model(x), model.predict(x)
    inner = model.layers[0]
    target = {
        "model": model,
        "layer": model.layers[1],
        "cell": model.layers[1].cell,
        "nested model": inner,
        "nested layer": inner.layers[0],
    }[where]
    target.set_weights([weight + 0.25 for weight in target.get_weights()])
    fresh = nested(fastrnn)
    fresh.set_weights(model.get_weights())
    for got, expected, old in zip(
        (model(x), model.predict(x)), [fresh(x)] * 2, before, strict=True
    ):
        np.testing.assert_array_equal(got, expected)
        assert np.abs(got - old).max() > 1e-3


def test_two_models_share_a_layer(x):
    shared = layers.LSTM(4)
    one = fastrnn.Sequential([fastrnn.Input((6, 3)), shared, layers.Dense(2)])
    two = fastrnn.Sequential([fastrnn.Input((6, 3)), shared])
    one(x), two(x)
    one.set_weights([weight + 0.5 for weight in one.get_weights()])
    np.testing.assert_array_equal(two(x), shared(x))
    two.set_weights([weight * 0 for weight in two.get_weights()])
    np.testing.assert_array_equal(one.layers[0](x), np.zeros((7, 4)))
    np.testing.assert_array_equal(one(x), np.tile(one.weights[-1], (7, 1)))


@pytest.mark.parametrize("change", [lambda w: w[:-1], lambda w: [*w, w[0]], lambda w: w[::-1]])
def test_bad_weights_change_nothing(change, x):
    model = nested(fastrnn)
    before = model(x)
    with pytest.raises(ValueError, match="expected weights of shapes"):
        model.set_weights(change([weight + 1 for weight in model.get_weights()]))
    np.testing.assert_array_equal(model(x), before)


# Calls and predictions


@pytest.mark.parametrize("n", [1, 6, 7, 300])
def test_batch_size_changes_nothing(n, rng):
    model = stacked(fastrnn)
    x = rng.normal(size=(n, 6, 3)).astype(F32)
    expected = model.predict(x)
    for batch_size in (1, 2, 3, 32, n, n + 1, np.int64(5)):
        np.testing.assert_array_equal(model.predict(x, batch_size=batch_size), expected)
    np.testing.assert_allclose(np.concatenate([model(row[None]) for row in x]), expected, atol=1e-6)


@pytest.mark.parametrize("n", [1, 7, 300, 2500])
def test_batch_size_changes_nothing_with_steps_in_numpy(n, rng):
    def wave(x):
        return np.sin(x)

    model = fastrnn.Sequential(
        [fastrnn.Input((6, 3)), layers.SimpleRNN(9, activation=wave), layers.Dense(4, wave)]
    )
    x = rng.normal(size=(n, 6, 3)).astype(F32)
    expected = model.predict(x)
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-6)
    for batch_size in (1, 3, 32, n, n + 1)[n > 1000 :]:
        np.testing.assert_array_equal(model.predict(x, batch_size=batch_size), expected)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "3", True, [1]])
def test_bad_batch_sizes(batch_size, x):
    with pytest.raises((ValueError, TypeError), match="batch_size: expected a positive integer"):
        stacked(fastrnn).predict(x, batch_size=batch_size)


def test_verbose_prints_a_line(x, capsys):
    model = stacked(fastrnn)
    quiet = model.predict(x)
    assert capsys.readouterr().out == ""
    for verbose in (1, 2, "auto"):
        np.testing.assert_array_equal(model.predict(x, verbose=verbose), quiet)
        assert len(capsys.readouterr().out.splitlines()) == 1


ARRANGED = {
    "list": lambda x: x.tolist(),
    "list of arrays": lambda x: list(x),
    "a list of one": lambda x: [x],
    "Fortran order": np.asfortranarray,
    "float64": lambda x: x.astype("float64"),
    "float16": lambda x: x.astype("float16"),
    "strided": lambda x: np.repeat(x, 2, axis=2)[..., ::2],
    "reversed": lambda x: x[::-1, ::-1, ::-1][::-1, ::-1, ::-1],
    "transposed": lambda x: np.ascontiguousarray(x.transpose(2, 1, 0)).transpose(2, 1, 0),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "byte-swapped": lambda x: x.astype(">f4"),
    "integers": lambda x: np.rint(x).astype("int64"),
    "bytes": lambda x: np.abs(np.rint(x)).astype("uint8"),
    "booleans": lambda x: x > 0,
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("kind", ARRANGED)
@pytest.mark.parametrize("call", ["__call__", "predict", "predict_on_batch"])
def test_any_array_like_gives_the_same_and_stays_as_it_was(kind, call, x):
    model = stacked(fastrnn)
    x = np.round(x * 4) / 4
    given = ARRANGED[kind](x)
    before = repr(given)
    plain = np.asarray(given[0] if kind == "a list of one" else given).astype(F32)
    expected = model(np.ascontiguousarray(plain))
    result = getattr(model, call)(given)
    near(result, expected, atol=0)
    assert repr(given) == before
    assert result.flags.writeable


def test_float64_model(rng):
    ours, theirs = both(
        lambda module: module.Sequential(
            [
                module.Input((6, 3), dtype="float64"),
                module.layers.LSTM(5, dtype="float64"),
                module.layers.Dense(2, dtype="float64"),
            ]
        )
    )
    x = rng.normal(size=(7, 6, 3)).astype(F32)  # Keras rounds a model's input, but not what follows
    near(ours(x), theirs(x), atol=1e-14)
    near(ours.predict(x), theirs.predict(x, verbose=0), atol=1e-14)


@pytest.mark.parametrize("dtype", ["int64", "float64", "float32", "bool"])
def test_what_passes_through_comes_out_in_the_models_dtype(dtype):
    ours, theirs = both(
        lambda module: module.Sequential([module.Input((3,)), module.layers.Dropout(0.5)])
    )
    x = np.arange(6).reshape(2, 3).astype(dtype)
    for result in (ours(x), ours.predict(x)):
        near(result, theirs(x))
        assert not np.shares_memory(result, x)


@pytest.mark.parametrize("length", [6, None])
def test_a_last_axis_of_one_is_added_or_dropped(length, rng):
    ours, theirs = both(
        lambda module: module.Sequential(
            [module.Input((length, 1)), module.layers.SimpleRNN(4), module.layers.Dense(1)]
        )
    )
    x = rng.normal(size=(5, 6, 1)).astype(F32)
    for given in (x, x[..., 0], x[..., None]):
        for call in ("__call__", "predict", "predict_on_batch"):
            near(getattr(ours, call)(given), np.asarray(theirs(given)))


WRONG = {
    "features": (ValueError, lambda x: x[..., :2]),
    "too few axes": (ValueError, lambda x: x[0]),
    "too many axes": (ValueError, lambda x: x[None]),
    "no axes": (ValueError, lambda x: 3.0),
    "two inputs": (ValueError, lambda x: [x, x]),
    "another name": (ValueError, lambda x: {"other": x}),
    "None": (TypeError, lambda x: None),
    "strings": (TypeError, lambda x: x.astype(str)),
    "complex": (TypeError, lambda x: x + 0j),
    "objects": (TypeError, lambda x: x.astype(object)),
    "ragged": (ValueError, lambda x: [[1, 2], [3]]),
}


@pytest.mark.parametrize("call", ["__call__", "predict", "predict_on_batch"])
@pytest.mark.parametrize("kind", WRONG)
def test_bad_inputs(kind, call, x):
    error, damage = WRONG[kind]
    model = stacked(fastrnn)
    before = model(x)
    with pytest.raises(error):
        getattr(model, call)(damage(x))
    np.testing.assert_array_equal(model(x), before)


@pytest.mark.parametrize("kind", ["features", "too few axes", "too many axes"])
def test_errors_say_what_was_expected_and_what_came(kind, x):
    wrong = WRONG[kind][1](x)
    with pytest.raises(ValueError, match=r"\(None, 6, 3\)") as caught:
        stacked(fastrnn)(wrong)
    assert str(wrong.shape) in str(caught.value)


def test_training_with_dropout_is_refused(x):
    model = stacked(fastrnn)
    np.testing.assert_array_equal(model(x, training=False), model(x))
    for _ in range(2):
        with pytest.raises(ValueError, match="inference only"):
            model(x, training=True)


def test_nan_stays_in_its_row(x):
    model = stacked(fastrnn)
    expected = model(x)
    x[2, 3, 1] = np.nan
    y = model(x)
    assert np.isnan(y[2]).all()
    np.testing.assert_array_equal(np.delete(y, 2, axis=0), np.delete(expected, 2, axis=0))


def test_results_are_new_arrays(x):
    model = stacked(fastrnn)
    first = model(x)
    kept = first.copy()
    second = model(x + 1)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)


# Masks


@pytest.mark.filterwarnings("ignore:Layer 'stacked'")
@pytest.mark.parametrize("kind", ["bool", "int32", "column", "list"])
def test_a_mask_for_the_model(kind, x, rng):
    ours, theirs = both(stacked)
    mask = rng.random((7, 6)) < 0.6
    mask[:, 0] = True  # Keras's NumPy backend starts a row otherwise than TensorFlow
    expected = theirs(x, mask=mask)
    given = {
        "bool": mask,
        "int32": mask.astype("int32"),
        "column": mask[..., None],
        "list": mask.tolist(),
    }[kind]
    near(ours(x, mask=given), expected)
    near(ours(x, mask=np.ones_like(mask)), theirs(x))
    near(ours(x), theirs(x))


@pytest.mark.parametrize("mask", [np.ones((7, 5)), np.ones((6, 6)), np.ones(7), np.ones((7, 6, 3))])
def test_bad_masks(mask, x):
    with pytest.raises(ValueError, match=r"expected a mask of shape \(7, 6\)"):
        stacked(fastrnn)(x, mask=mask)


def test_a_mask_that_no_layer_reads(x):
    model = fastrnn.Sequential([fastrnn.Input((6, 3)), layers.Dense(2)])
    np.testing.assert_array_equal(model(x, mask=np.zeros((7, 6), bool)), model(x))


# Stateful models


def stateful(module, batch=2, return_sequences=False):
    return module.Sequential(
        [
            module.Input((5, 3), batch_size=batch),
            module.layers.LSTM(4, stateful=True, return_sequences=True),
            module.layers.GRU(3, stateful=True, return_sequences=return_sequences),
            module.layers.Dense(2),
        ]
    )


def states_of(model):
    return [state.copy() for state in model.states]


def same_states(model, states):
    for now, before in zip(model.states, states, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("return_sequences", [False, True])
def test_predict_carries_states_from_group_to_group(return_sequences, rng):
    ours, theirs = both(lambda module: stateful(module, 2, return_sequences))
    x = rng.normal(size=(8, 5, 3)).astype(F32)
    for _ in range(2):
        near(ours.predict(x), theirs.predict(x, batch_size=2, verbose=0))
    ours.reset_states()
    for layer in theirs.layers[:2]:
        layer.reset_state()
    near(ours(x[:2]), theirs(x[:2]))
    near(ours.predict_on_batch(x[2:4]), theirs.predict_on_batch(x[2:4]))
    near(ours.predict(x[4:6]), theirs.predict(x[4:6], batch_size=2, verbose=0))


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 4, 100])
def test_groups_have_the_models_batch_whatever_is_asked_for(batch_size, rng):
    x = rng.normal(size=(6, 5, 3)).astype(F32)
    model = stateful(fastrnn)
    expected = [model(part) for part in np.split(x, 3)]
    model.reset_states()
    np.testing.assert_array_equal(model.predict(x, batch_size), np.concatenate(expected))


def test_a_remainder_is_refused_before_anything_changes(rng):
    x = rng.normal(size=(6, 5, 3)).astype(F32)
    model = stateful(fastrnn)
    model.predict(x)
    before = states_of(model)
    for rows in (1, 3, 5):
        with pytest.raises(ValueError, match=f"batch of 2.*got {rows} rows"):
            model.predict(x[:rows])
    for call in (model, model.predict_on_batch):
        for rows in (0, 1, 4):
            with pytest.raises(ValueError, match="batch of 2"):
                call(x[:rows])
    with pytest.raises(ValueError, match="expected inputs of shape"):
        model.predict(x[..., :2])
    same_states(model, before)


def test_predict_of_no_rows_for_a_stateful_model(rng):
    model = stateful(fastrnn)
    model(rng.normal(size=(2, 5, 3)))
    before = states_of(model)
    assert model.predict(np.zeros((0, 5, 3))).shape == (0, 2)
    same_states(model, before)


def test_states_are_reset_set_and_kept_apart(rng):
    x = rng.normal(size=(2, 5, 3)).astype(F32)
    model = stateful(fastrnn)
    assert [state.shape for state in model.states] == [(2, 4), (2, 4), (2, 3)]
    first = model(x)
    after = states_of(model)
    second = model(x)
    assert np.abs(first - second).max() > 1e-4
    model.reset_state()
    assert all(not state.any() for state in model.states)
    np.testing.assert_array_equal(model(x), first)
    for form in (after, [after[:2], after[2]], [after[:2], [after[2]]]):
        model.reset_states(form)
        np.testing.assert_array_equal(model(x), second)
    before = states_of(model)
    for wrong in (after[:2], [*after, after[0]], after[::-1], [after[0], after[1], after[2][:1]]):
        with pytest.raises(ValueError, match="expected"):
            model.reset_states(wrong)
        same_states(model, before)


def test_states_before_the_first_call(rng):
    model = fastrnn.Sequential([layers.LSTM(4, stateful=True), layers.GRU(3, stateful=True)])
    assert model.states == []
    given = [rng.normal(size=(2, units)) for units in (4, 4, 3)]
    with pytest.raises(ValueError, match="expected"):
        model.reset_states(given[::-1])
    assert model.states == []
    model.reset_states(given)
    np.testing.assert_array_equal(np.hstack(model.states), np.hstack(given).astype(F32))


def test_returned_states_are_not_the_layers_own(rng):
    x = rng.normal(size=(2, 5, 3)).astype(F32)
    model = keras.Sequential([keras.Input((5, 3), batch_size=2), keras.layers.GRU(4)])
    layer = layers.GRU(4, stateful=True, return_state=True)
    layer.build((2, 5, 3))
    layer.set_weights(model.get_weights())
    y, state = layer(x)
    expected = layer.states[0].copy()
    y[:] = state[:] = 99
    np.testing.assert_array_equal(layer.states[0], expected)


def test_weights_of_a_stateful_model_change_and_states_stay(rng):
    x = rng.normal(size=(2, 5, 3)).astype(F32)
    model = stateful(fastrnn)
    model(x)
    before = states_of(model)
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    same_states(model, before)


def test_a_deferred_stateful_model_takes_the_batch_of_its_first_call(rng):
    x = rng.normal(size=(4, 5, 3)).astype(F32)
    model = fastrnn.Sequential([layers.LSTM(4, stateful=True), layers.Dense(2)])
    model(x)
    assert model.input_shape[0] == 4
    with pytest.raises(ValueError, match="batch of 4"):
        model(x[:2])


# Functional models


def test_two_inputs_in_every_form(rng):
    a, b = keras.Input((5, 3), name="left"), keras.Input((4, 2), name="right")
    states = keras.layers.LSTM(6, return_state=True)(a)[1:]
    theirs, ours = converted([a, b], keras.layers.LSTM(6)(b, initial_state=states), rng)
    x = [rng.normal(size=shape).astype(F32) for shape in ((3, 5, 3), (3, 4, 2))]
    expected = theirs(x)
    for given in (x, tuple(x), {"left": x[0], "right": x[1]}, {"right": x[1], "left": x[0]}):
        for call in (ours, ours.predict, ours.predict_on_batch):
            near(call(given), expected)
    near(ours.predict(x, batch_size=2), expected)
    assert [tuple(shape) for shape in ours.input_shape] == [(None, 5, 3), (None, 4, 2)]
    assert ours.output_shape == theirs.output_shape
    for wrong in (x[0], x[:1], [*x, x[0]], x[::-1], {"left": x[0]}, [x[0], x[1][:2]], None):
        with pytest.raises((ValueError, TypeError)):
            ours(wrong)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_dict_inputs_and_outputs(rng):
    inputs = {"b": keras.Input((5, 3), name="one"), "a": keras.Input((5, 3), name="two")}
    rnn = keras.layers.GRU(4)
    outputs = {"z": rnn(inputs["a"]), "y": keras.layers.Dense(2)(rnn(inputs["b"]))}
    theirs, ours = converted(inputs, outputs, rng)
    x = {key: rng.normal(size=(3, 5, 3)).astype(F32) for key in ("a", "b")}
    expected = theirs(x)
    near(ours(x), expected)
    near(ours(dict(reversed(x.items()))), expected)
    near(ours.predict(x, batch_size=1), expected)
    near(ours({**x, "unused": np.zeros(3)}), expected)
    assert set(ours.output_shape) == {"y", "z"}
    with pytest.raises(ValueError, match=r"expected 2 inputs, as .*; got a dict of a"):
        ours({"a": x["a"]})


def test_two_outputs(rng):
    x = keras.Input((None, 3))
    whole, last = keras.layers.GRU(4, return_sequences=True, return_state=True)(x)
    theirs, ours = converted(x, [keras.layers.Dense(2, "softmax")(whole), last, whole, last], rng)
    data = rng.normal(size=(3, 6, 3)).astype(F32)
    near(ours(data), theirs(data))
    near(ours.predict(data, batch_size=2), theirs.predict(data, verbose=0))
    assert ours.output_shape == [tuple(shape) for shape in theirs.output_shape]


def test_an_output_that_is_an_input(rng):
    x = keras.Input((5, 3))
    theirs, ours = converted(x, [x, keras.layers.GRU(4)(x)], rng)
    data = rng.normal(size=(3, 5, 3)).astype(F32)
    near(ours(data), theirs(data))
    near(ours(data.astype("float64")), theirs(data))
    assert not np.shares_memory(ours(data)[0], data)


def test_a_shared_layer(rng):
    a, b = keras.Input((5, 3)), keras.Input((5, 3))
    rnn, dense = keras.layers.LSTM(4, name="rnn"), keras.layers.Dense(4, activation="tanh")
    theirs, ours = converted([a, b], [rnn(a), dense(rnn(b)), dense(dense(rnn(a)))], rng)
    x = [rng.normal(size=(3, 5, 3)).astype(F32) for _ in range(2)]
    near(ours(x), theirs(x))
    assert len(ours.weights) == len(theirs.weights) == 5
    ours(x)
    weights = [weight + 0.1 for weight in ours.get_layer("rnn").get_weights()]
    ours.get_layer("rnn").set_weights(weights)
    rnn.set_weights(weights)
    near(ours(x), theirs(x))


def test_nested_models(rng):
    x = keras.Input((5, 3))
    inner = keras.Sequential([keras.Input((5, 3)), keras.layers.GRU(4, return_sequences=True)])
    a = keras.Input((5, 4))
    deeper = keras.Model(a, [keras.layers.LSTM(2)(a), keras.layers.Dense(3)(a)], name="deeper")
    theirs, ours = converted(x, deeper(inner(x)), rng)
    data = rng.normal(size=(3, 5, 3)).astype(F32)
    near(ours(data), theirs(data))
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(mine, other)
    for name in ("deeper", inner.name):
        mine, other = ours.get_layer(name), theirs.get_layer(name)
        weights = [weight + 0.1 for weight in mine.get_weights()]
        mine.set_weights(weights)
        other.set_weights(weights)
        near(ours(data), theirs(data))
    near(ours.get_layer(inner.name)(data), inner(data))


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_encoder_and_decoder(name, rng):
    make = getattr(keras.layers, name)
    encoded, decoded = keras.Input((None, 3)), keras.Input((None, 2))
    states = make(6, return_state=True)(encoded)[1:]
    y = make(6, return_sequences=True)(decoded, initial_state=states)
    theirs, ours = converted([encoded, decoded], keras.layers.Dense(4, "softmax")(y), rng)
    for batch, steps in ((1, 3), (4, 7)):
        x = [rng.normal(size=(batch, t, f)).astype(F32) for t, f in ((steps, 3), (5, 2))]
        near(ours(x), theirs(x))
        near(ours.predict(x, batch_size=3), theirs(x))


def test_masks_for_a_functional_model(rng):
    a, b = keras.Input((5, 3)), keras.Input((5, 3))
    theirs, ours = converted([a, b], [keras.layers.GRU(4)(a), keras.layers.LSTM(4)(b)], rng)
    x = [rng.normal(size=(3, 5, 3)).astype(F32) for _ in range(2)]
    masks = [rng.random((3, 5)) < 0.6 for _ in range(2)]
    for mask in masks:
        mask[:, 0] = True
    for given in (masks, [masks[0], None], [None, masks[1]], None):
        expected = [theirs.layers[2 + i](x[i], mask=given and given[i]) for i in range(2)]
        near(ours(x, mask=given), expected)


def test_a_shared_stateful_layer_goes_on_within_a_call(rng):
    x = keras.Input((5, 3), batch_size=2)
    rnn = keras.layers.GRU(3, stateful=True, return_sequences=True)
    theirs, ours = converted(x, rnn(rnn(x)), rng)
    data = rng.normal(size=(2, 5, 3)).astype(F32)
    for _ in range(2):
        near(ours(data), theirs(data))


def test_a_stateful_functional_model(rng):
    x = keras.Input((5, 3), batch_size=2)
    y, state = keras.layers.GRU(3, stateful=True, return_state=True)(x)
    theirs, ours = converted(x, [keras.layers.Dense(2)(y), state], rng)
    data = rng.normal(size=(6, 5, 3)).astype(F32)
    near(ours.predict(data), theirs.predict(data, batch_size=2, verbose=0))
    near(ours(data[:2]), theirs(data[:2]))
    before = states_of(ours)
    for call, rows in ((ours.predict, 3), (ours, 4), (ours, 0)):
        with pytest.raises(ValueError, match="batch of 2"):
            call(data[:rows])
    same_states(ours, before)


def test_summary_tells_the_shapes_of_inputs():
    x = fastrnn.Input((5, 4), name="series")
    lines = []
    fastrnn.Model(x, layers.GRU(3)(x)).summary(lines.append)
    (line,) = [line for line in lines[0].splitlines() if "series" in line]
    assert "(None, 5, 4)" in line


def test_calls_are_put_in_order():
    layers = [
        fastrnn.layers.InputLayer((2,), name="x"),
        *(fastrnn.layers.Activation("relu", name=n) for n in "ab"),
    ]
    x, a, b = (TensorRef(name, 0, 0) for name in ("x", "a", "b"))
    nodes = [NodeSpec("b", (a,)), NodeSpec("a", (x,))]
    model = fastrnn.Functional.of_graph(layers, nodes, x, b)
    np.testing.assert_array_equal(model(np.float32([[-1, 2]])), [[0, 2]])
    for loop in ([NodeSpec("b", (a,)), NodeSpec("a", (b,))], [NodeSpec("b", (a,))]):
        with pytest.raises(ValueError, match=r"the calls of b.* have no start"):
            fastrnn.Functional.of_graph(layers, loop, x, b)


@pytest.mark.parametrize("structure", ["list", "dict", "nested"])
def test_inputs_count_however_deep_they_are(structure, rng):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inputs = {"list": [a, b], "dict": {"a": a, "b": b}, "nested": [[a], {"k": b}]}[structure]
    theirs = keras.Model(inputs, keras.layers.Subtract()([a, b]))
    ours = fastrnn.from_keras(theirs)
    x, y = rng.normal(size=(2, 2, 4)).astype("float32")
    forms = [([x], y), [[x], [y]], [[x, y]], [x, y], [{"a": x, "b": y}], [[x], {"q": y}]]
    if structure != "nested":
        forms += [{"a": [x], "b": y}, {"b": y, "a": x, "c": x}]
    for given in forms:
        np.testing.assert_array_equal(theirs(given), x - y)
        np.testing.assert_array_equal(ours(given), x - y)
        np.testing.assert_array_equal(ours.predict(given), x - y)
    for given in ([x], x, [x, y, x], {"a": x}, {"p": x, "q": y}):
        with pytest.raises(ValueError, match=r"named input|Missing data"):
            theirs(given)
        with pytest.raises(ValueError, match="expected 2 inputs"):
            ours(given)
    np.testing.assert_array_equal(ours([x.tolist(), y.tolist()]), x - y)


def test_one_input_however_deep_it_is(rng):
    theirs = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ours = fastrnn.from_keras(theirs)
    x = rng.normal(size=(2, 4)).astype("float32")
    for given in (x, [x], [[x]], ((x,),)):
        np.testing.assert_allclose(ours(given), theirs(given), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="expected"):
        ours([x, x, x])


SEQUENTIALS = {
    "LSTM": lambda: [keras.Input((6, 3)), keras.layers.LSTM(4), keras.layers.Dense(2)],
    "TimeDistributed": lambda: [
        keras.Input((6, 3)),
        keras.layers.TimeDistributed(keras.layers.Dense(2)),
    ],
    "stateful": lambda: [keras.Input(batch_shape=(4, 6, 3)), keras.layers.GRU(4, stateful=True)],
    "nested": lambda: [
        keras.Input((6, 3)),
        keras.Sequential([keras.Input((6, 3)), keras.layers.LSTM(2)]),
    ],
    "convolution": lambda: [
        keras.Input((6, 3)),
        keras.layers.Conv1D(3, 1),
        keras.layers.MaxPooling1D(2, padding="same"),
        keras.layers.Bidirectional(keras.layers.GRU(3)),
    ],
    "masked": lambda: [keras.Input((6, 3)), keras.layers.Masking(), keras.layers.GRU(3)],
    "weightless": lambda: [keras.Input((6, 2)), keras.layers.GlobalAveragePooling1D()],
}


@pytest.mark.parametrize("kind", SEQUENTIALS)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_sequential_takes_any_length(kind, suffix, rng, tmp_path):
    theirs = keras.Sequential(SEQUENTIALS[kind]())
    theirs.save(tmp_path / f"model{suffix}")
    ours = fastrnn.load_model(tmp_path / f"model{suffix}")
    for steps in (1, 3, 9, 6, 9):
        x = rng.normal(size=(4, steps, 3)).astype("float32")
        np.testing.assert_allclose(ours(x), theirs(x), rtol=0, atol=1e-6)
        np.testing.assert_allclose(ours.predict(x), theirs.predict(x, verbose=0), rtol=0, atol=1e-6)


def test_a_functional_model_takes_any_length_in_predict_alone(rng):
    x = keras.Input((6, 3))
    theirs = keras.Model(x, keras.layers.Dense(2)(keras.layers.LSTM(4)(x)))
    ours = fastrnn.from_keras(theirs)
    longer = rng.normal(size=(4, 9, 3)).astype("float32")
    for model in (theirs, ours):
        with pytest.raises(ValueError, match=r"expected shape.*\(None, 6, 3\)"):
            model(longer)
    wanted = theirs.call(longer)
    np.testing.assert_allclose(ours.predict(longer), wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.predict_on_batch(longer), wanted, rtol=0, atol=1e-6)


def test_layers_refuse_sizes_and_the_model_says_which_it_declares(rng):
    flat = [layers.Flatten(), layers.Dense(2)]
    for several, shape in [
        ([layers.LSTM(4)], (4, 6, 5)),
        (flat, (4, 9, 3)),
        ([layers.LSTM(4)], (4, 6)),
        ([layers.LSTM(4)], (4, 0, 3)),
    ]:
        model = fastrnn.Sequential([fastrnn.Input((6, 3)), *several])
        for run in (model, model.predict):
            with pytest.raises(ValueError, match=r"expected .*\(None, 6, 3\)|no empty axis"):
                run(np.zeros(shape, "float32"))


def optional_inputs(kind):
    x = keras.Input((6, 3), name="x")
    shapes = {"mask": ((6,), "bool"), "state": ((4,), "float32")}
    shape, dtype = shapes[kind]
    other = keras.Input(shape, dtype=dtype, name="y", optional=True)
    named = {"mask": other} if kind == "mask" else {"initial_state": other}
    return keras.Model([x, other], keras.layers.GRU(4)(x, **named))


@pytest.mark.parametrize("kind", ["mask", "state"])
def test_an_optional_input(kind, rng, tmp_path):
    theirs = optional_inputs(kind)
    theirs.save(tmp_path / "model.keras")
    x = rng.normal(size=(2, 6, 3)).astype(F32)
    other = rng.random((2, 6)) > 0.3 if kind == "mask" else rng.normal(size=(2, 4)).astype(F32)
    for ours in (fastrnn.from_keras(theirs), fastrnn.load_model(tmp_path / "model.keras")):
        for given in ([x, other], [x, None], {"x": x, "y": None}, [x, other]):
            wanted = theirs(given)
            np.testing.assert_allclose(ours(given), wanted, rtol=0, atol=1e-6)
            np.testing.assert_allclose(ours.predict(given), wanted, rtol=0, atol=1e-6)
        for given in ({"x": x}, [x], [None, other]):
            with pytest.raises(ValueError, match=r"not optional|input"):
                theirs(given)
            with pytest.raises((ValueError, TypeError), match="input"):
                ours(given)


def test_an_optional_input_that_a_layer_needs(rng):
    x, other = keras.Input((4,), name="x"), keras.Input((4,), name="other", optional=True)
    given = [rng.normal(size=(2, 4)).astype(F32), None]
    for outputs in (
        keras.layers.Add()([x, other]),
        keras.layers.Dense(2)(other),
        keras.ops.add(x, other),
    ):
        ours = fastrnn.from_keras(keras.Model([x, other], outputs))
        with pytest.raises(ValueError, match="expected a tensor for the input 'other'; got None"):
            ours(given)
