"""Write random recurrent models, as one version of Keras saves them, with what that version computes.

    python generate.py FOLDER --first 0 --count 200 [--keras tf_keras] [--formats .tf .ckpt]

runs inside the environment of the version that is looked at, so it needs nothing but that Keras, NumPy
and Python 3.6. A seed gives the same model everywhere, but for layers and options that a version does
not have: an option that it refuses is left out, a block of layers that it refuses is skipped, and a
model that it cannot run or save is counted by the reason.

For each model the folder gets SEED.keras and SEED.h5, where the version writes them, or what `--formats`
tells: SEED.tf is a SavedModel folder, which takes the TensorFlow Keras 2 that writes it many seconds, and SEED.ckpt
a TensorFlow checkpoint, whose architecture stands beside it as SEED.ckpt.json. And SEED.npz with
in0, in1, ... and of two calls, one after the other, out0_0, out0_1, ..., out1_0, ..., and a line in
models.jsonl that says what the model is made of. Where the version itself makes another model of one of
the files, those outputs are there too: .h5out0_0, ...
"""

import argparse
import collections
import importlib
import json
import logging
import os
import random
import traceback
import warnings

import numpy as np

BATCH = 5
STEPS = 6
WIDTHS = (3, 4)
WORDS = 7


class Skipped(Exception):
    """A block of layers that this version, or this model, cannot have."""


class Tensor:
    """A symbolic tensor and its shape without the batch."""

    def __init__(self, tensor, shape):
        self.tensor = tensor
        self.shape = tuple(shape)

    @property
    def is_sequence(self):
        return len(self.shape) == 2


def flatten(nested):
    """Return what lists and tuples hold, a list."""
    if not isinstance(nested, (list, tuple)):
        return [nested]
    return [leaf for one in nested for leaf in flatten(one)]


