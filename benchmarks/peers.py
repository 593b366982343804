"""One adapter an engine: the same weights and inputs, in the form each engine runs best.

An adapter's module is imported by everyone, the engine's package only when an adapter is made, so
that engines live in processes of their own and a missing one is no error.
"""

import abc
import contextlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from benchmarks.configurations import (
    GATES,
    Configuration,
    ConvLSTM,
    Dense,
    Embedding,
    Layer,
    Recurrent,
)

ONNX_OPSET = 22
ONNX_IR_VERSION = 10


class Prepared(NamedTuple):
    """A model ready to be timed.

    `call` runs it once on inputs that already are in the engine's own form; `to_numpy` turns what
    it returns into Keras's layout, batch first.
    """

    call: Callable[[], Any]
    to_numpy: Callable[[Any], np.ndarray]


class Engine(abc.ABC):
    """An engine held to `threads` threads; at most one a process."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    reduced: ClassVar[bool] = False
    """Whether it computes in less than float32: then its times are shown, and not compared."""

    @classmethod
    def missing(cls) -> list[str]:
        """Names of the packages it needs that are not installed."""
        return [name for name in cls.packages if importlib.util.find_spec(name) is None]

    @classmethod
    def runs(cls, configuration: Configuration) -> bool:
        """Whether it has all the layers."""
        return True

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def describe(self) -> str:
        """The versions of its packages."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)

    @abc.abstractmethod
    def prepare(
        self, configuration: Configuration, parameters: list[list[np.ndarray]], x: np.ndarray
    ) -> Prepared:
        """Build the model from Keras-layout `parameters` for the batch-first float32 input `x`."""


class Fastrnn(Engine):
    """This project's engine, called as users call it: ``model(x)``."""

    name = "fastrnn"
    packages = ("fastrnn",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import fastrnn

        self._fastrnn = fastrnn
        fastrnn.set_num_threads(threads)

    def describe(self):
        with contextlib.redirect_stdout(io.StringIO()):
            config = self._fastrnn.show_config()
        return f"fastrnn {config['fastrnn']}, instruction set {config['isa']}"

    def prepare(self, configuration, parameters, x):
        model = keras_style_model(self._fastrnn, configuration, parameters)
        return Prepared(lambda: model(x), np.asarray)


class OnnxRuntime(Engine):
    """ONNX Runtime's native operators: time-major, with input and output bound once.

    Binding saves 2 us a call over ``session.run``. Its threads keep spinning after a call, which
    is its default and its fastest.
    """

    name = "ONNX Runtime"
    packages = ("onnxruntime", "onnx")

    @classmethod
    def runs(cls, configuration: Configuration) -> bool:
        return not any(isinstance(layer, ConvLSTM) for layer in configuration.layers)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import onnxruntime

        self._onnxruntime = onnxruntime
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1

    def prepare(self, configuration, parameters, x):
        session = self._onnxruntime.InferenceSession(
            onnx_model(configuration, parameters).SerializeToString(),
            self._options,
            providers=["CPUExecutionProvider"],
        )
        output = session.get_outputs()[0]
        result = self._onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32)
        binding = session.io_binding()
        binding.bind_cpu_input(session.get_inputs()[0].name, time_major(x))
        binding.bind_ortvalue_output(output.name, result)

        def call():
            session.run_with_iobinding(binding)
            return result

        return Prepared(call, lambda value: onnx_output(configuration, value.numpy()))


class OpenVino(Engine):
    """OpenVINO, given the ONNX model, whose time-major layout its plugin keeps; one stream, so one call at a time."""

    name = "OpenVINO"
    packages = ("openvino", "onnx")
    precision: ClassVar[str] = "f32"

    @classmethod
    def runs(cls, configuration: Configuration) -> bool:
        return not any(isinstance(layer, ConvLSTM) for layer in configuration.layers)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import openvino

        self._core = openvino.Core()
        self._openvino = openvino
        self._settings = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def prepare(self, configuration, parameters, x):
        model = self._core.read_model(onnx_model(configuration, parameters).SerializeToString())
        request = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        request.set_input_tensor(self._openvino.Tensor(time_major(x)))

        def call():
            request.infer()
            return request.get_output_tensor()

        return Prepared(call, lambda tensor: onnx_output(configuration, tensor.data))


