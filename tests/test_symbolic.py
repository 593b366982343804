"""Models written with symbolic tensors, against the same ones in Keras."""

import keras
import numpy as np
import pytest
from keras import ops

import fastrnn
from fastrnn import layers
from fastrnn.symbolic import KerasTensor


def encoder_decoder(module):
    source, target = module.Input((6, 3), name="source"), module.Input((None, 2), name="target")
    _, *states = module.layers.LSTM(4, return_state=True, name="encoder")(source)
    decoder = module.layers.LSTM(4, return_sequences=True, return_state=True, name="decoder")
    sequence, h, _ = decoder(target, initial_state=states)
    return [source, target], [module.layers.Dense(2, name="head")(sequence), h]


def one_state(module):
    x, state = module.Input((5, 3), name="x"), module.Input((4,), name="state")
    return [x, state], module.layers.GRU(4, name="gru")(x, initial_state=state)


def shared(module):
    a, b = module.Input((5, 3), name="a"), module.Input((7, 3), name="b")
    encode = module.layers.Bidirectional(module.layers.GRU(4, name="gru"), name="encode")
    head = module.layers.Dense(3, name="head")
    merged = module.layers.Subtract(name="difference")([encode(a), encode(b)])
    return (a, b), head(merged)


def masked(module):
    words, mask = (
        module.Input((6,), dtype="int32", name="words"),
        module.Input((6,), dtype="bool", name="mask"),
    )
    embedded = module.layers.Embedding(9, 4, mask_zero=True, name="embedding")(words)
    sequence = module.layers.LSTM(3, return_sequences=True, name="implicit")(embedded)
    explicit = module.layers.GRU(3, name="explicit")(embedded, mask=mask)
    return [words, mask], [module.layers.GRU(2, name="after")(sequence), explicit]


def arithmetic(module):
    x = module.Input((5, 4), name="x")
    y = module.layers.SimpleRNN(4, return_sequences=True, name="rnn")(x)
    z = 2 * y - x / 3 + np.ones(4, np.float32) @ np.eye(4, dtype=np.float32)
    z = abs(-z) ** 2 * (1 - z)
    return x, [z[:, -1], z[..., 1:3], x[:, 1]]


def nested(module):
    a, b = module.Input((5, 3), name="a"), module.Input((4,), name="b")
    state = module.layers.GRU(4, name="gru")(a, initial_state=b)
    inner = module.Model(
        {"b": a, "a": b}, {"z": state, "w": module.layers.Dense(2, name="w")(state)}, name="inner"
    )
    x, s = module.Input((5, 3), name="x"), module.Input((4,), name="s")
    first = inner({"a": s, "b": x})
    second = inner({"b": x, "a": first["z"]})
    return {"x": x, "s": s}, {"out": second["w"], "also": (first["z"], [second["z"]])}


def sequential_inside(module):
    stack = module.Sequential(
        [module.Input((5, 3)), module.layers.GRU(4), module.layers.Dense(3)], name="stack"
    )
    x = module.Input((2, 5, 3), name="x")
    return x, module.layers.TimeDistributed(stack, name="each")(x)


def deep_first(module):
    """Whose layers Keras orders by their distance from the outputs, not as they were called."""
    a, b = module.Input((3,), name="a"), module.Input((3,), name="b")
    short = module.layers.Dense(4, name="short")(b)
    long = module.layers.Dense(4, name="long_2")(module.layers.Dense(5, name="long_1")(a))
    return [a, b], module.layers.Add(name="add")([short, long])


MODELS = [
    encoder_decoder,
    one_state,
    shared,
    masked,
    arithmetic,
    nested,
    sequential_inside,
    deep_first,
]


def example(tensor, rng):
    shape = [4 if i == 0 else size or 5 for i, size in enumerate(tensor.shape)]
    if tensor.dtype == "int32":
        return rng.integers(0, 5, shape).astype("int32")
    return rng.normal(size=shape) > 0 if tensor.dtype == "bool" else rng.normal(size=shape)


def assert_same(got, expected):
    keras.tree.assert_same_structure(got, expected)
    for ours, theirs in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        theirs = np.asarray(theirs)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


