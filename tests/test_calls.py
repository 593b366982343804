"""Every form of a call gives the same, whatever calls came before it."""

import copy

import numpy as np
import pytest

import fastrnn
from fastrnn import layers
from fastrnn._nested import flatten, map_structure

F32 = np.float32


def outcome(function, *arguments, **named):
    """What a call returns, or the error it raises."""
    try:
        return function(*arguments, **named)
    except Exception as error:
        return repr(error)


def assert_same(got, expected):
    """The same structure, dtypes and bits, or the same error."""
    if isinstance(expected, str) or isinstance(got, str):
        assert got == expected
        return
    assert map_structure(lambda _: None, got) == map_structure(lambda _: None, expected)
    for a, b in zip(flatten(got), flatten(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def numbers(rng, *shape):
    """Numbers that every type can hold, float16 included."""
    return (rng.integers(-8, 9, shape) / 8).astype(F32)


def strided(x):
    wider = np.zeros((*x.shape, 2), x.dtype)
    wider[..., 0] = x
    return wider[..., 0]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


OTHER_ARRAYS = {
    "float64": lambda x: x.astype("f8"),
    "float16": lambda x: x.astype("f2"),
    "long double": lambda x: x.astype("g"),
    "big-endian": lambda x: x.astype(">f4"),
    "column after column": np.asfortranarray,
    "backwards": lambda x: x[::-1].copy()[::-1],
    "strided": strided,
    "read-only": read_only,
    "numbers in lists": np.ndarray.tolist,
    "numbers in tuples": lambda x: tuple(map(np.ndarray.tolist, x)),
    "rows in a list": list,
    "of a subclass": lambda x: x.view(np.memmap),
}
"""The same numbers in other arrays, or in none."""


# -- models ------------------------------------------------------------------------------------------------------------


def rnn_and_dense(steps=6, **options):
    return fastrnn.Sequential(
        [
            fastrnn.Input((steps, 3), name="x"),
            layers.LSTM(4, name="lstm", **options),
            layers.Dense(2, name="dense"),
        ],
        name="model",
    )


def one_feature():
    return fastrnn.Sequential(
        [fastrnn.Input((6, 1), name="x"), layers.GRU(4, name="gru"), layers.Dense(1, name="dense")],
        name="model",
    )


def stateful():
    return fastrnn.Sequential(
        [
            fastrnn.Input(batch_shape=(2, 6, 3), name="x"),
            layers.LSTM(4, stateful=True, return_sequences=True, name="lstm"),
            layers.SimpleRNN(3, stateful=True, name="rnn"),
        ],
        name="model",
    )


def in_numpy():
    return fastrnn.Sequential(
        [
            fastrnn.Input((6, 3), name="x"),
            layers.Permute((2, 1), name="permute"),
            layers.GRU(4, name="gru"),
        ],
        name="model",
    )


def any_length():
    return fastrnn.Sequential(
        [fastrnn.Input((None, 3), name="x"), layers.Dense(2, name="dense")], name="model"
    )


def functional():
    x = fastrnn.Input((6, 3), name="x")
    y = layers.GRU(4, name="gru")(x)
    return fastrnn.Model(x, [layers.Dense(2, name="dense")(y), y], name="model")


MODELS = {
    "declared length": rnn_and_dense,
    "any length": lambda: rnn_and_dense(None),
    "any length, Dense": any_length,
    "several outputs": functional,
    "one feature": one_feature,
    "NumPy between": in_numpy,
    "stateful": stateful,
    "float64": lambda: rnn_and_dense(dtype="float64"),
    "half precision": lambda: rnn_and_dense(dtype="mixed_float16"),
}


CALLS = {
    "call": lambda model, x: model(x),
    "predict": lambda model, x: model.predict(x),
    "predict_on_batch": lambda model, x: model.predict_on_batch(x),
    "in a list": lambda model, x: model([x]),
    "in a tuple": lambda model, x: model.predict((x,)),
    "in lists": lambda model, x: model([[x]]),
    "by name": lambda model, x: model({"x": x}),
    "by name among others": lambda model, x: model.predict({"x": x, "z": None}),
    "by keyword": lambda model, x: model(inputs=x),
    "all arguments": lambda model, x: model(x, None, False),
    "all arguments of predict": lambda model, x: model.predict(x, batch_size=2, verbose=0),
}


WRONG_INPUTS = {
    "features": lambda x: x[..., :0],
    "more features": lambda x: np.repeat(x, 2, axis=-1),
    "another length": lambda x: x[:, :4],
    "no steps": lambda x: x[:, :0],
    "an axis less": lambda x: x[0],
    "two axes less": lambda x: x[0, 0],
    "an axis more": lambda x: x[None],
    "an axis of 1 more": lambda x: x[..., None],
    "rows": lambda x: x[:1],
    "no rows": lambda x: x[:0],
    "strings": lambda x: x.astype("U"),
    "complex": lambda x: x.astype("c8"),
    "objects": lambda x: x.astype("O"),
    "None": lambda x: None,
    "two": lambda x: [x, x],
    "none in a list": lambda x: [],
    "another name": lambda x: {"z": x},
    "ragged": lambda x: [[1.0, 2.0], [3.0]],
    "rows of one array": lambda x: [x[0]],
    "a number": lambda x: 1.5,
    "integers": lambda x: x.astype("i8"),
    "booleans": lambda x: x.astype("?"),
}


def with_weights(model):
    rng = np.random.default_rng(1)
    model.set_weights([numbers(rng, *weight.shape) for weight in model.get_weights()])
    return model


def reset(model):
    if model.stateful:
        model.reset_states()


@pytest.mark.parametrize("name", MODELS)
def test_every_call_of_a_model_gives_the_same(name, rng):
    model = with_weights(MODELS[name]())
    x = numbers(rng, 2, 6, model.input_shape[-1])
    expected = copy.deepcopy(model)(x)
    forms = [(call, lambda x: x) for call in CALLS.values()]
    for change in OTHER_ARRAYS.values():
        forms += [(CALLS[how], change) for how in ("call", "predict", "by name")]
    if x.shape[-1] == 1:
        forms += [(call, lambda x: x[..., 0]) for call in CALLS.values()]
        forms += [(CALLS[how], lambda x: x[..., 0].tolist()) for how in ("call", "predict")]
    for call, change in forms:
        assert_same(call(copy.deepcopy(model), change(x)), expected)
    for call, change in 2 * forms:
        for _ in range(2):
            reset(model)
            assert_same(call(model, change(x)), expected)


@pytest.mark.parametrize("name", MODELS)
def test_errors_of_a_model_are_those_of_its_first_call(name, rng):
    model = with_weights(MODELS[name]())
    x = numbers(rng, 2, 6, model.input_shape[-1])
    called = copy.deepcopy(model)
    for call in CALLS.values():
        reset(called)
        for change in OTHER_ARRAYS.values():
            outcome(call, called, change(x))
    for change in WRONG_INPUTS.values():
        for how in ("call", "predict", "predict_on_batch", "in a list", "by name"):
            fresh = copy.deepcopy(model)
            reset(called)
            expected = outcome(CALLS[how], fresh, change(x))
            assert_same(outcome(CALLS[how], called, change(x)), expected)
            for a, b in zip(called.states, fresh.states, strict=False):
                np.testing.assert_array_equal(a, b)
    reset(called)
    assert_same(called(x), copy.deepcopy(model)(x))


def masked_model():
    return fastrnn.Sequential(
        [
            fastrnn.Input((None, 3), name="x"),
            layers.GRU(4, return_sequences=True, name="gru"),
            layers.GlobalAveragePooling1D(name="pool"),
        ],
        name="model",
    )


MASKS = {
    "booleans": lambda mask: mask,
    "column after column": np.asfortranarray,
    "bytes": lambda mask: mask.astype("u1") * 2,
    "integers": lambda mask: mask.astype("i8"),
    "numbers": lambda mask: mask.astype("f4"),
    "an axis more": lambda mask: mask[..., None],
    "lists": np.ndarray.tolist,
    "one": lambda mask: [mask],
    "none": lambda mask: [None],
    "too few steps": lambda mask: mask[:, :5],
    "too few rows": lambda mask: mask[:1],
    "an axis of 2 more": lambda mask: np.stack([mask, mask], axis=-1),
    "a word": lambda mask: "mask",
    "two": lambda mask: [mask, mask],
}


@pytest.mark.parametrize("make", [rnn_and_dense, masked_model, stateful, in_numpy])
def test_masks_of_models(make, rng):
    model = with_weights(make())
    x, mask = numbers(rng, 2, 6, 3), rng.random((2, 6)) < 0.6
    called = copy.deepcopy(model)
    for _ in range(2):
        for change in MASKS.values():
            for given in (x, x.astype("f8"), [x], x.tolist(), x[:, :5]):
                reset(called)
                expected = outcome(copy.deepcopy(model), given, mask=change(mask))
                assert_same(outcome(called, given, mask=change(mask)), expected)


TOKENS = {
    "floats": None,
    "integers": "int32",
    "half precision": "float16",
}


@pytest.mark.parametrize("declared", TOKENS)
def test_models_of_whole_numbers(declared):
    """A number that float16 does not hold is another one in a model that declares it."""
    model = with_weights(
        fastrnn.Sequential(
            [
                fastrnn.Input((None,), dtype=TOKENS[declared], name="x"),
                layers.Embedding(2060, 3, mask_zero=True, name="embedding"),
                layers.GRU(4, name="gru"),
            ],
            name="model",
        )
    )
    called = copy.deepcopy(model)
    tokens = np.array([[1, 2049, 3, 0], [7, 0, 0, 0]])
    for _ in range(3):
        for dtype in ("i8", "i4", "u2", "f8", "f4", "?", "U"):
            for given in (tokens, tokens[:, :2], tokens[:, :0], tokens + 2000, -tokens, tokens / 2):
                for call in (CALLS["call"], CALLS["predict"]):
                    x = given.astype(dtype)
                    expected = outcome(call, copy.deepcopy(model), x)
                    assert_same(outcome(call, called, x), expected)
        assert_same(outcome(called, tokens.tolist()), copy.deepcopy(model)(tokens.tolist()))


# -- models of several inputs ------------------------------------------------------------------------------------------


def two_inputs(nest, steps=6):
    a, b = fastrnn.Input((steps, 3), name="a"), fastrnn.Input((4,), name="b")
    joined = layers.Concatenate(name="join")([layers.LSTM(4, name="lstm")(a), b])
    y = layers.Dense(2, name="dense")(joined)
    return fastrnn.Model(nest(a, b), {"y": y, "a": joined}, name="model")


STRUCTURES = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "dict": lambda a, b: {"q": a, "p": b},
    "nested": lambda a, b: [[a], {"k": b}],
}

GIVEN_TWO = {
    **STRUCTURES,
    "by name": lambda a, b: {"a": a, "b": b},
    "by name among others": lambda a, b: {"b": b, "z": 1, "a": a},
    "the other way round": lambda a, b: [b, a],
    "one": lambda a, b: [a],
    "alone": lambda a, b: a,
    "three": lambda a, b: [a, b, b],
    "None": lambda a, b: [a, None],
    "a name is missing": lambda a, b: {"a": a},
    "float64": lambda a, b: [a.astype("f8"), b.astype("f8")],
    "one of float64": lambda a, b: [a, b.astype("f8")],
    "numbers in lists": lambda a, b: [a.tolist(), b.tolist()],
    "an array and lists": lambda a, b: (a, b.tolist()),
    "by name, numbers": lambda a, b: {"a": a.tolist(), "b": b},
    "words": lambda a, b: [a.astype("U"), b],
    "words after a wrong shape": lambda a, b: [a[0], b.astype("U")],
    "rows": lambda a, b: [a[:1], b],
    "no rows": lambda a, b: [a[:0], b[:0]],
    "another length": lambda a, b: [a[:, :4], b],
    "no steps": lambda a, b: [a[:, :0], b],
    "features": lambda a, b: [a[..., :2], b],
    "nested twice": lambda a, b: [[[a]], [b]],
}


@pytest.mark.parametrize("steps", [6, None])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_models_of_two_inputs(structure, steps, rng):
    model = with_weights(two_inputs(STRUCTURES[structure], steps))
    a, b = numbers(rng, 2, 6, 3), numbers(rng, 2, 4)
    called = copy.deepcopy(model)
    calls = [CALLS[how] for how in ("call", "predict", "predict_on_batch")]
    for _ in range(3):
        for give in GIVEN_TWO.values():
            for call in calls:
                expected = outcome(call, copy.deepcopy(model), give(a, b))
                assert_same(outcome(call, called, give(a, b)), expected)


def test_masks_of_models_of_two_inputs(rng):
    a, b = fastrnn.Input((6, 3), name="a"), fastrnn.Input((6, 3), name="b")
    y = layers.Concatenate()([layers.GRU(4)(a), layers.GRU(4)(b)])
    model = with_weights(fastrnn.Model([a, b], y, name="model"))
    called = copy.deepcopy(model)
    a, b = numbers(rng, 2, 6, 3), numbers(rng, 2, 6, 3)
    m, n = rng.random((2, 2, 6)) < 0.6
    for _ in range(3):
        for inputs in ([a, b], {"b": b, "a": a}, [a.astype("f8"), b.tolist()], [a], [a[:, :5], b]):
            for mask in ([m, n], [None, n], [m, None], {"a": m, "b": n}, m, [m], [n, m[:1]],
                         [b, m, n], [None, None], [m.tolist(), n.astype("u1")]):  # fmt: skip
                expected = outcome(copy.deepcopy(model), inputs, mask=mask)
                assert_same(outcome(called, inputs, mask=mask), expected)


def test_optional_inputs(rng):
    x = fastrnn.Input((6, 3), name="x")
    start = fastrnn.layers.InputLayer((4,), name="start", optional=True)
    h = fastrnn.symbolic.input_tensor(start, (None, 4), "float32")
    model = with_weights(
        fastrnn.Model([x, h], layers.GRU(4, name="gru")(x, initial_state=[h]), name="model")
    )
    called = copy.deepcopy(model)
    x, h = numbers(rng, 2, 6, 3), numbers(rng, 2, 4)
    for _ in range(3):
        for given in (
            [x, None],
            [x, h],
            [x.astype("f8"), None],
            {"x": x, "start": None},
            [None, h],
        ):
            assert_same(outcome(called, given), outcome(copy.deepcopy(model), given))


# -- layers alone ------------------------------------------------------------------------------------------------------

LAYERS = {
    "LSTM": lambda: layers.LSTM(4, return_state=True),
    "stateful": lambda: layers.LSTM(4, return_state=True, return_sequences=True, stateful=True),
    "stack": lambda: layers.RNN([layers.LSTMCell(4), layers.GRUCell(4)], return_state=True),
    "Bidirectional": lambda: layers.Bidirectional(layers.GRU(4, stateful=True)),
    "pooling": lambda: layers.GlobalAveragePooling1D(),
    "pooling, channels first": lambda: layers.GlobalAveragePooling1D("channels_first"),
    "Softmax": lambda: layers.Softmax(),
    "BatchNormalization": lambda: layers.BatchNormalization(),
    "Dense": lambda: layers.Dense(2),
    "float64": lambda: layers.Dense(2, dtype="float64"),
    "half precision": lambda: layers.GRU(2, dtype="mixed_bfloat16"),
    "Embedding": lambda: layers.Embedding(9, 3),
    "Flatten": lambda: layers.Flatten(),
    "Add": lambda: layers.Add(),
    "Concatenate": lambda: layers.Concatenate(),
    "Attention": lambda: layers.Attention(),
    "MultiHeadAttention": lambda: layers.MultiHeadAttention(2, 2),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(2)),
}


