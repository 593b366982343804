"""Calls with anything: a result, or a TypeError or ValueError that says what was expected."""

import contextlib

import numpy as np
import pytest

import fastrnn
from fastrnn import layers
from tests.layer_examples import EXAMPLES, arguments_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of empty slices

REFUSALS = (TypeError, ValueError)

JUNK = {
    "none": None,
    "ellipsis": ...,
    "text": "text",
    "bytes": b"bytes",
    "object": object(),
    "number": 5,
    "numpy number": np.float32(1),
    "numpy boolean": np.bool_(True),
    "complex": np.ones((2, 3), complex),
    "dates": np.zeros((2, 3), "M8[s]"),
    "ragged": [[1.0], [1.0, 2.0]],
    "empty list": [],
    "empty lists": [[]],
    "empty tuple": (),
    "empty dict": {},
    "dict": {"a": np.ones((2, 3))},
    "mixed keys": {"a": np.ones((2, 3)), 1: np.ones((2, 3))},
    "no axes": np.array(1.0),
    **{f"{rank} axes": np.ones((2,) * rank, np.float32) for rank in range(1, 8)},
    **{f"{rank} axes, last empty": np.ones((*(2,) * rank, 0), np.float32) for rank in range(6)},
    **{f"{rank} axes, first empty": np.ones((0, *(2,) * rank), np.float32) for rank in range(6)},
    "booleans": np.ones((2, 3), bool),
    "not finite": np.full((2, 6, 4), np.nan, np.float32),
    "generator": (number for number in range(3)),
    "class": np.ndarray,
}


def attempt(work):
    """Any other exception is let through; one that is refused says something."""
    said = None
    try:
        work()
    except REFUSALS as error:
        said = str(error)
    assert said is None or len(said) > 10


def layer_and_inputs(name):
    make, shapes = EXAMPLES[name]
    inputs = arguments_of(shapes, lambda shape: np.ones((2, *shape), np.float32))
    if name == "Embedding":
        inputs = [np.zeros((2, 3), int)]
    layer = make(fastrnn)
    if name.endswith(("Cell", "Cells")):
        pytest.skip("cells have another signature")
    return layer, inputs


@pytest.mark.parametrize("name", EXAMPLES)
def test_layers(name):
    layer, inputs = layer_and_inputs(name)
    layer(*inputs)
    for junk in JUNK.values():
        attempt(lambda junk=junk: EXAMPLES[name][0](fastrnn)(junk))
        attempt(lambda junk=junk: layer(junk))
        attempt(lambda junk=junk: layer(junk, mask=np.ones((2, 3), bool)))
        attempt(lambda junk=junk: layer(*inputs, mask=junk))
        attempt(lambda junk=junk: layer([junk, junk]))
        attempt(lambda junk=junk: layer(*inputs, training=junk))
        attempt(lambda junk=junk: layer(*inputs, initial_state=junk))
        attempt(lambda junk=junk: layer(*inputs, unknown=junk))
    assert np.all(np.isfinite(np.asarray(layer(*inputs)[0], float)))  # usable after


def models():
    one = fastrnn.Sequential([fastrnn.Input((None, 3)), layers.LSTM(4)])
    a, b = fastrnn.Input((None, 3), name="a"), fastrnn.Input((None, 2), name="b")
    both = layers.Concatenate()([layers.GRU(3, return_sequences=True)(a), b])
    several = fastrnn.Model([a, b], layers.SimpleRNN(2, return_sequences=True)(both))
    lookup = fastrnn.Sequential([fastrnn.Input((None,)), layers.Embedding(5, 3), layers.GRU(2)])
    return {"one input": one, "several inputs": several, "indices": lookup}


@pytest.mark.parametrize("name", models())
def test_models_streams_and_pools(name):
    model = models()[name]
    stream, pool = model.stream(2), model.stream_pool(3)
    ids = [pool.open(), pool.open()]
    for junk in JUNK.values():
        for call in (model, model.predict, model.predict_on_batch, stream.step, stream.feed):
            attempt(lambda call=call, junk=junk: call(junk))
            attempt(lambda call=call, junk=junk: call([junk, junk]))
            attempt(lambda call=call, junk=junk: call({"a": junk, "b": junk}))
        attempt(lambda junk=junk: pool.step(ids, junk))
        attempt(lambda junk=junk: stream.step(np.ones((2, 3), np.float32), out=junk))
        attempt(lambda junk=junk: model.stream(junk))
        attempt(lambda junk=junk: model.stream(state=junk))
        attempt(lambda junk=junk: model.stream(start=junk))
        attempt(lambda junk=junk: model.stream_pool(junk))
        attempt(lambda junk=junk: setattr(stream, "state", junk))
        attempt(lambda junk=junk: model.reset_states(junk))
        attempt(lambda junk=junk: model(junk, mask=junk))
        attempt(lambda junk=junk: model.set_weights(junk))
        attempt(lambda junk=junk: pool.restore(junk))
        for call in (
            lambda ids: pool.step(ids, np.ones((2, 3), np.float32)),
            pool.reset,
            pool.state,
        ):
            with contextlib.suppress(KeyError):  # of a stream that is not open
                attempt(lambda call=call, junk=junk: call(junk))


@pytest.mark.parametrize(
    "layer", ["Conv1D", "Conv2D", "Conv3D", "SeparableConv1D", "DepthwiseConv2D"]
)
def test_images_without_channels(layer):
    make, shape = EXAMPLES[layer]
    with pytest.raises(ValueError, match="expected channels"):
        make(fastrnn)(np.ones((2, *shape[:-1], 0), np.float32))