class Generator:
    """One random model.

    Parameters
    ----------
    keras : module
    seed : int
    blocks : int or None
        How many blocks it has at most; None leaves it to chance. Fewer of them find out which one matters.
    """

    def __init__(self, keras, seed, blocks=None):
        self.keras = keras
        self.random = random.Random(seed)
        self.numbers = np.random.RandomState(seed)
        self.blocks = blocks
        self.major = int(keras.__version__.split(".")[0])
        self.inputs, self.arrays = [], []
        self.needs, self.kept = {}, []
        self.tensors = []
        self.states = []
        self.notes = []
        self.dynamic = self.random.random() < 0.4
        self.stateful = self.random.random() < 0.1
        self.float64 = self.random.random() < 0.05
        if self.stateful:
            self.dynamic = False

    # Choices

    def chance(self, probability):
        return self.random.random() < probability

    def some(self, **options):
        """Each option with a chance of a quarter, as one of its values."""
        chosen = {}
        for key in sorted(options):
            value = self.random.choice(options[key])
            if self.chance(0.25):
                chosen[key] = value
        return chosen

    def layer(self, name, *args, **options):
        """Make a layer; options that the version refuses are left out one after the other."""
        cls = getattr(self.keras.layers, name, None)
        if cls is None:
            raise Skipped("no " + name)
        if self.float64 and name != "Input":
            options["dtype"] = "float64"
        wanted = dict(options)
        for key in [None, *sorted(options, reverse=True)]:
            if key is not None and key not in (
                "units",
                "filters",
                "kernel_size",
                "num_heads",
                "key_dim",
            ):
                wanted.pop(key)
            try:
                layer = cls(*args, **wanted)
            except (TypeError, ValueError, NotImplementedError):
                continue
            shown = [getattr(a, "name", repr(a)) for a in args]
            shown += [f"{k}={wanted[k]!r}" for k in sorted(wanted)]
            self.notes.append("{}({})".format(name, ", ".join(shown)))
            return layer
        raise Skipped("cannot make " + name)

    def call(self, layer, *args, **kwargs):
        """Call a layer on tensors; returns a list of the outputs."""
        try:
            outputs = layer(*args, **kwargs)
        except Exception as error:
            reason = str(error).split("\n")[0][:80]
            raise Skipped(f"{type(layer).__name__}: {reason}") from None
        if kwargs:
            self.notes.append("  called with " + ", ".join(sorted(kwargs)))
        flat = flatten(outputs)
        self.follow(flat, flatten(list(args) + list(kwargs.values())))
        return flat

    def follow(self, outputs, sources):
        """Note which of the model's inputs the outputs need."""
        needed = set()
        for source in sources:
            needed |= self.needs.get(id(source), set())
        for output in outputs:
            self.kept.append(output)  # so that no other tensor gets its id
            self.needs[id(output)] = needed

    def add(self, tensor, shape):
        self.tensors.append(Tensor(tensor, shape))

    def sequence(self):
        """One of the newer sequences."""
        found = [one for one in self.tensors if one.is_sequence][-3:]
        if not found:
            raise Skipped("no sequence")
        return self.random.choice(found)

    def vector(self):
        found = [one for one in self.tensors if len(one.shape) == 1][-3:]
        if not found:
            raise Skipped("no vector")
        return self.random.choice(found)

    def needs_steps(self):
        if self.dynamic:
            raise Skipped("the number of steps is open")

    # Inputs

    def input(self, shape, array, dtype="float32"):
        if self.stateful:
            tensor = self.keras.layers.Input(batch_shape=(BATCH, *shape), dtype=dtype)
        else:
            if self.dynamic:
                shape = (None, *shape[1:])
            tensor = self.keras.layers.Input(shape=shape, dtype=dtype)
        return self.known(tensor, array)

    def known(self, tensor, array):
        self.needs[id(tensor)] = {len(self.inputs)}
        self.inputs.append(tensor)
        self.arrays.append(array)
        return tensor

    def counted(self, *shape):
        """Which steps count: the first ones, the last ones, some, or none in one row."""
        steps = shape[-1]
        counted = np.zeros(shape, bool)
        for row in np.ndindex(*shape[:-1]):
            kind = self.random.choice(["first", "first", "last", "some", "all", "none"])
            length = self.random.randint(1, steps - 1)
            if kind == "first":
                counted[row][:length] = True
            elif kind == "last":
                counted[row][length:] = True
            elif kind == "some":
                counted[row] = self.numbers.rand(steps) < 0.6
            elif kind == "all":
                counted[row] = True
        return counted

    def input_numbers(self):
        width = self.random.choice(WIDTHS)
        x = self.numbers.randn(BATCH, STEPS, width).astype("float32")
        masked = self.chance(0.6)
        value = self.random.choice([0.0, 0.0, -1.0])
        if masked:
            x[~self.counted(BATCH, STEPS)] = value
        tensor = self.input((STEPS, width), x)
        if masked:
            tensor = self.call(self.layer("Masking", mask_value=value), tensor)[0]
        self.add(tensor, (STEPS, width))

    def input_words(self):
        words = self.numbers.randint(1, WORDS, (BATCH, STEPS))
        words[~self.counted(BATCH, STEPS)] = 0
        tensor = self.input((STEPS,), words.astype("int32"), "int32")
        for _ in range(self.random.choice([1, 1, 2])):
            width = self.random.choice(WIDTHS)
            layer = self.layer("Embedding", WORDS, width, mask_zero=self.chance(0.8))
            self.add(self.call(layer, tensor)[0], (STEPS, width))

    def input_sentences(self):
        self.needs_steps()
        words = self.numbers.randint(1, WORDS, (BATCH, STEPS, 4))
        words[~self.counted(BATCH, STEPS, 4)] = 0
        tensor = self.input((STEPS, 4), words.astype("int32"), "int32")
        embedded = self.call(self.layer("Embedding", WORDS, 3, mask_zero=self.chance(0.7)), tensor)[
            0
        ]
        inner, width = self.recurrent_layer(return_sequences=False, wrapped=True)
        self.add(self.call(self.layer("TimeDistributed", inner), embedded)[0], (STEPS, width))

    def input_images(self):
        self.needs_steps()
        x = self.numbers.randn(BATCH, STEPS, 4, 2).astype("float32")
        tensor = self.input((STEPS, 4, 2), x)
        options = self.some(
            padding=["same"], go_backwards=[True], use_bias=[False], activation=["relu"]
        )
        options["return_sequences"] = True
        layer = self.layer("ConvLSTM1D", filters=2, kernel_size=2, **options)
        tensor = self.call(layer, tensor)[0]
        layer = self.layer("TimeDistributed", self.layer("Flatten"))
        width = 8 if options.get("padding") == "same" else 6
        self.add(self.call(layer, tensor)[0], (STEPS, width))

    def input_vector(self):
        width = self.random.choice(WIDTHS)
        x = self.numbers.randn(BATCH, width).astype("float32")
        if self.stateful:
            tensor = self.keras.layers.Input(batch_shape=(BATCH, width))
        else:
            tensor = self.keras.layers.Input(shape=(width,))
        self.add(self.known(tensor, x), (width,))

    # Recurrent layers

    def cell_options(self, kind):
        options = self.some(
            activation=[
                "relu",
                "linear",
                "hard_sigmoid",
                "softsign",
                "elu",
                "selu",
                "swish",
                "gelu",
            ],
            use_bias=[False],
            dropout=[0.3],
            recurrent_dropout=[0.2],
        )
        if kind in ("LSTM", "GRU"):
            options.update(
                self.some(recurrent_activation=["hard_sigmoid", "tanh", "relu", "sigmoid"])
            )
        if kind == "LSTM":
            options.update(self.some(unit_forget_bias=[False], implementation=[1, 2]))
        if kind == "GRU":
            options.update(self.some(reset_after=[True, False], implementation=[1, 2]))
        return options

    def recurrent_layer(self, return_sequences, wrapped=False, return_state=False):
        """A recurrent layer and its width."""
        kind = self.random.choice(["SimpleRNN", "LSTM", "GRU", "LSTM", "GRU", "cell", "cells"])
        width = self.random.choice(WIDTHS)
        options = self.some(go_backwards=[True], unroll=[True], zero_output_for_mask=[True])
        if self.dynamic:
            options.pop("unroll", None)
        options["return_sequences"] = return_sequences
        if return_state:
            options["return_state"] = True
        if self.stateful and not wrapped and self.chance(0.7):
            options["stateful"] = True
        names = ["SimpleRNN", "LSTM", "GRU"]
        if kind == "cell":
            name = self.random.choice(names)
            cell = self.layer(name + "Cell", width, **self.cell_options(name))
            layer = self.layer("RNN", cell, **options)
        elif kind == "cells":
            cells = []
            for size in (self.random.choice(WIDTHS), width):
                name = self.random.choice(names)
                cells.append(self.layer(name + "Cell", size, **self.cell_options(name)))
            if self.chance(0.5):
                cells = self.layer("StackedRNNCells", cells)
            layer = self.layer("RNN", cells, **options)
        else:
            options.update(self.cell_options(kind))
            layer = self.layer(kind, units=width, **options)
        layer.kind_of_cells = kind
        return layer, width

    def block_recurrent(self, return_sequences=None):
        x = self.sequence()
        if return_sequences is None:
            return_sequences = self.chance(0.65)
        return_state = self.chance(0.3)
        layer, width = self.recurrent_layer(return_sequences, return_state=return_state)
        kwargs = {}
        kind = layer.kind_of_cells
        if kind not in ("cell", "cells") and self.chance(0.45):
            number = 2 if kind == "LSTM" else 1
            kwargs["initial_state"] = self.initial_states(width, number)
        outputs = self.call_recurrent(layer, x, kwargs)
        self.keep(outputs, x, return_sequences, width, return_state)

    def block_bidirectional(self):
        x = self.sequence()
        return_sequences, return_state = self.chance(0.65), self.chance(0.25)
        layer, width = self.recurrent_layer(return_sequences, return_state=return_state)
        kind = layer.kind_of_cells
        options = {
            "merge_mode": self.random.choice(["concat", "concat", "sum", "mul", "ave", None])
        }
        if self.chance(0.15):
            backward = {"return_sequences": return_sequences, "return_state": return_state}
            backward["go_backwards"] = not getattr(layer, "go_backwards", False)
            backward.update(self.some(zero_output_for_mask=[True]))
            if getattr(layer, "stateful", False):
                backward["stateful"] = True
            if kind in ("SimpleRNN", "LSTM", "GRU"):
                options["backward_layer"] = self.layer(kind, width, **backward)
        both = self.layer("Bidirectional", layer, **options)
        kwargs = {}
        if kind not in ("cell", "cells") and self.chance(0.4):
            number = 2 if kind == "LSTM" else 1
            kwargs["initial_state"] = self.initial_states(width, 2 * number)
        outputs = self.call_recurrent(both, x, kwargs)
        if options["merge_mode"] == "concat":
            self.keep(outputs, x, return_sequences, 2 * width, return_state, width)
        elif options["merge_mode"] is None:
            self.keep(outputs[1:], x, return_sequences, width, return_state)
            self.keep(outputs[:1], x, return_sequences, width, False)
        else:
            self.keep(outputs, x, return_sequences, width, return_state)

    def call_recurrent(self, layer, x, kwargs):
        positional = self.chance(0.2)
        if not kwargs and self.chance(0.08) and not self.stateful:
            mask = self.counted(BATCH, STEPS)
            if x.shape[0] != STEPS:
                raise Skipped("a mask of other steps")
            kwargs = {"mask": self.input((STEPS,), mask, "bool")}
        if positional and self.major >= 3 and "initial_state" in kwargs:
            return self.call(layer, x.tensor, kwargs["initial_state"])
        return self.call(layer, x.tensor, **kwargs)

    def keep(self, outputs, x, return_sequences, width, return_state, state_width=None):
        """Put the output among the tensors and the states beside them."""
        self.add(outputs[0], (x.shape[0], width) if return_sequences else (width,))
        if return_state:
            for state in outputs[1:]:
                self.states.append(Tensor(state, self.shape_of(state)))

    def shape_of(self, tensor):
        shape = getattr(tensor, "_keras_shape", None) or tensor.shape
        return tuple(getattr(size, "value", size) for size in shape)[1:]

    def initial_states(self, width, number):
        found = [one for one in self.states if one.shape == (width,)]
        if len(found) >= number and self.chance(0.7):
            return [one.tensor for one in found[-number:]]
        vectors = [one for one in self.tensors if one.shape == (width,)]
        if vectors and self.chance(0.4):
            return [self.random.choice(vectors).tensor for _ in range(number)]
        x = self.vector()
        return [
            self.call(self.layer("Dense", width, activation="tanh"), x.tensor)[0]
            for _ in range(number)
        ]

    def block_last(self):
        self.block_recurrent(return_sequences=False)

    # Layers that keep the sequence

    def block_maps(self):
        x = self.sequence()
        kind = self.random.choice(
            [
                "Dense",
                "Activation",
                "layer",
                "TimeDistributed",
                "Dropout",
                "Masking",
                "model",
                "shared",
            ]
        )
        if kind == "Dense":
            width = self.random.choice(WIDTHS)
            layer = self.layer(
                "Dense", width, **self.some(activation=self.activations(), use_bias=[False])
            )
            self.add(self.call(layer, x.tensor)[0], (x.shape[0], width))
        elif kind == "Activation":
            layer = self.layer("Activation", self.random.choice(self.activations()))
            self.add(self.call(layer, x.tensor)[0], x.shape)
        elif kind == "layer":
            name, options = self.random.choice(
                [
                    ("LeakyReLU", {}),
                    ("LeakyReLU", {"negative_slope" if self.major >= 3 else "alpha": 0.1}),
                    ("ReLU", {"max_value": 0.5}),
                    ("ReLU", {"negative_slope": 0.1, "threshold": 0.2}),
                    ("ELU", {"alpha": 0.7}),
                    ("PReLU", {"shared_axes": [1]}),
                    ("Softmax", {}),
                    ("Softmax", {"axis": 1}),
                    ("Softmax", {"axis": [1, 2]}),
                    ("ThresholdedReLU", {"theta": 0.3}),
                ]
            )
            self.add(self.call(self.layer(name, **options), x.tensor)[0], x.shape)
        elif kind == "TimeDistributed":
            width = self.random.choice(WIDTHS)
            inner = self.layer("Dense", width, activation=self.random.choice(self.activations()))
            if self.chance(0.3):
                inner = self.keras.models.Sequential([inner, self.layer("Dense", width)])
            self.add(
                self.call(self.layer("TimeDistributed", inner), x.tensor)[0], (x.shape[0], width)
            )
        elif kind == "Dropout":
            name = self.random.choice(
                ["Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout"]
            )
            self.add(self.call(self.layer(name, 0.3), x.tensor)[0], x.shape)
        elif kind == "Masking":
            layer = self.layer("Masking", mask_value=self.random.choice([0.0, 1.0]))
            self.add(self.call(layer, x.tensor)[0], x.shape)
        elif kind == "model":
            inner = self.keras.layers.Input(
                shape=((None if self.dynamic else x.shape[0]), x.shape[1])
            )
            made, width = self.recurrent_layer(return_sequences=True, wrapped=True)
            tensor = self.call(made, inner)[0]
            if self.chance(0.5):
                made, width = self.recurrent_layer(return_sequences=True, wrapped=True)
                tensor = self.call(made, tensor)[0]
            model = self.keras.models.Model(inner, tensor)
            self.add(self.call(model, x.tensor)[0], (x.shape[0], width))
            self.notes.append("  in a model")
        else:
            made, width = self.recurrent_layer(return_sequences=True)
            others = [one for one in self.tensors if one.shape == x.shape]
            for one in others[-2:]:
                self.add(self.call(made, one.tensor)[0], (x.shape[0], width))

    def activations(self):
        return [
            "tanh", "relu", "sigmoid", "hard_sigmoid", "softmax", "softplus", "softsign", "elu",
            "selu", "swish", "gelu", "exponential", "linear", "leaky_relu", "relu6", "mish",
            "log_softmax", "silu", "hard_silu", "hard_swish", "celu", "glu_", "squareplus",
            "hard_tanh", "soft_shrink", "tanh_shrink", "hard_shrink", "sparse_plus",
            "sparse_sigmoid", "sparsemax", "log_sigmoid", "threshold_", "hard_sigmoid",
        ]  # fmt: skip

    def block_normalization(self):
        x = self.sequence()
        name, options = self.random.choice(
            [
                ("BatchNormalization", self.some(center=[False], scale=[False], epsilon=[0.1])),
                ("BatchNormalization", {"axis": 1}),
                ("LayerNormalization", self.some(center=[False], scale=[False], epsilon=[0.1])),
                ("LayerNormalization", self.some(rms_scaling=[True])),
                ("LayerNormalization", {"axis": [1, 2]}),
                ("LayerNormalization", {"axis": 1}),
                ("GroupNormalization", {"groups": self.random.choice([1, x.shape[1]])}),
                ("GroupNormalization", {"groups": -1, "epsilon": 0.1}),
                ("UnitNormalization", self.some(axis=[1, [1, 2]])),
                ("RMSNormalization", self.some(epsilon=[0.1])),
                ("Normalization", {"mean": 0.3, "variance": 2.0}),
                ("Normalization", {"mean": 0.3, "variance": 2.0, "invert": True}),
                ("Normalization", {"mean": 0.3, "variance": 2.0, "axis": None}),
            ]
        )
        if self.dynamic and options.get("axis") in (1, [1, 2]) and name != "UnitNormalization":
            raise Skipped("the number of steps is open")
        self.add(self.call(self.layer(name, **options), x.tensor)[0], x.shape)

    def block_operations(self):
        """Operations on tensors, which Keras 3 and tf.keras record."""
        x = self.sequence()
        kind = self.random.choice(["times", "minus", "divided", "two", "slice"])
        other = x
        try:
            if kind == "times":
                y = x.tensor * 2.0 + 0.5
            elif kind == "minus":
                y = 1.0 - x.tensor
            elif kind == "divided":
                y = x.tensor / 3.0
            elif kind == "two":
                others = [one for one in self.tensors if one.shape == x.shape]
                other = self.random.choice(others)
                y = x.tensor + other.tensor
            else:
                y = x.tensor[:, -1]
        except Exception as error:
            raise Skipped(str(error)[:80]) from None
        if not self.keras_tensor(y):
            raise Skipped("operations are not recorded")
        self.notes.append("operation " + kind)
        self.follow([y], [x.tensor, other.tensor])
        self.add(y, x.shape[1:] if kind == "slice" else x.shape)

    def keras_tensor(self, tensor):
        if "KerasTensor" in type(tensor).__name__:
            return True
        return hasattr(tensor, "_keras_history")

    # Layers that change the number of steps

    def block_steps(self):
        self.needs_steps()
        x = self.sequence()
        steps, width = x.shape
        kind = self.random.choice(
            [
                "ZeroPadding1D",
                "Cropping1D",
                "UpSampling1D",
                "MaxPooling1D",
                "AveragePooling1D",
                "Conv1D",
                "Conv1D",
                "Reshape",
                "Permute",
                "Flatten",
                "SeparableConv1D",
                "Reshape4",
            ]
        )
        if steps > 3 * STEPS:
            kind = "MaxPooling1D"
        if kind == "ZeroPadding1D":
            self.add(self.call(self.layer(kind, (1, 2)), x.tensor)[0], (steps + 3, width))
        elif kind == "Cropping1D":
            if steps < 3:
                raise Skipped("too few steps")
            self.add(self.call(self.layer(kind, (1, 0)), x.tensor)[0], (steps - 1, width))
        elif kind == "UpSampling1D":
            self.add(self.call(self.layer(kind, 2), x.tensor)[0], (steps * 2, width))
        elif kind in ("MaxPooling1D", "AveragePooling1D"):
            padding = self.random.choice(["valid", "same"])
            layer = self.layer(kind, 2, strides=self.random.choice([1, 2]), padding=padding)
            y = self.call(layer, x.tensor)[0]
            self.add(y, self.shape_of(y))
        elif kind in ("Conv1D", "SeparableConv1D"):
            padding = self.random.choice(["valid", "same", "causal"])
            options = self.some(use_bias=[False], dilation_rate=[2], activation=["relu", "tanh"])
            y = self.call(self.layer(kind, width, 2, padding=padding, **options), x.tensor)[0]
            self.add(y, self.shape_of(y))
        elif kind == "Reshape":
            y = self.call(self.layer(kind, (-1, steps)), x.tensor)[0]
            self.add(y, (width, steps))
        elif kind == "Reshape4":
            y = self.call(self.layer("Reshape", (steps, width, 1)), x.tensor)[0]
            y = self.call(self.layer("TimeDistributed", self.layer("LSTM", 3)), y)[0]
            self.add(y, (steps, 3))
        elif kind == "Permute":
            self.add(self.call(self.layer(kind, (2, 1)), x.tensor)[0], (width, steps))
        else:
            self.add(self.call(self.layer("Flatten"), x.tensor)[0], (steps * width,))

    def block_repeat(self):
        self.needs_steps()
        x = self.vector()
        if x.shape[0] > 8:
            raise Skipped("too wide")
        self.add(self.call(self.layer("RepeatVector", STEPS), x.tensor)[0], (STEPS, *x.shape))

    def block_pooling(self):
        x = self.sequence()
        name = self.random.choice(["GlobalAveragePooling1D", "GlobalMaxPooling1D"])
        options = self.some(keepdims=[True])
        layer = self.layer(name, **options)
        y = self.call(layer, x.tensor)[0]
        self.add(y, self.shape_of(y))

    # Several sequences

    def block_merge(self):
        x = self.sequence()
        same = [one for one in self.tensors if one.shape == x.shape]
        steps = [one for one in self.tensors if one.is_sequence and one.shape[0] == x.shape[0]]
        name = self.random.choice(
            [
                "Add",
                "Subtract",
                "Multiply",
                "Average",
                "Maximum",
                "Minimum",
                "Concatenate",
                "Concatenate",
                "Time",
                "Dot",
                "Vector",
            ]
        )
        if name == "Concatenate":
            others = [self.random.choice(steps) for _ in range(self.random.choice([1, 1, 2]))]
            chosen = [x, *others]
            layer = self.layer(name, **self.some(axis=[-1, 2]))
            y = self.call(layer, [one.tensor for one in chosen])[0]
            self.add(y, (x.shape[0], sum(one.shape[1] for one in chosen)))
        elif name == "Time":
            self.needs_steps()
            chosen = [x, self.random.choice(same)]
            y = self.call(self.layer("Concatenate", axis=1), [one.tensor for one in chosen])[0]
            self.add(y, (2 * x.shape[0], x.shape[1]))
        elif name == "Dot":
            self.needs_steps()
            other = self.random.choice(steps)
            if self.chance(0.5):
                layer = self.layer("Dot", axes=1, normalize=self.chance(0.3))
                y = self.call(layer, [x.tensor, other.tensor])[0]
                self.add(y, (x.shape[1], other.shape[1]))
            else:
                other = self.random.choice(same)
                y = self.call(self.layer("Dot", axes=-1), [x.tensor, other.tensor])[0]
                self.add(y, (x.shape[0], other.shape[0]))
        elif name == "Vector":
            # An input with fewer axes gets them after the batch.
            others = [one for one in self.tensors if one.shape == (x.shape[1],)]
            if not others:
                raise Skipped("no vector to add")
            name = self.random.choice(["Add", "Multiply", "Maximum"])
            y = self.call(self.layer(name), [x.tensor, self.random.choice(others).tensor])[0]
            self.add(y, x.shape)
        else:
            number = 1 if name == "Subtract" else self.random.choice([1, 1, 2])
            chosen = [x] + [self.random.choice(same) for _ in range(number)]
            y = self.call(self.layer(name), [one.tensor for one in chosen])[0]
            self.add(y, x.shape)

    def block_attention(self):
        x = self.sequence()
        name = self.random.choice(
            ["Attention", "AdditiveAttention", "MultiHeadAttention", "MultiHeadAttention"]
        )
        values = [one for one in self.tensors if one.is_sequence and one.shape == x.shape]
        scores = self.chance(0.25)
        kwargs = {"return_attention_scores": True} if scores else {}
        if self.chance(0.2):
            kwargs["use_causal_mask"] = True
        value = self.random.choice(values)
        if name == "MultiHeadAttention":
            options = self.some(value_dim=[3], dropout=[0.2], use_bias=[False], output_shape=[3])
            layer = self.layer(name, num_heads=self.random.choice([1, 2]), key_dim=2, **options)
            outputs = self.call_with_fewer(layer, (x.tensor, value.tensor), kwargs)
            self.add(outputs[0], (x.shape[0], options.get("output_shape", x.shape[1])))
        else:
            options = self.some(use_scale=[True, False], dropout=[0.2], causal=[True])
            if name == "Attention":
                options.update(self.some(score_mode=["concat"]))
            layer = self.layer(name, **options)
            tensors = [x.tensor, value.tensor]
            if self.chance(0.3):
                tensors.append(self.random.choice(values).tensor)
            outputs = self.call_with_fewer(layer, (tensors,), kwargs)
            self.add(outputs[0], (x.shape[0], x.shape[1]))
        if len(outputs) > 1:
            self.scores = outputs[1]

    def call_with_fewer(self, layer, args, kwargs):
        """Call a layer with the keyword arguments, or without them where the version has them not."""
        try:
            return self.call(layer, *args, **kwargs)
        except Skipped:
            return self.call(layer, *args)

    def block_dense(self):
        x = self.vector()
        width = self.random.choice(WIDTHS)
        layer = self.layer("Dense", width, activation=self.random.choice(self.activations()))
        self.add(self.call(layer, x.tensor)[0], (width,))

    # The model

    def make(self, skipped):
        """Return the model."""
        kinds = ["numbers", "words", "words", "sentences", "images"]
        chosen = [self.random.choice(kinds[:3])]
        if self.chance(0.5):
            chosen.append(self.random.choice(kinds))
        if self.chance(0.4):
            chosen.append("vector")
        self.scores = None
        for kind in chosen:
            self.attempt("input_" + kind, skipped)
        weights = collections.OrderedDict(
            [
                ("recurrent", 6), ("last", 2), ("bidirectional", 4), ("maps", 3), ("merge", 4),
                ("attention", 3), ("normalization", 2), ("operations", 1), ("steps", 2),
                ("repeat", 1), ("pooling", 1), ("dense", 1),
            ]
        )  # fmt: skip
        names = [name for name, weight in weights.items() for _ in range(weight)]
        number = self.random.choice([1, 2, 3, 3, 4, 5, 6])
        if self.blocks is not None:
            number = min(number, self.blocks)
        for _ in range(number):
            self.attempt("block_" + self.random.choice(names), skipped)
        outputs = [one.tensor for one in self.tensors[-self.random.choice([1, 2, 3]) :]]
        if self.states and self.chance(0.5):
            outputs.append(self.states[-1].tensor)
        if self.scores is not None:
            outputs.append(self.scores)
        outputs = [y for y in outputs if not any(y is x for x in self.inputs)]
        if not outputs:
            raise Skipped("nothing but inputs")
        # Some versions refuse inputs that no output needs.
        needed = sorted(set().union(*(self.needs[id(y)] for y in outputs)))
        self.arrays = [self.arrays[i] for i in needed]
        inputs = [self.inputs[i] for i in needed]
        model = self.keras.models.Model(inputs, outputs if len(outputs) > 1 else outputs[0])
        self.set_weights(model)
        return model

    def attempt(self, block, skipped):
        notes = len(self.notes)
        try:
            getattr(self, block)()
        except Skipped as reason:
            skipped[str(reason)] += 1
            del self.notes[notes:]

    def set_weights(self, model):
        """Random numbers for all weights: biases and moving averages, too, count."""
        for layer in model.layers:
            arrays = []
            values = layer.get_weights()
            for i, variable in enumerate(layer.weights):
                array = values[i]
                name = getattr(variable, "path", "") + variable.name
                array = np.asarray(array)
                if array.dtype.kind not in "fc" or type(layer).__name__ == "Normalization":
                    arrays.append(array)
                elif "variance" in name:
                    arrays.append((0.5 + self.numbers.rand(*array.shape)).astype(array.dtype))
                else:
                    numbers = 0.5 * self.numbers.randn(*array.shape)
                    arrays.append(np.asarray(numbers, dtype=array.dtype))
            if arrays:
                layer.set_weights(arrays)