def calls_of_layers(x, mask):
    """Calls that some layers take and others refuse."""
    h = [x[:, 0, :1].repeat(4, axis=1), x[:, 1, :1].repeat(4, axis=1)]
    for change in OTHER_ARRAYS.values():
        yield (change(x),), {}
    for dtype in ("i8", "i4", "u1", "?", "U", "c8", "O"):
        yield (abs(x).astype(dtype),), {}
    for other in (x[0], x[None], x[:, :3], x[..., :2], x[:1], x[:0], x[:, :0], x[0, 0, 0]):
        yield (other,), {}
    for change in MASKS.values():
        yield (x,), {"mask": change(mask)}
        yield ([x, x + 1],), {"mask": change(mask)}
    for states in (h, tuple(h), h[:1], h[0], [h], [h, h[0]], [h[0][:1], h[1]], [], "h"):
        yield (x,), {"initial_state": states}
        yield (x.astype("f8"), states), {}
        yield (x,), {"mask": mask, "initial_state": states}
    yield (x,), {"initial_state": [state.astype("f8") for state in h]}
    yield (x,), {"initial_state": [h[0].tolist(), h[1]]}
    for flag in (True, False):
        yield ([x, x + 1],), {"use_causal_mask": flag}
        yield ([x, x + 1],), {"return_attention_scores": flag}
        yield (x, x + 1), {"use_causal_mask": flag, "query_mask": mask}
        yield (x,), {"training": flag}
    for several in ([x, x + 1], (x, x + 1), [x, x.astype("f8")], [x, x.tolist()], [x, x[:, :1]]):
        yield (several,), {}
        yield several, {}
    for several in ([x], (x,), [x, x, x], [x, x[:1]], [[x, x]], [x, None], {"a": x, "b": x}, None):
        yield (several,), {}
    yield (), {"inputs": x}
    yield (), {"mask": mask, "inputs": x}
    yield (), {"mask": mask, "sequences": x}
    yield (x,), {"unknown": x}
    yield (x, None, False), {}
    yield (x, x, x, x, x, x), {}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_alone(name, rng):
    layer = LAYERS[name]()
    layer.name = "the_layer"
    x, mask = numbers(rng, 2, 6, 4), rng.random((2, 6)) < 0.6
    good = [x, x] if name in ("Add", "Concatenate", "Attention") else x
    layer(abs(x) if name == "Embedding" else good, *([x] if name == "MultiHeadAttention" else []))
    layer.set_weights([numbers(rng, *weight.shape) for weight in layer.get_weights()])
    called = copy.deepcopy(layer)
    for _ in range(2):
        for arguments, named in calls_of_layers(x, mask):
            if getattr(layer, "stateful", False):
                called.reset_states()
                layer.reset_states()
            with np.errstate(all="ignore"):
                expected = outcome(copy.deepcopy(layer), *arguments, **named)
                for _ in range(2):
                    if getattr(layer, "stateful", False):
                        called.reset_states()
                    assert_same(outcome(called, *arguments, **named), expected)


