"""Models with code of their authors', loaded with the caller's classes and functions for it."""

from pathlib import Path

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import layers, ops

PUBLISHED = Path(__file__).parent.parent.parent / "shared" / "models"


@keras.saving.register_keras_serializable(package="Mine", name="Gate")
class KerasGate(keras.layers.Layer):
    def __init__(self, units, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def call(self, inputs):
        return keras.ops.sigmoid(keras.ops.matmul(inputs, self.kernel))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Gate(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def call(self, inputs):
        return ops.sigmoid(ops.matmul(inputs, self.kernel))


@keras.saving.register_keras_serializable(package="Mine")
class Twice(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2


class PlainTwice:
    """A class that knows nothing of fastrnn."""

    def call(self, inputs):
        return inputs * 2


@keras.saving.register_keras_serializable(package="Mine", name="MinimalCell")
class KerasCell(keras.layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def call(self, inputs, states):
        output = keras.ops.matmul(inputs, self.kernel) + states[0]
        return output, [output]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Cell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def call(self, inputs, states):
        output = ops.matmul(inputs, self.kernel) + states[0]
        return output, [output]


def saved(layer, path):
    x = keras.Input((5, 3))
    model = keras.Model(x, keras.layers.Dense(2)(layer(x)))
    model.save(path)
    return model


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(
    ("make", "names", "given"),
    [
        (lambda: KerasGate(4, name="gate"), ["Gate", "Mine>Gate"], Gate),
        (lambda: Twice(name="own"), ["Twice", "Mine>Twice", "own"], lambda x: x * 2),
        (lambda: Twice(name="own"), ["Twice", "Mine>Twice", "own"], PlainTwice),
        (
            lambda: keras.layers.RNN(KerasCell(4), return_sequences=True),
            ["MinimalCell", "Mine>MinimalCell"],
            Cell,
        ),
        (lambda: keras.layers.Lambda(lambda x: x * 2, name="double"), ["double"], lambda x: x * 2),
        (
            lambda: keras.layers.Lambda(lambda x, by: x * by, arguments={"by": 3}, name="by_three"),
            ["by_three"],
            lambda x, by: x * by,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
def test_layers_are_known_by_every_name(make, names, given, suffix, tmp_path, rng):
    path = tmp_path / f"model.{suffix}"
    theirs = saved(make(), path)
    x = rng.normal(size=(4, 5, 3)).astype("float32")
    for name in names:
        model = fastrnn.load_model(path, custom_objects={name: given})
        np.testing.assert_allclose(model(x), np.asarray(theirs(x)), rtol=0, atol=1e-5)
    with pytest.raises(fastrnn.UnsupportedLayerError, match="custom_objects"):
        fastrnn.load_model(path)


def test_lambda_has_the_arguments_of_keras(rng):
    x = rng.normal(size=(4, 5, 3)).astype("float32")
    cases = [
        ((lambda x: x[:, -1],), {}),
        ((lambda x, by: x * by,), {"arguments": {"by": 3}}),
        ((lambda x: x[:, :, :2],), {"output_shape": (5, 2)}),
    ]
    for args, kwargs in cases:
        ours, theirs = layers.Lambda(*args, **kwargs), keras.layers.Lambda(*args, **kwargs)
        np.testing.assert_allclose(ours(x), np.asarray(theirs(x)), rtol=1e-6)
        symbolic = ours(fastrnn.Input((5, 3)))
        assert symbolic.shape == tuple(theirs(keras.Input((5, 3))).shape)
    mask = np.array([[1, 1, 0, 0, 1]] * 4, bool)
    masked = layers.Lambda(lambda x, mask=None: x * mask[..., None], mask=lambda x, mask: ~mask)
    np.testing.assert_array_equal(masked(x, mask=mask), x * mask[..., None])
    with pytest.raises(TypeError, match="expected a function"):
        layers.Lambda("relu")


def test_a_published_model_with_a_lambda():
    case = PUBLISHED / "energy_lambda_attention_keras3"
    if not case.exists():
        pytest.skip("the published models are not here")
    model = fastrnn.load_model(
        case / "model.keras", custom_objects={"lambda_51": lambda x: x.sum(axis=1)}
    )
    expected = np.load(case / "expected.npz")
    for run in ("r0", "r1"):
        got = model(expected[f"{run}_in0"])
        np.testing.assert_allclose(got, expected[f"{run}_out0"], rtol=0, atol=1e-5)