class OpenVinoBfloat16(OpenVino):
    """OpenVINO in bfloat16, its default on CPUs that have it."""

    name = "OpenVINO bf16"
    precision = "bf16"
    reduced = True


class Torch(Engine):
    """PyTorch's own layers, eager, time-major."""

    name = "PyTorch"
    packages = ("torch",)

    @classmethod
    def runs(cls, configuration: Configuration) -> bool:
        return not any(isinstance(layer, ConvLSTM) for layer in configuration.layers)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        self._torch = torch
        torch.set_num_threads(threads)

    def prepare(self, configuration, parameters, x):
        torch = self._torch
        stages = []
        width = configuration.features
        for layer, weights in zip(configuration.layers, parameters, strict=True):
            stages.append(self._stage(layer, width, weights))
            width = layer.width
        inputs = torch.from_numpy(time_major(x))

        def forward(values):
            for stage in stages:
                values = stage(values)
            return values

        run = self._compiled(forward)

        @torch.inference_mode()
        def call():
            return run(inputs)

        return Prepared(call, lambda value: batch_first(value.numpy()))

    def _compiled(self, forward):
        return forward

    def _stage(self, layer: Layer, width: int, weights: list[np.ndarray]):
        nn = self._torch.nn
        if isinstance(layer, Embedding):
            return self._load(nn.Embedding(width, layer.units), weights)
        if isinstance(layer, Dense):
            kernel, bias = weights
            module = self._load(nn.Linear(width, layer.units), [kernel.T, bias])
            activation = {"linear": None, "tanh": self._torch.tanh}[layer.activation]
            return module if activation is None else lambda values: activation(module(values))
        kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[layer.cell]
        each = [torch_weights(layer.cell, *part) for part in directions(weights)]
        module = self._load(
            kind(width, layer.units, bidirectional=layer.bidirectional),
            [weight for part in each for weight in part],
        )
        if layer.return_sequences:
            return lambda values: module(values)[0]
        if layer.bidirectional:
            last = (lambda states: states[0]) if layer.cell == "lstm" else (lambda states: states)
            return lambda values: self._torch.cat(tuple(last(module(values)[1])), -1)
        return lambda values: module(values)[0][-1]

    def _load(self, module, weights: list[np.ndarray]):
        with self._torch.no_grad():
            for parameter, value in zip(module.parameters(), weights, strict=True):
                parameter.copy_(self._torch.from_numpy(np.array(value)))
        return module.eval()


class TorchCompile(Torch):
    """PyTorch's own layers under ``torch.compile``, which needs a C++ compiler."""

    name = "torch.compile"

    @classmethod
    def missing(cls) -> list[str]:
        compiler = os.environ.get("CXX", "g++")
        return super().missing() + ([] if shutil.which(compiler) else [compiler])

    def _compiled(self, forward):
        self._torch._dynamo.reset()
        return self._torch.compile(forward, dynamic=False)


class Keras(Engine):
    """Keras as its users call it: ``model.predict_on_batch(x)``."""

    backend: ClassVar[str]

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ["KERAS_BACKEND"] = self.backend
        import keras

        self._keras = keras

    def prepare(self, configuration, parameters, x):
        model = keras_style_model(self._keras, configuration, parameters)
        return Prepared(lambda: model.predict_on_batch(x), np.asarray)


class KerasPredict(Keras):
    """Keras on JAX, which has no setting for threads: it takes as many as the CPU affinity allows."""

    name = "Keras predict"
    packages = ("keras", "jax")
    backend = "jax"


class KerasJit(KerasPredict):
    """Keras on JAX, its model compiled by ``jax.jit``.

    Weights are constants of the compiled function: 1.7 us a call less than as arguments.
    """

    name = "Keras jit"

    def prepare(self, configuration, parameters, x):
        import jax

        model = keras_style_model(self._keras, configuration, parameters)
        trainable = [variable.value for variable in model.trainable_variables]
        rest = [variable.value for variable in model.non_trainable_variables]
        compiled = jax.jit(lambda inputs: model.stateless_call(trainable, rest, inputs)[0])
        inputs = jax.device_put(x)
        return Prepared(lambda: compiled(inputs).block_until_ready(), np.asarray)


