"""Random functional models that Keras built and saved, against Keras itself.

Each seed grows a graph: inputs, then layers and operations on tensors picked at random, recurrent layers first of all,
with masks, states wired from one layer to another, shared and nested layers, several inputs and outputs.
"""

import random
import warnings

import keras
import numpy as np
import pytest
from keras import layers as K
from keras import ops

import fastrnn

N_MODELS = 160
RECURRENT = ("SimpleRNN", "LSTM", "GRU")


class Grower:
    """Grows one model."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.inputs, self.arrays = {}, {}
        self.sequences, self.vectors, self.films = [], [], []
        self.shared = []
        self.steps = self.random.randint(2, 6)
        self.rng = np.random.default_rng(seed)
        for _ in range(self.random.choice([1, 1, 2, 3])):
            self.add_input()

    def choice(self, *options):
        return self.random.choice(options)

    def add_input(self):
        name = f"in_{len(self.inputs)}"
        kind = self.choice("sequence", "sequence", "tokens", "masked", "vector", "film")
        batch, steps = 3, self.steps
        # Valid steps first: where a row starts with masked ones, Keras's backends disagree.
        lengths = self.rng.integers(1, steps + 1, (batch, 1))
        valid = np.arange(steps) < lengths
        if kind == "tokens":
            tensor = keras.Input((steps,), name=name, dtype="int32")
            tokens = self.rng.integers(1, 9, (batch, steps))
            self.arrays[name] = np.where(valid, tokens, 0).astype("int32")
            self.sequences.append(K.Embedding(9, self.size(), mask_zero=self.choice(0, 1))(tensor))
        elif kind == "vector":
            features = self.size()
            tensor = keras.Input((features,), name=name)
            self.arrays[name] = self.normal(batch, features)
            self.vectors.append(tensor)
        elif kind == "film":
            shape = (steps, 4, 5, self.size())
            tensor = keras.Input(shape, name=name)
            self.arrays[name] = self.normal(batch, *shape)
            self.films.append(tensor)
        else:
            features = self.size()
            tensor = keras.Input((steps, features), name=name)
            self.arrays[name] = self.normal(batch, steps, features)
            value = tensor
            if kind == "masked":
                self.arrays[name] *= valid[..., None]
                value = K.Masking()(tensor)
            self.sequences.append(value)
        self.inputs[name] = tensor
        if not self.sequences:
            vector = self.vectors[-1] if self.vectors else K.Flatten()(self.films[-1])
            self.sequences.append(K.RepeatVector(steps)(vector))

    def normal(self, *shape):
        return self.rng.normal(size=shape).astype("float32")

    def size(self):
        return self.random.randint(1, 9)

    def activation(self):
        return self.choice("tanh", "relu", "sigmoid", "linear", "softmax", "elu", "selu", "swish")

    def cell(self, units):
        name = self.choice(*RECURRENT)
        options = {"reset_after": self.choice(True, False)} if name == "GRU" else {}
        return getattr(K, f"{name}Cell")(units, **options)

    def recurrent(self, units=None, **options):
        units = units or self.size()
        options = {"go_backwards": self.choice(False, False, True), **options}
        if self.choice(0, 0, 1):
            return K.RNN([self.cell(units) for _ in range(self.choice(2, 3))], **options)
        name = self.choice(*RECURRENT)
        if self.choice(0, 1):
            options["activation"] = self.choice("tanh", "relu", "sigmoid")
        if name == "GRU":
            options["reset_after"] = self.choice(True, False)
        return getattr(K, name)(units, use_bias=self.choice(True, True, False), **options)

    def keep(self, value):
        """Put a tensor where the next layers look for inputs."""
        {2: self.vectors, 3: self.sequences, 5: self.films}[len(value.shape)].append(value)

    # Each of these takes one step of growth.

    def grow_recurrent(self):
        x = self.random.choice(self.sequences)
        layer = self.recurrent(return_sequences=self.choice(True, True, False))
        self.keep(layer(x))

    def grow_states(self):
        """An encoder's states start a decoder of the same kind."""
        name, units = self.choice(*RECURRENT), self.size()
        x, z = self.random.choice(self.sequences), self.random.choice(self.sequences)
        make = getattr(K, name)
        y, *states = make(units, return_state=True)(x)
        decoder = make(units, return_sequences=self.choice(True, False))
        self.keep(decoder(z, initial_state=states))
        self.vectors += [y, *states]

    def grow_both_directions(self):
        x = self.random.choice(self.sequences)
        inner = self.recurrent(return_sequences=self.choice(True, True, False), go_backwards=False)
        mode = self.choice("concat", "sum", "mul", "ave", None)
        outputs = K.Bidirectional(inner, merge_mode=mode)(x)
        for output in outputs if mode is None else [outputs]:
            self.keep(output)

    def grow_stack_with_states(self):
        x = self.random.choice(self.sequences)
        cells = [self.cell(self.size()) for _ in range(self.choice(2, 3))]
        y, *states = K.RNN(cells, return_sequences=self.choice(True, False), return_state=True)(x)
        self.keep(y)
        for state in states:
            self.vectors += state if isinstance(state, (list, tuple)) else [state]

    def grow_attention(self):
        x = self.random.choice(self.sequences)
        like = [y for y in self.sequences if y.shape[-1] == x.shape[-1]]
        y = self.random.choice(like)
        outputs = self.choice(
            lambda: K.Attention()([x, y]),
            lambda: K.Attention(use_scale=True)([x, y, y]),
            lambda: K.AdditiveAttention()([x, y]),
            lambda: K.MultiHeadAttention(2, 3)(x, y),
            lambda: K.MultiHeadAttention(1, 2)(x, x, use_causal_mask=True),
        )()
        self.keep(outputs)

    def grow_film(self):
        """Layers over images of every step; most lead back to sequences and vectors."""
        if not self.films:
            return
        x = self.random.choice(self.films)
        layer = self.choice(
            lambda: K.ConvLSTM2D(
                self.random.randint(1, 3),
                self.choice(1, 2, 3),
                padding="same",
                return_sequences=True,
                go_backwards=self.choice(True, False),
            ),
            lambda: K.TimeDistributed(K.Conv2D(self.size(), 2, padding="same")),
            lambda: K.TimeDistributed(K.MaxPooling2D(2, padding="same")),
            lambda: K.TimeDistributed(K.GlobalAveragePooling2D()),
            lambda: K.TimeDistributed(K.Flatten()),
            lambda: K.TimeDistributed(K.DepthwiseConv2D(1)),
            lambda: K.Reshape((x.shape[1], -1)),
        )()
        self.keep(layer(x))

    def grow_sequence_of_sequences(self):
        x = self.random.choice(self.sequences)
        inner = self.recurrent(return_sequences=self.choice(True, False))
        y = K.TimeDistributed(inner)(K.Reshape((*x.shape[1:], 1))(x))
        self.keep(y if len(y.shape) == 3 else K.TimeDistributed(K.Flatten())(y))

    def grow_every_step(self):
        x = self.random.choice(self.sequences)
        inner = self.choice(
            K.Dense(self.size(), activation=self.activation()),
            keras.Sequential([K.Dense(self.size()), K.LayerNormalization()]),
            K.LayerNormalization(),
        )
        self.keep(K.TimeDistributed(inner)(x))

    def grow_along(self):
        """A layer that keeps a sequence a sequence."""
        x = self.random.choice(self.sequences)
        layer = self.choice(
            lambda: K.Dense(self.size(), activation=self.activation()),
            lambda: K.Dropout(0.3),
            lambda: K.SpatialDropout1D(0.3),
            lambda: K.BatchNormalization(),
            lambda: K.LayerNormalization(),
            lambda: K.UnitNormalization(),
            lambda: K.Rescaling(0.5, 0.1),
            lambda: K.Activation(self.activation()),
            lambda: K.LeakyReLU(0.2),
            lambda: K.PReLU(shared_axes=[1]),
            lambda: K.ZeroPadding1D(1),
            lambda: K.UpSampling1D(2),
            lambda: K.Conv1D(self.size(), 2, padding=self.choice("same", "causal")),
            lambda: K.SeparableConv1D(self.size(), 2, padding="same"),
            lambda: K.MaxPooling1D(2, padding="same"),
            lambda: K.AveragePooling1D(2, padding="same"),
            lambda: K.Permute((2, 1)),
            lambda: K.GaussianNoise(0.1),
        )()
        self.keep(layer(x))

    def grow_to_a_vector(self):
        x = self.random.choice(self.sequences)
        layer = self.choice(K.GlobalAveragePooling1D, K.GlobalMaxPooling1D, K.Flatten)
        self.keep(layer()(x))

    def grow_vector(self):
        if self.vectors:
            x = self.random.choice(self.vectors)
            layer = self.choice(
                lambda: K.Dense(self.size(), activation=self.activation()),
                lambda: K.BatchNormalization(),
                lambda: K.RepeatVector(self.steps),
                lambda: K.Reshape((x.shape[1], 1)),
                lambda: K.Softmax(),
            )()
            self.keep(layer(x))

    def grow_merged(self):
        pool = self.choice(self.sequences, self.vectors or self.sequences)
        x = self.random.choice(pool)
        like = [y for y in pool if y.shape[:-1] == x.shape[:-1]]
        others = [self.random.choice(like) for _ in range(self.choice(1, 2))]
        same = [y for y in others if y.shape == x.shape]
        kind = self.choice("Concatenate", "Add", "Multiply", "Average", "Maximum")
        if kind == "Concatenate" or not same:
            self.keep(K.Concatenate()([x, *others]))
        else:
            self.keep(getattr(K, kind)()([x, *same]))

    def grow_operation(self):
        x = self.random.choice(self.sequences)
        self.keep(
            self.choice(
                lambda: x[:, -1],
                lambda: x[:, ::-1],
                lambda: x * 0.5 + 1.0,
                lambda: ops.mean(x, axis=1),
                lambda: ops.max(x, axis=-1, keepdims=True),
                lambda: ops.tanh(x) - x,
                lambda: ops.concatenate([x, x], axis=-1),
                lambda: ops.softmax(x, axis=1),
                lambda: ops.flip(x, axis=1) * ops.sigmoid(x),
                lambda: ops.where(x > 0.1, x, ops.zeros_like(x)),
                lambda: ops.expand_dims(ops.sum(x, axis=2), -1),
                lambda: ops.transpose(x, (0, 2, 1)),
                lambda: ops.einsum("bij,bkj->bik", x, x),
                lambda: ops.split(x, [1], axis=1)[0],
                lambda: ops.cumsum(x, axis=1) / 2,
                lambda: ops.clip(x, -0.5, 0.5),
            )()
        )

    def grow_shared(self):
        if self.shared and self.choice(0, 1):
            layer, features = self.random.choice(self.shared)
            like = [x for x in self.sequences if x.shape[-1] == features]
            self.keep(layer(self.random.choice(like)))
        else:
            x = self.random.choice(self.sequences)
            layer = self.recurrent(return_sequences=self.choice(True, False))
            self.keep(layer(x))
            self.shared.append((layer, x.shape[-1]))

    def grow_nested(self):
        x = self.random.choice(self.sequences)
        inside = keras.Input(x.shape[1:])
        y = self.recurrent(return_sequences=True)(inside)
        model = keras.Model(inside, [y, K.Dense(self.size())(y)] if self.choice(0, 1) else y)
        outputs = model(x)
        for output in outputs if isinstance(outputs, list) else [outputs]:
            self.keep(output)

    def model(self):
        kinds = [name for name in dir(self) if name.startswith("grow_")]
        kinds += ["grow_recurrent"] * 4 + ["grow_both_directions", "grow_states", "grow_film"] * 2
        for _ in range(self.random.randint(3, 8)):
            getattr(self, self.random.choice(kinds))()
        last = [*self.films[-1:], *self.sequences[-2:], *self.vectors[-2:]]
        outputs = last[: self.random.randint(1, len(last))]
        structure = self.choice("list", "dict", "one")
        if structure == "dict":
            outputs = {f"out_{number}": output for number, output in enumerate(outputs)}
        elif structure == "one":
            outputs = self.choice(*outputs[-1:])
        inputs = self.choice(dict(self.inputs), list(self.inputs.values()))
        return keras.Model(inputs, outputs)