def test_attention_refuses_training_as_other_layers_do(rng):
    x = numbers(rng, 2, 6, 4)
    for layer, given in (
        (layers.MultiHeadAttention(2, 2, dropout=0.5), (x, x)),
        (layers.Attention(dropout=0.5), ([x, x],)),
    ):
        layer(*given)
        for _ in range(2):
            with pytest.raises(ValueError, match="inference only"):
                layer(*given, training=True)


class Doubled(layers.LSTM):
    def call(self, inputs):
        return 2 * super().call(inputs)


def test_a_layer_of_ones_own_and_the_one_it_derives_from(rng):
    x = numbers(rng, 2, 6, 3)
    layer = Doubled(4)
    y = layer(x)
    plain = layers.LSTM(4)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    for given in (x, x.astype("f8"), x.tolist(), x):
        np.testing.assert_array_equal(layer(given), y)
        np.testing.assert_array_equal(2 * plain(given), y)


# -- what changes between calls ----------------------------------------------------------------------------------------


def call_in_all_ways(model, x):
    for call in CALLS.values():
        call(model, x)
        call(model, x.astype("f8"))
    model(x, mask=np.ones(x.shape[:2], bool))


def test_weights_that_change(rng):
    model, x = with_weights(rnn_and_dense()), numbers(rng, 2, 6, 3)
    layer = model.layers[0]
    for change in (model, layer):
        call_in_all_ways(model, x)
        layer(x), layer(x.astype("f8"))
        before = model(x), layer(x)
        change.set_weights([weight + 1 for weight in change.get_weights()])
        fresh = rnn_and_dense()
        fresh.set_weights(model.get_weights())
        assert not np.array_equal(fresh(x), before[0])
        for call in CALLS.values():
            assert_same(call(model, x), fresh(x))
            assert_same(call(model, x.astype("f8")), fresh(x))
        mask = np.ones((2, 6), bool)
        assert_same(model(x, mask=mask), fresh(x))
        assert_same(layer(x), fresh.layers[0](x))
        assert_same(layer(x.astype("f8")), fresh.layers[0](x))