def pair(write, rng):
    ours = fastrnn.Model(*write(fastrnn), name="model")
    theirs = keras.Model(*write(keras), name="model")
    assert isinstance(ours, fastrnn.Functional)
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    theirs.set_weights([rng.normal(size=w.shape) / 2 for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    return ours, theirs


@pytest.mark.parametrize("write", MODELS)
def test_models_are_those_of_keras(write, rng):
    ours, theirs = pair(write, rng)
    x = keras.tree.map_structure(lambda tensor: example(tensor, rng), theirs.input)
    expected = theirs(x)
    assert_same(ours(x), expected)
    assert_same(ours.predict(x), expected)
    flat = keras.tree.flatten(x)
    assert_same(ours(flat), expected)
    names = [tensor.name for tensor in theirs.inputs]
    assert_same(ours(dict(zip(names, flat, strict=True))), expected)


@pytest.mark.parametrize("write", MODELS)
def test_symbolic_tensors_have_the_shapes_of_keras(write):
    ours, theirs = write(fastrnn), write(keras)
    keras.tree.assert_same_structure(ours, theirs)
    for own, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        assert isinstance(own, KerasTensor)
        assert (own.shape, own.dtype) == (tuple(other.shape), other.dtype)


def test_input_takes_the_arguments_of_keras():
    for arguments in (
        {"shape": (5, 1)},
        {"shape": (None, 2), "batch_size": 3, "dtype": "int32", "name": "ids"},
        {"batch_shape": (2, 4), "dtype": "float64"},
    ):
        own, other = fastrnn.Input(**arguments), keras.Input(**arguments)
        assert (own.shape, own.dtype, own.ndim) == (other.shape, other.dtype, other.ndim)
        if "name" in arguments:
            assert own.name == other.name
    assert fastrnn.Input is layers.Input


def test_states_may_come_with_the_sequences_as_in_keras_2(rng):
    x, h, c = fastrnn.Input((5, 3)), fastrnn.Input((4,)), fastrnn.Input((4,))
    lstm = layers.LSTM(4)
    model = fastrnn.Model([x, h, c], lstm([x, h, c]))
    arrays = [rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 4)), rng.normal(size=(2, 4))]
    np.testing.assert_allclose(
        model(arrays), lstm(arrays[0], initial_state=arrays[1:]), rtol=0, atol=1e-6
    )


def test_a_model_of_a_part_of_another(rng):
    x = fastrnn.Input((5, 3), name="x")
    middle = layers.GRU(4, return_sequences=True)(x)
    y = layers.LSTM(2)(middle * 2)
    whole, front = fastrnn.Model(x, y), fastrnn.Model(x, middle)
    back = fastrnn.Model(middle, y)
    array = rng.normal(size=(2, 5, 3))
    np.testing.assert_allclose(back(front(array)), whole(array), rtol=0, atol=1e-6)
    whole.set_weights([w * 2 for w in whole.get_weights()])
    np.testing.assert_allclose(back(front(array)), whole(array), rtol=0, atol=1e-6)


def test_an_input_that_nothing_uses(rng):
    x, unused = fastrnn.Input((3,), name="x"), fastrnn.Input((2,), name="unused")
    dense = layers.Dense(2)
    model = fastrnn.Model([x, unused], dense(x))
    arrays = [rng.normal(size=(4, 3)), rng.normal(size=(4, 2))]
    np.testing.assert_array_equal(model(arrays), dense(arrays[0]))


def test_calls_build_layers_and_refuse_what_does_not_fit():
    dense = layers.Dense(4)
    assert dense(fastrnn.Input((3,))).shape == (None, 4)
    assert dense.built
    with pytest.raises(ValueError, match="expected 3 features"):
        dense(fastrnn.Input((5,)))
    with pytest.raises(ValueError, match="ndim=3"):
        layers.LSTM(3)(fastrnn.Input((5,)))


def test_errors_of_models():
    x, other = fastrnn.Input((3,), name="x"), fastrnn.Input((3,), name="other")
    with pytest.raises(ValueError, match=r"depend on .*other.*not among the model's inputs"):
        fastrnn.Model(x, layers.Add()([x, other]))
    with pytest.raises(TypeError, match=r"symbolic tensors.*got array"):
        fastrnn.Model(x, np.zeros(3))
    with pytest.raises(ValueError, match="'same' is that of 2 layers"):
        fastrnn.Model(x, layers.Dense(2, name="same")(layers.Dense(2, name="same")(x)))


def test_symbolic_tensors_have_no_values():
    x = fastrnn.Input((3,))
    for use in (np.asarray, bool, float, int, len, list):
        with pytest.raises(TypeError, match="has no values"):
            use(x)
    assert repr(x).startswith("<KerasTensor shape=(None, 3), dtype=float32, name=input_layer")


def test_a_mask_goes_past_a_decoder_that_takes_states(rng):
    """Keras computes the decoder without the mask, and gives it to the layers after it."""

    def write(module):
        words, state = module.Input((6,), dtype="int32"), module.Input((3,))
        embedded = module.layers.Embedding(9, 4, mask_zero=True)(words)
        options = {"initial_state": [state, state]}
        sequence = module.layers.LSTM(3, return_sequences=True)(embedded, **options)
        both = module.layers.Bidirectional(module.layers.GRU(3, return_sequences=True))
        both = both(embedded, **options)
        return [words, state], [module.layers.GRU(2)(sequence), module.layers.GRU(2)(both)]

    ours, theirs = fastrnn.Model(*write(fastrnn)), keras.Model(*write(keras))
    ours.set_weights(theirs.get_weights())
    x = [np.array([[1, 2, 3, 0, 0, 0], [0, 1, 0, 2, 3, 4]], "int32"), rng.normal(size=(2, 3))]
    assert_same(ours(x), theirs(x))


def test_ops_on_symbolic_tensors_in_a_loaded_model(rng):
    x = keras.Input((5, 3))
    theirs = keras.Model(x, ops.mean(x, axis=1))
    inner = fastrnn.from_keras(theirs)
    y = fastrnn.Input((5, 3))
    array = rng.normal(size=(2, 5, 3)).astype("float32")
    assert_same(fastrnn.Model(y, inner(y))(array), theirs(array))