def run(model, arrays):
    """Return the outputs, a flat list of arrays."""
    inputs = arrays if len(arrays) > 1 else arrays[0]
    if hasattr(model, "_run_eagerly") or hasattr(model, "run_eagerly"):
        try:
            outputs = model(inputs, training=False)
        except TypeError:
            outputs = model(inputs)
    else:
        outputs = model.predict(inputs, batch_size=BATCH)
    flat = flatten(outputs)
    if any(not hasattr(one, "numpy") and "Tensor" in type(one).__name__ for one in flat):
        flat = flatten(model.predict(inputs, batch_size=BATCH))
    return [one.numpy() if hasattr(one, "numpy") else np.asarray(one) for one in flat]


def two_calls(model, arrays):
    """Return what two calls, one after the other, give: out0_0, out0_1, ..., out1_0, ..."""
    outputs = {}
    for call in range(2):
        for i, array in enumerate(run(model, arrays)):
            outputs[f"out{call}_{i}"] = array
    return outputs


def save(model, path):
    """Save a model in the format that the end of the path tells."""
    if path.endswith(".ckpt"):
        with open(path + ".json", "w") as file:
            file.write(model.to_json())
        model.save_weights(path, save_format="tf")
    elif path.endswith(".tf"):
        for layer in model.layers:
            if getattr(layer, "stateful", False):
                layer.reset_states()  # a SavedModel holds them
        model.save(path, save_format="tf")
    else:
        model.save(path)