def test_precision_and_threads_that_change(rng, threads):
    model, x = with_weights(rnn_and_dense()), numbers(rng, 2, 6, 3)
    for precision in ("bfloat16", "float32"):
        call_in_all_ways(model, x)
        model.set_precision(precision)
        fresh = with_weights(rnn_and_dense())
        fresh.set_precision(precision)
        for number in (1, 2):
            fastrnn.set_num_threads(number)
            for call in CALLS.values():
                assert_same(call(model, x), fresh(x))
                assert_same(call(model, x.astype("f8")), fresh(x))


def test_layers_that_are_added_and_removed(rng):
    model, x = with_weights(rnn_and_dense()), numbers(rng, 2, 6, 3)
    before = model(x)
    call_in_all_ways(model, x)
    added = layers.Dense(3, name="added")
    model.add(added)
    for call in CALLS.values():
        assert_same(call(model, x), added(before))
        assert_same(call(model, x.astype("f8")), added(before))
    assert model.pop() is added
    for call in CALLS.values():
        assert_same(call(model, x), before)
        assert_same(call(model, x.astype("f8")), before)


def test_states_between_calls(rng):
    """States go on from whichever form of call to whichever other, and from where they are set."""
    model = with_weights(stateful())
    plain = copy.deepcopy(model)
    xs = [numbers(rng, 2, 6, 3) for _ in range(6)]
    start = [numbers(rng, *state.shape) for state in model.states]
    for _ in range(3):
        for one in (model, plain):
            one.reset_states(start)
        for x, call in zip(xs, CALLS.values(), strict=False):
            kept = [state.copy() for state in model.states]
            assert "Error" in outcome(call, model, x[:1])
            assert_same(model.states, kept)
            (y,) = [call(model, x)]
            executable, _ = plain._executable((False,))
            assert_same(y, executable([x])[0])
            assert_same(model.states, plain.states)


def test_results_are_new(rng):
    model = with_weights(stateful())
    layer = layers.GRU(4, stateful=True, return_state=True)
    x = numbers(rng, 2, 6, 3)
    for call in (model, model.predict, layer, layer):
        y = flatten(call(x))
        kept = [one.copy() for one in y]
        again = flatten(call(x))
        assert_same(y, kept)
        held = [*again, x, *flatten([model.states, layer.states])]
        assert not any(np.may_share_memory(a, b) for a in y for b in held if b is not None)
        for one in again:
            one[:] = 7
        reset(model)
        layer.reset_states()
        assert_same(flatten(call(x)), kept)
        reset(model)
        layer.reset_states()