class TensorFlowPredict(Keras):
    """Keras on TensorFlow."""

    name = "TF predict"
    packages = ("keras", "tensorflow")
    backend = "tensorflow"

    def __init__(self, threads: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow

        self._tensorflow = tensorflow
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        super().__init__(threads)

    def describe(self):
        return f"keras {self._keras.__version__}, tensorflow {self._tensorflow.__version__}"


class TensorFlowFunction(TensorFlowPredict):
    """Keras on TensorFlow, its model a ``tf.function`` of one input shape."""

    name = "TF function"

    def prepare(self, configuration, parameters, x):
        model = keras_style_model(self._keras, configuration, parameters)
        inputs = self._tensorflow.constant(x)
        traced = self._tensorflow.function(lambda values: model(values, training=False))
        run = traced.get_concrete_function(inputs)
        return Prepared(lambda: run(inputs), np.asarray)


ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (
        Fastrnn,
        OnnxRuntime,
        OpenVino,
        OpenVinoBfloat16,
        Torch,
        TorchCompile,
        KerasJit,
        KerasPredict,
        TensorFlowFunction,
        TensorFlowPredict,
    )
}


def time_major(x: np.ndarray) -> np.ndarray:
    """Copy (batch, timesteps, features) to (timesteps, batch, features) in C order."""
    return np.ascontiguousarray(x.swapaxes(0, 1))


def batch_first(y: np.ndarray) -> np.ndarray:
    """View a time-major sequence as (batch, timesteps, units); a last output is batch first."""
    return y.swapaxes(0, 1) if y.ndim == 3 else y


def onnx_output(configuration: Configuration, y: np.ndarray) -> np.ndarray:
    """Turn what `onnx_model` gives, with an axis of directions after a recurrent layer, into Keras's layout."""
    last = configuration.layers[-1]
    if isinstance(last, Recurrent):
        y = np.moveaxis(y, -3, -2).reshape(*y.shape[:-3], y.shape[-2], last.width)
    return batch_first(y)


def keras_style_model(package, configuration: Configuration, parameters: list[list[np.ndarray]]):
    """Build the Sequential model with `package`, which is keras or fastrnn."""
    kinds = package.layers
    recurrent = {"rnn": kinds.SimpleRNN, "lstm": kinds.LSTM, "gru": kinds.GRU}

    def keras_style_layer(layer: Layer):
        if isinstance(layer, Dense):
            return kinds.Dense(layer.units, activation=layer.activation)
        if isinstance(layer, Embedding):
            return kinds.Embedding(configuration.features, layer.units)
        if isinstance(layer, ConvLSTM):
            return kinds.ConvLSTM2D(
                layer.units, layer.kernel, padding="same", return_sequences=True
            )
        one = recurrent[layer.cell](layer.units, return_sequences=layer.return_sequences)
        return kinds.Bidirectional(one) if layer.bidirectional else one

    layers = [keras_style_layer(layer) for layer in configuration.layers]
    inputs = kinds.InputLayer(
        batch_shape=configuration.input_shape,
        dtype="int32" if configuration.of_indices else "float32",
    )
    model = package.Sequential([inputs, *layers])
    for layer, weights in zip(layers, parameters, strict=True):
        layer.set_weights(weights)
    return model


def directions(weights: list[np.ndarray]) -> list[list[np.ndarray]]:
    """A recurrent layer's weights, kernel, recurrent kernel and bias, direction by direction."""
    return [weights[first : first + 3] for first in range(0, len(weights), 3)]


