"""Bidirectional and TimeDistributed against Keras."""

import keras
import numpy as np
import pytest
from keras import layers as K

import fastrnn
from fastrnn import layers
from fastrnn._nested import flatten
from tests.pairs import pairwise

CELLS = ("SimpleRNN", "LSTM", "GRU")
MODES = ("concat", "sum", "mul", "ave", None)


def flat(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def assert_equal(got, expected):
    got, expected = flat(got), flat(expected)
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs), rtol=0, atol=1e-6)


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 6, 3)).astype(np.float32)


@pytest.fixture
def mask(rng):
    # The first step counts in both directions, since Keras's backends differ where it does not.
    mask = rng.random((4, 6)) > 0.4
    mask[:, [0, -1]] = True
    return mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_bidirectional(cell, mode, return_sequences, return_state, masked, x, mask):
    inner = getattr(K, cell)(5, return_sequences=return_sequences, return_state=return_state)
    theirs = K.Bidirectional(inner, merge_mode=mode)
    expected = theirs(x, mask=mask if masked else None)
    ours = fastrnn.from_keras(theirs)
    assert_equal(ours(x, mask=mask if masked else None), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_bidirectional_starts_from_states(cell, x, rng):
    theirs = K.Bidirectional(getattr(K, cell)(5, return_state=True))
    states = [rng.normal(size=(4, 5)).astype(np.float32) for _ in range(4 if cell == "LSTM" else 2)]
    expected = theirs(x, initial_state=states)
    ours = fastrnn.from_keras(theirs)
    assert_equal(ours(x, initial_state=states), expected)
    with pytest.raises(ValueError, match="expected"):
        ours(x, initial_state=states[:-1])


def test_a_backward_layer_of_ones_own(x):
    backward = K.GRU(2, go_backwards=True, return_sequences=True)
    theirs = K.Bidirectional(K.LSTM(5, return_sequences=True), backward_layer=backward)
    expected = theirs(x)
    assert_equal(fastrnn.from_keras(theirs)(x), expected)


def test_stateful_bidirectional(x):
    theirs = K.Bidirectional(K.LSTM(3, stateful=True))
    theirs.build(x.shape)
    ours = fastrnn.from_keras(theirs)
    for _ in range(3):
        assert_equal(ours(x), theirs(x))
    assert_equal(ours.states, [*theirs.forward_layer.states, *theirs.backward_layer.states])
    kept = [state.copy() for state in ours.states]
    first = ours(x)
    ours.reset_states(kept)
    assert_equal(ours(x), first)
    ours.reset_states()
    assert not any(state.any() for state in ours.states)


def test_bidirectional_refuses():
    with pytest.raises(TypeError, match="recurrent"):
        layers.Bidirectional(layers.Dense(2))
    with pytest.raises(ValueError, match="merge_mode"):
        layers.Bidirectional(layers.LSTM(2), merge_mode="max")
    with pytest.raises(ValueError, match="go backwards"):
        layers.Bidirectional(layers.LSTM(2), backward_layer=layers.LSTM(2))
    with pytest.raises(ValueError, match="return_state"):
        layers.Bidirectional(
            layers.LSTM(2), backward_layer=layers.LSTM(2, go_backwards=True, return_state=True)
        )


def convolution_inside():
    return K.TimeDistributed(keras.Sequential([keras.Input((5, 3)), K.LSTM(4), K.Dense(2, "relu")]))


@pytest.mark.parametrize(
    ("wrapped", "shape"),
    [
        (lambda: K.TimeDistributed(K.Dense(4, "softmax")), (2, 5, 3)),
        (lambda: K.TimeDistributed(K.Dense(4)), (2, 5, 6, 3)),
        (lambda: K.TimeDistributed(K.Dropout(0.5)), (2, 5, 3)),
        (lambda: K.TimeDistributed(K.LSTM(4)), (2, 7, 5, 3)),
        (lambda: K.TimeDistributed(K.Bidirectional(K.GRU(4, return_sequences=True))), (2, 7, 5, 3)),
        (convolution_inside, (3, 7, 5, 3)),
    ],
)
def test_time_distributed(wrapped, shape, rng):
    theirs = wrapped()
    x = rng.normal(size=shape).astype(np.float32)
    expected = theirs(x)
    ours = fastrnn.from_keras(theirs)
    assert_equal(ours(x), expected)
    assert ours.compute_output_shape(shape) == expected.shape
    assert ours(x[:0]).shape == (0, *expected.shape[1:])


def test_time_distributed_refuses(rng):
    with pytest.raises(ValueError, match="at least 3 axes"):
        layers.TimeDistributed(layers.Dense(2))(np.ones((2, 3)))
    with pytest.raises(fastrnn.UnsupportedLayerError, match="every step"):
        layers.TimeDistributed(layers.LSTM(2, return_state=True))(np.ones((2, 3, 4, 5)))


@pytest.mark.parametrize(
    "theirs",
    [
        K.Bidirectional(K.LSTM(3, name="one"), merge_mode="ave", name="both"),
        K.TimeDistributed(K.Dense(2, name="inner"), name="outer"),
    ],
    ids=["Bidirectional", "TimeDistributed"],
)
def test_configs_are_those_of_keras(theirs):
    config = theirs.get_config()
    ours = getattr(layers, type(theirs).__name__).from_config(config)
    again = ours.get_config()
    assert {key: again[key] for key in config} | {"layer": 0, "backward_layer": 0} == {
        **config,
        "layer": 0,
        "backward_layer": 0,
    }
    assert again["layer"]["config"]["name"] == config["layer"]["config"]["name"]
    assert type(theirs).from_config(again).get_config()["name"] == ours.name


BIDIRECTIONAL = {
    "forward": ["SimpleRNN", "LSTM", "GRU", "GRU reset before", "stack"],
    "backward": [None, "SimpleRNN", "LSTM", "GRU", "stack"],
    "mode": MODES,
    "units": [1, 3, 8, 17, 32],
    "features": [1, 4, 9],
    "batch": [1, 2, 7],
    "steps": [1, 2, 5, 11],
    "mask": [False, True],
    "initial_state": [False, True],
    "dtype": ["float32", "float64"],
    **{
        option: [False, True]
        for option in ("return_sequences", "return_state", "stateful", "go_backwards", "unroll")
    },
}
BIDIRECTIONAL_CASES = [case for seed in range(6, 10) for case in pairwise(BIDIRECTIONAL, seed)]


def direction(package, kind, case, go_backwards):
    options = {key: case[key] for key in ("return_sequences", "return_state", "stateful", "unroll")}
    options |= {"go_backwards": go_backwards, "dtype": case["dtype"]}
    units = case["units"]
    if kind == "stack":
        cells = [
            package.LSTMCell(units + 1, dtype=case["dtype"]),
            package.GRUCell(units, dtype=case["dtype"]),
        ]
        return package.RNN(package.StackedRNNCells(cells, dtype=case["dtype"]), **options)
    name, *before = kind.split(maxsplit=1)
    more = {"reset_after": False} if before else {}
    return getattr(package, name)(units, **options, **more)


def both_directions(package, case):
    forward = direction(package, case["forward"], case, case["go_backwards"])
    backward = None
    if case["backward"] is not None:
        backward = direction(package, case["backward"], case, not case["go_backwards"])
    return package.Bidirectional(
        forward, case["mode"], backward_layer=backward, dtype=case["dtype"]
    )


@pytest.mark.parametrize("number", range(len(BIDIRECTIONAL_CASES)))
def test_sweep_of_bidirectional(number):
    case, rng = dict(BIDIRECTIONAL_CASES[number]), np.random.default_rng(number)
    if case["go_backwards"] and case["backward"] is None:
        # Keras clones the layer for the other direction and turns neither around.
        case["go_backwards"] = False
    if case["mask"] and case["return_sequences"]:
        # Then a direction that goes backwards is zeroed by another rule, that of
        # test_unrolled_backwards_is_zeroed_by_the_unreversed_mask.
        case["unroll"] = False
    # Unrolled, Keras's NumPy backend ignores zero_output_for_mask; TensorFlow and torch do not.
    theirs, ours = both_directions(K, case | {"unroll": False}), both_directions(layers, case)
    shape = (case["batch"], case["steps"], case["features"])
    for layer in (theirs, ours):
        layer.build(shape)
    # Keras stumbles over the masks of the states where both stateful and return_state are set.
    theirs.compute_mask = lambda *args, **kwargs: None
    theirs.set_weights(
        [rng.normal(0, 0.7 / np.sqrt(len(w)), w.shape) for w in theirs.get_weights()]
    )
    ours.set_weights(theirs.get_weights())
    mask = None
    if case["mask"]:
        mask = rng.random(shape[:2]) < 0.6
        mask[:, [0, -1]] = True  # where a row starts with masked steps, Keras's backends disagree
    state = None
    # Keras splits the list in halves, so both directions must have as many states.
    kinds = [case["forward"], case["backward"] or case["forward"]]
    entries = [2 if kind in ("LSTM", "stack") else 1 for kind in kinds]
    if case["initial_state"] and entries[0] == entries[1]:
        state = []
        for kind in kinds:
            u = case["units"]
            for sizes in {"LSTM": [u, u], "stack": [[u + 1, u + 1], [u]]}.get(kind, [u]):
                sizes = sizes if isinstance(sizes, list) else [sizes]
                entry = [rng.normal(size=(case["batch"], n)).astype(case["dtype"]) for n in sizes]
                state.append(entry if kind == "stack" else entry[0])
    for _ in range(2):
        x = rng.normal(size=shape).astype(case["dtype"])
        expected = theirs(x, mask=mask, initial_state=state)
        got = ours(x, mask=mask, initial_state=state)
        tolerance = 1e-5 if case["dtype"] == "float32" else 1e-10
        results, judged = flatten(got), flatten(expected)
        assert len(results) == len(judged), case
        for a, b in zip(results, judged, strict=True):
            np.testing.assert_allclose(a, np.asarray(b), rtol=0, atol=tolerance, err_msg=str(case))
            assert a.dtype == case["dtype"]


# -- TimeDistributed over layers that read masks or keep states ------------------------------------------------------


def masks_of_steps(rng):
    """Masks (3, 4, 5) whose every sequence starts and ends with a step that counts: there Keras's backends agree."""
    masks = rng.random((3, 4, 5)) < 0.6
    masks[..., [0, -1]] = True
    return masks


@pytest.mark.parametrize("kind", ["LSTM", "Bidirectional", "model"])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_every_step_has_a_mask_of_its_own(kind, return_sequences, rng):
    def inner(package, models):
        layer = package.GRU(3, return_sequences=return_sequences)
        if kind == "Bidirectional":
            return package.Bidirectional(layer)
        return models.Sequential([models.Input((5, 2)), layer]) if kind == "model" else layer

    theirs, ours = (
        K.TimeDistributed(inner(K, keras)),
        layers.TimeDistributed(inner(layers, fastrnn)),
    )
    x, masks = rng.normal(size=(3, 4, 5, 2)).astype("float32"), masks_of_steps(rng)
    for layer in (theirs, ours):
        layer.build((3, 4, 5, 2))
    ours.set_weights(theirs.get_weights())
    assert_equal(ours(x), theirs(x))
    np.testing.assert_allclose(ours(x, mask=masks), theirs(x, mask=masks), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="timesteps, steps"):
        ours(x, mask=masks[..., 0])
    with pytest.raises(ValueError, match="mask"):
        ours(x, mask=masks[:, :2])


def test_sentences_of_words(rng):
    """Hierarchical models: the mask of words goes to the inner layer, and a sentence of no words is masked itself."""
    words = rng.integers(1, 9, (3, 4, 5))
    words[0, :, 3:] = words[1, 2:] = words[2, 1, 1:] = 0
    embedding, inner, outer = layers.Embedding(9, 3, mask_zero=True), layers.LSTM(4), layers.GRU(2)
    model = fastrnn.Sequential(
        [fastrnn.Input((4, 5)), embedding, layers.TimeDistributed(inner), outer]
    )
    vectors = embedding(words)
    sentences = np.stack([inner(vectors[:, t], mask=words[:, t] > 0) for t in range(4)], axis=1)
    expected = outer(sentences, mask=(words > 0).any(-1))
    np.testing.assert_allclose(model(words), expected, rtol=0, atol=1e-6)


def test_the_words_of_every_sentence_keep_their_masks(rng):
    words = rng.integers(0, 4, (3, 4, 5))
    embedding, below, above = (
        layers.Embedding(4, 3, mask_zero=True),
        layers.LSTM(4, return_sequences=True),
        layers.GRU(2),
    )
    model = fastrnn.Sequential(
        [
            fastrnn.Input((4, 5)),
            embedding,
            layers.TimeDistributed(below),
            layers.TimeDistributed(layers.LayerNormalization()),
            layers.TimeDistributed(above),
        ]
    )
    expected = []
    for t in range(4):
        mask = words[:, t] > 0
        normalized = model.layers[2].layer(below(embedding(words[:, t]), mask=mask))
        expected.append(above(normalized, mask=mask))
    np.testing.assert_allclose(model(words), np.stack(expected, axis=1), rtol=0, atol=1e-6)


def test_a_stateful_layer_goes_on_from_step_to_step(rng):
    theirs = K.TimeDistributed(K.LSTM(3, stateful=True))
    x = rng.normal(size=(2, 4, 5, 3)).astype("float32")
    theirs.build(x.shape)
    ours = layers.TimeDistributed(layers.LSTM(3, stateful=True))
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    for _ in range(2):
        assert_equal(ours(x), theirs(x))
    assert_equal(ours.layer.states, [np.asarray(state) for state in theirs.layer.states])
    model = fastrnn.Sequential([fastrnn.Input(batch_shape=x.shape), ours, layers.Dense(2)])
    model.reset_states()
    first, second = model(x), model(x)
    assert np.abs(first - second).max() > 1e-3
    model.reset_states()
    assert_equal(model(x), first)
    given = [rng.normal(size=(2, 3)).astype("float32") for _ in ours.states]
    ours.reset_states(given)
    assert_equal(ours.states, given)
    assert_equal(model.states, given)


def test_a_layer_with_several_outputs_at_every_step_is_refused():
    layer = layers.TimeDistributed(layers.LSTM(3, return_state=True))
    with pytest.raises(fastrnn.UnsupportedLayerError, match="several outputs"):
        layer(np.zeros((2, 3, 4, 5)))


@pytest.mark.parametrize("further", [(), (1,), (3,), (9,), (2, 3)])
def test_a_layer_inside_that_takes_no_mask_leaves_its_further_axes_alone(further, rng):
    theirs = keras.layers.TimeDistributed(keras.layers.Dense(2))
    x, mask = rng.normal(size=(4, 5, 3)).astype("float32"), np.ones((4, 5, *further), bool)
    wanted = theirs(x, mask=mask)
    ours = fastrnn.from_keras(theirs)
    np.testing.assert_allclose(ours(x, mask=mask), wanted, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="whose shape begins with"):
        ours(x, mask=mask[:, :-1])
