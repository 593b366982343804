"""Layers that users write, against the same ones written for Keras."""

import json
import pickle
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops as keras_ops

import fastrnn
from fastrnn import layers


def written_for(module):
    """The layers of this file, deriving from the Layer of `module`, which is fastrnn or keras."""
    ops = module.ops if module is fastrnn else keras_ops

    class Scale(module.layers.Layer):
        def __init__(self, by=2.0, **kwargs):
            super().__init__(**kwargs)
            self.by = by

        def call(self, inputs):
            return inputs * self.by

        def get_config(self):
            return {**super().get_config(), "by": self.by}

    class Linear(module.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, input_shape):
            self.count = self.add_weight(
                shape=(), initializer="ones", name="count", trainable=False
            )
            self.kernel = self.add_weight(
                shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="kernel"
            )
            self.pair = [self.add_weight((self.units,), "zeros", name="bias")]

        def call(self, inputs, training=None):
            assert not training
            return (ops.matmul(inputs, self.kernel) + self.pair[0]) * self.count

        def compute_output_shape(self, input_shape):
            return (*input_shape[:-1], self.units)

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    class Block(module.layers.Layer):
        """With layers inside, several outputs and a second tensor."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.rnn = module.layers.GRU(3, return_sequences=True)
            self.heads = [module.layers.Dense(2), Linear(2)]

        def call(self, inputs, bias=None):
            hidden = self.rnn(inputs)
            first, second = (head(hidden) for head in self.heads)
            return first if bias is None else first + bias, {"second": second}

    class MaskedMean(module.layers.Layer):
        def call(self, inputs, mask=None):
            if mask is None:
                return ops.mean(inputs, axis=1)
            weights = ops.cast(mask, "float32")[:, :, None]
            return ops.sum(inputs * weights, axis=1) / ops.sum(weights, axis=1)

    class Passing(Scale):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.supports_masking = True

    class Shorter(module.layers.Layer):
        """Leaves out the first step, of the mask too."""

        def call(self, inputs):
            return inputs[:, 1:]

        def compute_mask(self, inputs, previous_mask):
            return None if previous_mask is None else previous_mask[:, 1:]

    own = {cls.__name__: cls for cls in (Scale, Linear, Block, MaskedMean, Passing, Shorter)}
    return type("Own", (), own)


OURS, THEIRS = written_for(fastrnn), written_for(keras)


def assert_same(got, expected):
    for ours, theirs in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        theirs = np.asarray(theirs)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def both(write, rng):
    ours, theirs = write(fastrnn, OURS), write(keras, THEIRS)
    theirs.set_weights([rng.normal(size=w.shape) for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def stacked(module, own):
    return module.Sequential(
        [
            module.Input((5, 3)),
            own.Linear(4),
            module.layers.LSTM(4, return_sequences=True),
            own.Scale(0.5),
            module.layers.TimeDistributed(own.Linear(2)),
        ]
    )


def functional(module, own):
    x, bias = module.Input((None, 3)), module.Input((None, 2))
    first, rest = own.Block()(x, bias=bias)
    return module.Model([x, bias], [first, rest["second"], own.Block()(own.Scale()(x))[0]])


def masked(module, own):
    words = module.Input((6,), dtype="int32")
    embedded = module.layers.Embedding(9, 4, mask_zero=True)(words)
    outputs = [
        own.MaskedMean()(embedded),
        own.MaskedMean()(own.Passing()(embedded)),
        own.MaskedMean()(own.Shorter()(embedded)),
        module.layers.GRU(3)(own.Scale()(embedded)),
    ]
    return module.Model(words, outputs)


@pytest.mark.parametrize("write", [stacked, functional, masked])
@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
def test_models_of_own_layers(write, rng):
    ours, theirs = both(write, rng)
    assert ours.output_shape == theirs.output_shape
    if write is masked:
        x = np.array([[1, 2, 3, 0, 0, 0], [4, 1, 0, 2, 3, 4]], "int32")
    elif write is functional:
        x = [rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 2))]
    else:
        x = rng.normal(size=(2, 5, 3))
    assert_same(ours(x), theirs(x))
    assert_same(ours.predict(x), theirs.predict(x, verbose=0))


def test_layers_called_directly(rng):
    x, bias = rng.normal(size=(2, 5, 3)).astype("float32"), np.ones(2, "float32")
    for name, arguments in [("Scale", {}), ("Linear", {"units": 4}), ("Block", {})]:
        ours, theirs = getattr(OURS, name)(**arguments), getattr(THEIRS, name)(**arguments)
        expected = theirs(x)
        ours(x)
        assert [w.shape for w in ours.get_weights()] == [w.shape for w in theirs.get_weights()]
        ours.set_weights(theirs.get_weights())
        assert_same(ours(x), expected)
        if name == "Block":
            assert_same(ours(x, bias), theirs(x, bias))
            assert_same(ours(x, bias=bias), theirs(x, bias=bias))
        elif name == "Linear":
            shape = (None, 5, 3)
            assert ours.compute_output_shape(shape) == theirs.compute_output_shape(shape)
    assert OURS.Scale().compute_output_shape((None, 5, 3)) == (None, 5, 3)
    mask = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0]], bool)
    assert_same(OURS.MaskedMean()(x, mask=mask), THEIRS.MaskedMean()(x, mask=mask))


def test_attributes_hold_the_new_weights(rng):
    layer = OURS.Linear(2)
    x = rng.normal(size=(3, 4)).astype("float32")
    layer(x)
    kernel, bias, count = (rng.normal(size=w.shape).astype("float32") for w in layer.get_weights())
    layer.set_weights([kernel, bias, count])
    np.testing.assert_array_equal(layer.kernel, kernel)
    np.testing.assert_array_equal(layer.pair[0], bias)
    np.testing.assert_array_equal(layer.count, count)
    np.testing.assert_allclose(layer(x), (x @ kernel + bias) * count, rtol=1e-5)
    with pytest.raises(ValueError, match="read-only"):
        layer.kernel[:] = 0


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shape": [3]},
        {"shape": (2, 3), "dtype": "int32"},
        {"shape": (2,), "initializer": "ones", "dtype": "float64", "trainable": False},
    ],
)
def test_add_weight_has_the_arguments_of_keras(arguments):
    ours, theirs = layers.Layer(), keras.layers.Layer()
    own, other = ours.add_weight(**arguments), theirs.add_weight(**arguments)
    assert (own.shape, own.dtype.name) == (tuple(other.shape), other.dtype)
    if own.size and own.dtype.kind == "i":
        np.testing.assert_array_equal(own, np.asarray(other))


def test_layers_keep_weights_and_configs_through_pickle(rng):
    layer = layers.Dense(2)
    layer(rng.normal(size=(3, 4)))
    again = pickle.loads(pickle.dumps(layer))
    np.testing.assert_array_equal(again.get_weights()[0], layer.get_weights()[0])
    config = OURS.Linear(3, name="mine").get_config()
    assert OURS.Linear.from_config(config).get_config() == config
    assert config["units"] == 3


def test_errors():
    with pytest.raises(NotImplementedError, match="Layer has no call"):
        layers.Layer(name="bare")(np.zeros((2, 3)))
    with pytest.raises(TypeError, match="expected the argument 'inputs'"):
        OURS.Scale()()
    with pytest.raises(TypeError, match="at most 1 arguments; got 2"):
        OURS.Scale()(np.zeros(3), np.zeros(3))
    with pytest.raises(TypeError, match="unexpected keyword"):
        OURS.Scale()(np.zeros((2, 3)), other=1)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_layers_called_directly_cast_floats_to_their_dtype(dtype):
    x = np.ones((2, 3), dtype)
    for make in (
        lambda module: module.layers.Dropout(0.5),
        lambda module: module.layers.Identity(),
        lambda module: module.layers.GaussianNoise(0.5),
    ):
        assert make(fastrnn)(x).dtype == np.asarray(make(keras)(x)).dtype


# Classes that derive from a built-in layer


def derived_for(module):
    """Built-in layers and a cell of `module` with a `call` around theirs."""

    class Doubled(module.layers.Dense):
        def call(self, inputs):
            return super().call(inputs) * 2

    class Shifted(Doubled):
        def call(self, inputs):
            return super().call(inputs) + 1

    class Sequences(module.layers.LSTM):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            outputs = super().call(
                sequences, initial_state=initial_state, mask=mask, training=training
            )
            return outputs * 2

    class Cell(module.layers.LSTMCell):
        def call(self, inputs, states, training=False):
            output, new = super().call(inputs, states, training=training)
            return output * 2, new

    class Joined(module.layers.Concatenate):
        def call(self, inputs):
            return super().call(inputs[::-1])

    return SimpleNamespace(**vars())


OURS_DERIVED, KERAS_DERIVED = derived_for(fastrnn), derived_for(keras)
DERIVED = {
    "Dense": lambda c, module: c.Doubled(3),
    "twice": lambda c, module: c.Shifted(3),
    "LSTM": lambda c, module: c.Sequences(3),
    "sequences": lambda c, module: c.Sequences(3, return_sequences=True),
    "cell": lambda c, module: module.layers.RNN(c.Cell(3)),
    "stack": lambda c, module: module.layers.RNN([c.Cell(3), module.layers.GRUCell(2)]),
    "Bidirectional": lambda c, module: module.layers.Bidirectional(module.layers.RNN(c.Cell(3))),
}


MASKED = ("Dense", "twice", "LSTM", "sequences")  # Keras's NumPy backend repeats a cell's state


@pytest.mark.parametrize(
    ("name", "masked"), [*((n, False) for n in DERIVED), *((n, True) for n in MASKED)]
)
def test_classes_that_derive_from_built_in_ones(name, masked, rng):
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    x[:, 3:] = 0
    with keras.saving.custom_object_scope({"Cell": KERAS_DERIVED.Cell}):
        theirs = DERIVED[name](KERAS_DERIVED, keras)
    ours = DERIVED[name](OURS_DERIVED, fastrnn)
    models = []
    for module, layer in ((keras, theirs), (fastrnn, ours)):
        first = [module.layers.Masking()] if masked else []
        gives_sequences = getattr(layer, "return_sequences", False)
        last = [module.layers.GlobalAveragePooling1D()] if gives_sequences else []
        models.append(module.Sequential([module.Input((5, 4)), *first, layer, *last]))
    expected = models[0](x)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(models[1](x), expected, atol=1e-6)
    np.testing.assert_allclose(ours(x), np.asarray(theirs(x)), atol=1e-6)


def test_derived_layers_of_several_inputs_and_built_in_calls(rng):
    x, y = (rng.normal(size=(2, 3)).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(OURS_DERIVED.Joined()([x, y]), np.concatenate([y, x], axis=-1))
    dense = layers.Dense(2)
    np.testing.assert_array_equal(dense.call(x), dense(x))
    with pytest.raises(NotImplementedError, match="has no call"):
        layers.Layer().call(x)


def test_a_derived_cell_called_directly(rng):
    x, state = (rng.normal(size=(2, n)).astype(np.float32) for n in (4, 3))
    theirs, ours = KERAS_DERIVED.Cell(3), OURS_DERIVED.Cell(3)
    expected = theirs(x, [state, state])
    ours(x, [state, state])
    ours.set_weights(theirs.get_weights())
    output, states = ours(x, [state, state])
    np.testing.assert_allclose(output, np.asarray(expected[0]), atol=1e-6)
    np.testing.assert_allclose(states, np.asarray(expected[1]), atol=1e-6)


def test_finding_out_shapes_moves_no_states(rng):
    class Carrying(layers.Layer):
        def __init__(self):
            super().__init__()
            self.rnn = layers.GRU(3, stateful=True)

        def call(self, inputs):
            return self.rnn(inputs)

    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    for wrap in (lambda one: one, lambda one: fastrnn.Sequential([one])):
        layer = Carrying()
        first = wrap(layer)(x)
        plain = layers.GRU(3, stateful=True)
        plain.build(x.shape)
        plain.set_weights(layer.get_weights())
        np.testing.assert_array_equal(first, plain(x))
        layer._forget_plans()
        np.testing.assert_array_equal(layer(x), plain(x))


@pytest.mark.parametrize("base", [fastrnn.Model, fastrnn.Sequential])
def test_models_with_a_call_say_what_to_derive_from(base):
    with pytest.raises(NotImplementedError, match=r"Mine: .*fastrnn\.Layer"):

        class Mine(base):
            def call(self, inputs):
                return inputs


# Configs


class Steps:
    """A cell that is no layer."""

    def __init__(self, units=3):
        self.state_size = units

    def call(self, inputs, states):
        total = states[0] + inputs.sum(axis=-1, keepdims=True)
        return total, [total]

    def get_config(self):
        return {"units": self.state_size}


CUSTOM = {"Steps": Steps, "Scale": OURS.Scale, "Doubled": OURS_DERIVED.Doubled}
NESTED = {
    "RNN": lambda: layers.RNN(Steps(2)),
    "stack": lambda: layers.RNN([Steps(2), layers.LSTMCell(3)]),
    "TimeDistributed": lambda: layers.TimeDistributed(OURS.Scale(3.0)),
    "layer": lambda: OURS_DERIVED.Doubled(2),
    "Sequential": lambda: fastrnn.Sequential(
        [layers.Input((5, 4)), layers.Bidirectional(layers.RNN(Steps(2))), OURS.Scale(3.0)]
    ),
}


@pytest.mark.parametrize("make", NESTED.values(), ids=NESTED)
def test_configs_with_classes_of_users(make, rng):
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    layer = make()
    expected = layer(x)
    config = json.loads(json.dumps(layers.serialize(layer)))
    with pytest.raises(fastrnn.UnsupportedLayerError, match="not supported"):
        layers.deserialize(config)
    again = [layers.deserialize(config, custom_objects=CUSTOM)]
    if not isinstance(layer, layers.Dense):
        again.append(type(layer).from_config(layer.get_config(), custom_objects=CUSTOM))
    for one in again:
        one(x)
        one.set_weights(layer.get_weights())
        np.testing.assert_array_equal(one(x), expected)
    with pytest.raises(fastrnn.UnsupportedLayerError, match="not supported"):
        layers.deserialize(config)


def test_from_keras_with_classes_of_users(rng):
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)

    class Scale(keras.layers.Layer):
        def __init__(self, by=2.0, **kwargs):
            super().__init__(**kwargs)
            self.by = by

        def call(self, inputs):
            return inputs * self.by

        def get_config(self):
            return {**super().get_config(), "by": self.by}

    class Steps(keras.layers.Layer):
        def __init__(self, units=3, **kwargs):
            super().__init__(**kwargs)
            self.state_size = units

        def call(self, inputs, states):
            total = states[0] + keras.ops.sum(inputs, axis=-1, keepdims=True)
            return total, [total]

        def get_config(self):
            return {**super().get_config(), "units": self.state_size}

    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            keras.layers.Dense(3),
            Scale(3.0),
            keras.layers.RNN(Steps(2)),
            keras.layers.Dense(2),
        ]
    )
    with pytest.raises(fastrnn.UnsupportedLayerError, match="custom_objects"):
        fastrnn.from_keras(model)
    taken = fastrnn.from_keras(model, custom_objects=CUSTOM)
    np.testing.assert_allclose(taken(x), model(x), atol=1e-5)
    layer = fastrnn.from_keras(model.layers[2], custom_objects=CUSTOM)
    np.testing.assert_allclose(layer(x), np.asarray(model.layers[2](x)), atol=1e-5)


def test_a_call_that_takes_multiples_alone(rng):
    class EveryFifth(layers.Layer):
        def call(self, inputs):
            return inputs.reshape(len(inputs), -1, 5, inputs.shape[-1])[:, :, 0]

    x = fastrnn.Input((None, 3))
    model = fastrnn.Model(x, layers.GRU(2)(EveryFifth()(x)))
    sequences = rng.normal(size=(2, 20, 3)).astype("float32")
    gru = model.layers[-1]
    np.testing.assert_array_equal(model(sequences), gru(sequences[:, ::5]))