def reorder_gates(matrix: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Permute the equal blocks that the last axis of `matrix` consists of."""
    blocks = np.split(matrix, len(order), axis=-1)
    return np.concatenate([blocks[index] for index in order], axis=-1)


def _two_biases(cell: str, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Input and recurrent bias; Keras has the second only in a GRU."""
    return tuple(bias) if cell == "gru" else (bias, np.zeros_like(bias))


def torch_weights(
    cell: str, kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray
) -> list[np.ndarray]:
    """Keras's weights as PyTorch's weight_ih, weight_hh, bias_ih and bias_hh.

    Gates: Keras GRU z, r, h and PyTorch r, z, n; LSTM i, f, c, o in both.
    """
    order = (1, 0, 2) if cell == "gru" else tuple(range(GATES[cell]))
    columns = [reorder_gates(matrix, order) for matrix in (kernel, recurrent_kernel)]
    biases = [reorder_gates(vector, order) for vector in _two_biases(cell, bias)]
    return [*(matrix.T for matrix in columns), *biases]


def onnx_weights(
    cell: str, kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray
) -> list[np.ndarray]:
    """Keras's weights as the inputs W, R and B of ONNX's RNN, LSTM or GRU, one direction.

    Gates: Keras LSTM i, f, c, o and ONNX i, o, f, c; GRU z, r, h in both.
    """
    order = (0, 3, 1, 2) if cell == "lstm" else tuple(range(GATES[cell]))
    columns = [reorder_gates(matrix, order) for matrix in (kernel, recurrent_kernel)]
    biases = [reorder_gates(vector, order) for vector in _two_biases(cell, bias)]
    stacked = columns[0].T, columns[1].T, np.concatenate(biases)
    return [np.ascontiguousarray(part[np.newaxis]) for part in stacked]


def onnx_model(configuration: Configuration, parameters: list[list[np.ndarray]]):
    """Build the ONNX model; its input has shape (timesteps, batch, features) or (timesteps, batch).

    A last layer that is recurrent gives what ONNX's operator gives: (timesteps, directions, batch,
    units) for a sequence, (directions, batch, units) for a last state.
    """
    from onnx import TensorProto, helper, numpy_helper

    batch, timesteps, *features = configuration.input_shape
    nodes, constants = [], []

    def constant(array: np.ndarray) -> str:
        name = f"constant{len(constants)}"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(operator: str, *inputs: str, output: int = 0, **attributes) -> str:
        """Append a node of which one output is used, and return that output's name."""
        name = f"{operator}{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [""] * output + [name], **attributes))
        return name

    value, shape = "x", (timesteps, batch, *features)
    before = None
    for layer, weights in zip(configuration.layers, parameters, strict=True):
        if isinstance(before, Recurrent):
            axis = len(shape) - 3
            if before.bidirectional:
                value = node("Transpose", value, perm=[*range(axis), axis + 1, axis, axis + 2])
                shape = (*shape[:axis], batch, before.width)
                value = node("Reshape", value, constant(np.array(shape)))
            else:
                value = node("Squeeze", value, constant(np.array([axis])))
                shape = shape[:axis] + shape[axis + 1 :]
        before = layer
        if isinstance(layer, Embedding):
            value = node("Gather", constant(weights[0]), value)
            shape = (*shape, layer.units)
        elif isinstance(layer, Dense):
            kernel, bias = map(constant, weights)
            value = node("Add", node("MatMul", value, kernel), bias)
            if layer.activation == "tanh":
                value = node("Tanh", value)
            shape = (*shape[:-1], layer.units)
        else:
            each = [onnx_weights(layer.cell, *part) for part in directions(weights)]
            value = node(
                layer.cell.upper(),
                value,
                *(constant(np.concatenate(parts)) for parts in zip(*each, strict=True)),
                output=0 if layer.return_sequences else 1,
                hidden_size=layer.units,
                direction="bidirectional" if layer.bidirectional else "forward",
                **({"linear_before_reset": 1} if layer.cell == "gru" else {}),
            )
            shape = (timesteps, len(each), batch, layer.units)[0 if layer.return_sequences else 1 :]
    graph = helper.make_graph(
        nodes,
        "model",
        [
            helper.make_tensor_value_info(
                "x",
                TensorProto.INT32 if configuration.of_indices else TensorProto.FLOAT,
                [timesteps, batch, *features],
            )
        ],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, list(shape))],
        constants,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", ONNX_OPSET)], ir_version=ONNX_IR_VERSION
    )