def load(keras, path):
    """Load what `save` saved."""
    if not path.endswith(".ckpt"):
        return keras.models.load_model(path)
    with open(path + ".json") as file:
        model = keras.models.model_from_json(file.read())
    model.load_weights(path).expect_partial()
    return model


def reloaded(keras, path, arrays, outputs):
    """Return what this version makes of its own file: "same", "other numbers", or an error; and other numbers."""
    try:
        found = two_calls(load(keras, path), arrays)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:80]}", {}
    if all(np.allclose(found[key], outputs[key], 1e-4, 1e-5, equal_nan=True) for key in outputs):
        return "same", {}
    return "other numbers", found


def usual_formats(keras):
    """The formats, by the ends of their files' names, that a version writes as single files."""
    version = tuple(int(part) for part in keras.__version__.split("-")[0].split(".")[:2])
    return [".keras", ".h5"] if version >= (2, 12) else [".h5"]


def generate(keras, folder, seeds, formats, blocks=None, debug=False):
    """Write the models of `seeds`; returns how often what was skipped or failed."""
    skipped, failed, written = collections.Counter(), collections.Counter(), 0
    with open(os.path.join(folder, "models.jsonl"), "a") as index:
        for seed in seeds:
            clear = getattr(keras.backend, "clear_session", None)
            (clear or keras.utils.clear_session)()
            generator = Generator(keras, seed, blocks)
            path = os.path.join(folder, str(seed))
            try:
                model = generator.make(skipped)
                outputs = two_calls(model, generator.arrays)
            except Exception as error:
                failed[f"{type(error).__name__}: {str(error).strip()[:90]}"] += 1
                if debug:
                    traceback.print_exc()
                continue
            saved, stored = {}, dict(outputs)
            for extension in formats:
                try:
                    save(model, path + extension)
                    saved[extension], others = reloaded(
                        keras, path + extension, generator.arrays, outputs
                    )
                    stored.update((extension + key, array) for key, array in others.items())
                except Exception as error:
                    failed[f"save {extension}: {str(error).strip()[:80]}"] += 1
                    if debug:
                        traceback.print_exc()
                    if os.path.isfile(path + extension):
                        os.remove(path + extension)
            if not saved:
                continue
            for i, array in enumerate(generator.arrays):
                stored[f"in{i}"] = array
            np.savez(path + ".npz", **stored)
            line = {"seed": seed, "saved": saved, "layers": generator.notes}
            line["keras"] = keras.__version__
            index.write(json.dumps(line) + "\n")
            written += 1
    return written, skipped, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument(
        "--keras", default="keras", help="the module: keras, tf_keras or tensorflow.keras"
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=[".keras", ".h5", ".tf", ".ckpt"],
        help="as the version by default",
    )
    parser.add_argument("--blocks", type=int, default=None)
    parser.add_argument("--debug", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)  # each .h5 file that Keras 3 writes brings a warning
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    keras = importlib.import_module(options.keras)
    if not os.path.isdir(options.folder):
        os.makedirs(options.folder)
    seeds = range(options.first, options.first + options.count)
    written, skipped, failed = generate(
        keras,
        options.folder,
        seeds,
        options.formats or usual_formats(keras),
        options.blocks,
        options.debug,
    )
    print(f"Keras {keras.__version__}: {written} models of seeds {seeds[0]} to {seeds[-1]}")
    for title, counter in (("blocks skipped", skipped), ("models that failed", failed)):
        print(f"  {title}: {sum(counter.values())}")
        for reason, number in counter.most_common(12):
            print(f"    {number:4} {reason}")


if __name__ == "__main__":
    main()