def leaves(outputs):
    if isinstance(outputs, dict):
        return [leaf for key in sorted(outputs) for leaf in leaves(outputs[key])]
    if isinstance(outputs, (list, tuple)):
        return [leaf for output in outputs for leaf in leaves(output)]
    return [np.asarray(outputs)]


def scramble(model, rng):
    """Give every weight a value that tells it from the others; variances stay positive."""
    for weight in model.weights:
        values = rng.normal(0, 0.4, weight.shape)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)


@pytest.mark.parametrize("seed", range(N_MODELS))
def test_sweep_of_models(seed, tmp_path):
    grower = Grower(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = grower.model()
        scramble(model, grower.rng)
        given = {name: grower.arrays[name] for name in grower.inputs}
        expected = (
            model([given[layer.name] for layer in model.inputs])
            if isinstance(model._inputs_struct, list)
            else model(given)
        )
        path = tmp_path / f"model.{'keras' if seed % 2 else 'h5'}"
        model.save(path)
    for ours in (fastrnn.load_model(path), fastrnn.from_keras(model)):
        got = ours(given)
        assert type(got) is type(expected) or not isinstance(expected, (list, tuple, dict))
        results = leaves(got)
        assert len(results) == len(leaves(expected))
        for a, b in zip(results, leaves(expected), strict=True):
            scale = max(1, np.abs(b).max(initial=0))
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


def test_a_layer_that_keeps_little_in_its_config_is_no_operation(tmp_path, rng):
    """An .h5 file tells operations from layers by the key that SpatialDropout1D lacks too."""
    x = keras.Input((5, 3))
    model = keras.Model(x, K.SpatialDropout1D(0.3)(x) + 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    array = rng.normal(size=(2, 5, 3))
    np.testing.assert_allclose(fastrnn.load_model(tmp_path / "model.h5")(array), array + 1, 1e-6)


def constant(*shape, dtype="float32"):
    return ops.convert_to_tensor(np.random.default_rng(7).normal(size=shape), dtype)


STEPS = np.array([1, 1, 0, 1, 0, 0], bool)
OF_CONSTANTS = {
    **{
        name: lambda x, b, name=name: getattr(K, name)()([x, constant(b, 6, 3)])
        for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
    },
    "fewer axes": lambda x, b: K.Add()([x, constant(b, 3)]),
    "of NumPy": lambda x, b: K.Add()([x, np.ones((b, 6, 3), "float32")]),
    "integers": lambda x, b: K.Multiply()([x, constant(b, 6, 3, dtype="int32")]),
    "masked": lambda x, b: K.GRU(4)(K.Add()([K.Masking()(x), constant(b, 6, 3)])),
    "Concatenate": lambda x, b: K.GRU(4)(K.Concatenate()([x, constant(4, 6, 1)])),
    "Concatenate, timesteps": lambda x, b: K.Concatenate(axis=1)([x, constant(4, 2, 3)]),
    "Dot": lambda x, b: K.Dot(axes=2)([x, constant(4, 5, 3)]),
    "LSTM": lambda x, b: K.LSTM(4, return_state=True)(
        x, initial_state=[constant(b, 4), constant(b, 4)]
    ),
    "GRU": lambda x, b: K.GRU(4)(x, initial_state=constant(b, 4)),
    "mask beside a state": lambda x, b: K.GRU(4)(K.Masking()(x), initial_state=constant(b, 4)),
    "Bidirectional": lambda x, b: K.Bidirectional(K.SimpleRNN(4))(
        x, initial_state=[constant(b, 4), constant(b, 4)]
    ),
    "stack": lambda x, b: K.RNN([K.GRUCell(4), K.LSTMCell(3)])(
        x, initial_state=[constant(b, 4), [constant(b, 3), constant(b, 3)]]
    ),
    "sequence": lambda x, b: K.GRU(3)(constant(4, 5, 2), initial_state=K.GRU(3)(x)),
    "mask": lambda x, b: K.GRU(4, return_sequences=True)(x, mask=np.tile(STEPS, (4, 1))),
    "mask of a pool": lambda x, b: K.GlobalAveragePooling1D()(x, mask=np.tile(STEPS, (b, 1))),
    "Attention": lambda x, b: K.Attention()([x, constant(b, 5, 3)]),
    "mask of Attention": lambda x, b: K.Attention()([x, x], mask=[None, np.tile(STEPS, (b, 1))]),
    "MultiHeadAttention": lambda x, b: K.MultiHeadAttention(2, 3)(x, constant(b, 5, 3)),
    "attention_mask": lambda x, b: K.MultiHeadAttention(2, 3)(
        x, x, attention_mask=np.tri(6, dtype=bool)[np.newaxis].repeat(b, 0)
    ),
    "attention_mask without a batch": lambda x, b: K.MultiHeadAttention(2, 3)(
        x, x, attention_mask=np.tri(6, dtype=bool)
    ),
    "value_mask": lambda x, b: K.MultiHeadAttention(2, 3)(x, x, value_mask=np.tile(STEPS, (b, 1))),
    "ids": lambda x, b: K.Add()([K.GRU(3)(x), K.Embedding(5, 3)(np.arange(b))]),
    "model": lambda x, b: adding_model()([x, constant(b, 6, 3)]),
}
"""From an input (4, 6, 3), and how many rows constants have, to outputs; Keras runs each."""


def adding_model():
    a, b = keras.Input((6, 3)), keras.Input((6, 3))
    return keras.Model([a, b], K.GRU(2)(K.Add()([a, b])))


@pytest.mark.parametrize("rows", [4, 1])
@pytest.mark.parametrize("kind", OF_CONSTANTS)
def test_constant_tensors_in_calls(kind, rows, rng, tmp_path):
    x = keras.Input(batch_shape=(4 if rows == 4 else None, 6, 3))
    theirs = keras.Model(x, OF_CONSTANTS[kind](x, rows))
    numbers = rng.normal(size=(4, 6, 3)).astype("float32")
    wanted = keras.tree.flatten(theirs(numbers))
    suffixes = [".keras", ".h5"]
    if "Attention" in kind:
        suffixes = [".keras"]  # Keras itself cannot load the other
    for suffix in suffixes:
        theirs.save(tmp_path / f"model{suffix}")
    loaded = [fastrnn.load_model(tmp_path / f"model{suffix}") for suffix in suffixes]
    for ours in (fastrnn.from_keras(theirs), *loaded):
        got = keras.tree.flatten(ours(numbers))
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one, np.asarray(other), rtol=1e-5, atol=1e-5)
        twice = keras.tree.flatten(ours.predict(np.concatenate([numbers, numbers])))
        for one, other in zip(twice, wanted, strict=True):
            np.testing.assert_allclose(one, np.tile(other, (2, *[1] * (one.ndim - 1))), 1e-5, 1e-5)
    if rows == 4 and "without a batch" not in kind:
        with pytest.raises(ValueError, match="expected a batch of 4 rows"):
            ours(numbers[:3])
    with pytest.raises(fastrnn.NotStreamableError, match="constant"):
        ours.stream()
