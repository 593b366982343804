"""What is done with an input, and what may come of it: anything but a documented exception is a finding."""

import collections
import json
import math
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import fastrnn
from fastrnn import layers, snapshots
from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.pool import StreamPool
from fastrnn.saving import _options as known_options
from fastrnn.saving import building, config
from fastrnn.streaming import Stream

MOST_BYTES = 64 << 20
MOST_NUMBERS = 1 << 18
"""In any layer's output of a model that is run: what a model takes when it is called is its author's choice."""

_FOLDER = Path(tempfile.mkdtemp(prefix="fastrnn-fuzz-"))

outcomes: collections.Counter[str] = collections.Counter()
"""How many inputs were refused, loaded and run."""


def _load(name: str, data: bytes, **options: object) -> None:
    path = _FOLDER / name
    path.write_bytes(data)
    try:
        model = fastrnn.load_model(path, **options)
    except (ModelFormatError, UnsupportedLayerError) as error:
        _refused(error)
        return
    outcomes["loaded"] += 1
    if model.built:
        _run(model)


def _refused(error: Exception) -> None:
    """Count it, and apart if a check would have been better than what Python raised."""
    outcomes["refused"] += 1
    cause = error.__cause__
    if isinstance(cause, (AttributeError, AssertionError, LookupError)):
        outcomes[f"of these for {type(cause).__name__}"] += 1


def _run(model: fastrnn.Model) -> None:
    """Predict with a model, if that is of reasonable size."""
    sizes = [
        tuple(3 if size is None else size for size in layer.batch_shape[1:])
        for layer in model._inputs
    ]
    try:
        shapes = list(model._layer_output_shapes().values())
        largest = max(
            (math.prod(size or 3 for size in shape) for shape in _flat(shapes)), default=0
        )
        if max([largest, *map(math.prod, sizes)]) > MOST_NUMBERS:
            return
        batch = model._inputs[0].batch_shape[0] or 2
        if batch > 64:
            return
        model.predict([np.ones((batch, *size), np.float32) for size in sizes])
    except (TypeError, ValueError, UnsupportedLayerError, MemoryError):
        outcomes["not run"] += 1
        return
    outcomes["run"] += 1


def _flat(shapes: object) -> list[tuple[int | None, ...]]:
    if isinstance(shapes, tuple) and all(size is None or isinstance(size, int) for size in shapes):
        return [shapes]
    parts = shapes.values() if isinstance(shapes, dict) else shapes
    return [shape for part in parts for shape in _flat(part)]  # type: ignore[attr-defined]


def archive(data: bytes) -> None:
    """A whole ``.keras`` file."""
    _load("m.keras", data, max_bytes=MOST_BYTES)


def hdf5(data: bytes) -> None:
    """A whole-model ``.h5`` file."""
    _load("m.h5", data, max_bytes=MOST_BYTES)


_DENSE = {"class_name": "Dense", "config": {"name": "dense", "units": 2}}
_LSTM = {"class_name": "LSTM", "config": {"name": "lstm", "units": 3}}
_INPUT = {"class_name": "InputLayer", "config": {"name": "x", "batch_shape": [None, None, 2]}}
_ARCHITECTURE = {
    "class_name": "Sequential",
    "config": {"name": "m", "layers": [_INPUT, _LSTM, _DENSE]},
    "keras_version": "3.15.1",
}


def weights(data: bytes) -> None:
    """A file with the weights of a known model."""
    (_FOLDER / "w.h5").write_bytes(data)
    architecture = json.dumps(_ARCHITECTURE).encode()
    _load("m.json", architecture, weights=_FOLDER / "w.h5", max_bytes=MOST_BYTES)


def architecture(data: bytes) -> None:
    """The JSON of a model, which gets zeros for weights and is run."""
    try:
        described = config.parse_json(data, "input")
        version = config.parse_version(described.get("keras_version"))
        spec = config.read_model(described, version, known_options())
        model = building.build(spec, MOST_BYTES)
        if model.built and building.weight_bytes(model) < MOST_NUMBERS:
            model.set_weights([np.zeros(weight.shape) for weight in model.weights])
    except (ModelFormatError, UnsupportedLayerError) as error:
        _refused(error)
        return
    outcomes["loaded"] += 1
    if model.built and building.weight_bytes(model) < MOST_NUMBERS:
        _run(model)


_STREAMED = fastrnn.Sequential([fastrnn.Input((None, 2)), layers.LSTM(3, name="lstm")])


def snapshot(data: bytes) -> None:
    """A snapshot without its magic bytes and check sum, which are put before it."""
    if data[:1] == b"!":
        head, body = data[1:5], data[5:]  # the length of the description as it comes
    else:
        head, body = (data.rfind(b"}") + 1).to_bytes(4, "little"), data
    whole = snapshots.MAGIC + head + zlib.crc32(body).to_bytes(4, "little") + body
    try:
        stream = _STREAMED.stream(state=whole)
        if stream.batch_size <= 64:
            stream.step(np.ones((stream.batch_size, 2)))
    except (TypeError, ValueError):
        outcomes["refused"] += 1
        return
    outcomes["run"] += 1


class _Bytes:
    """Choices told by the bytes of an input; zeros when it ends."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def number(self, below: int) -> int:
        value = self._data[self._place] if self._place < len(self._data) else 0
        self._place += 1
        return value % below

    def thing(self, depth: int = 0) -> object:
        """An argument: an array of any shape and dtype, a number, nested lists of things, or something else."""
        kind = self.number(10 if depth < 3 else 6)
        if kind <= 2:
            shape = tuple(self.number(5) for _ in range(self.number(6)))
            dtypes = ("f4", "f8", "f2", "i4", "i8", "u1", "?", "c8", "U1", ">f4", "O")
            array = np.zeros(shape, dtypes[self.number(len(dtypes))])
            if array.dtype.kind in "fiu" and array.size:
                array.flat[0] = self.number(7)
            return array[..., ::-1] if shape and self.number(4) == 0 else array
        if kind == 3:
            return (None, True, False, 0, 1, -1, 2.5, math.nan, math.inf, 10**30)[self.number(10)]
        if kind == 4:
            return ("", "a", "x", b"", ..., np.bool_(True), np.float32(1), object, 1j)[
                self.number(9)
            ]
        if kind == 5:
            return np.ones((2, 3, 2), "f4")
        parts = [self.thing(depth + 1) for _ in range(self.number(4))]
        if kind <= 7:
            return parts
        return tuple(parts) if kind == 8 else dict(zip("xyab", parts, strict=False))


def _models() -> list[fastrnn.Model]:
    x, y = fastrnn.Input((None, 2), name="x"), fastrnn.Input((None, 3), name="y")
    both = layers.Concatenate()([layers.GRU(3, return_sequences=True)(x), y])
    h = fastrnn.Input((4,), name="a")
    started = layers.GRU(4, return_sequences=True)(x, initial_state=h)
    tokens = [fastrnn.Input((None,)), layers.Embedding(5, 3, mask_zero=True), layers.LSTM(2)]
    batch = fastrnn.Input((3, 2), batch_size=2)
    return [
        _STREAMED,
        fastrnn.Model([x, y], layers.SimpleRNN(2, return_sequences=True)(both)),
        fastrnn.Model({"x": x, "a": h}, {"b": started, "c": layers.LSTM(2)(started)}),
        fastrnn.Sequential(tokens),
        fastrnn.Sequential([batch, layers.LSTM(3, stateful=True), layers.Dense(1)]),
    ]


_MODELS = _models()
_MADE = [
    lambda: layers.LSTM(3, return_state=True),
    lambda: layers.Bidirectional(layers.GRU(2)),
    lambda: layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)]),
    lambda: layers.ConvLSTM1D(2, 2),
    lambda: layers.TimeDistributed(layers.Dense(2)),
    lambda: layers.Embedding(5, 2),
    lambda: layers.Conv1D(2, 2, padding="causal"),
    lambda: layers.Conv2DTranspose(2, 2, strides=2),
    lambda: layers.MultiHeadAttention(2, 2),
    lambda: layers.Attention(),
    lambda: layers.Add(),
    lambda: layers.Concatenate(axis=1),
    lambda: layers.Dot(axes=1),
    lambda: layers.BatchNormalization(),
    lambda: layers.GroupNormalization(2),
    lambda: layers.Softmax(),
    lambda: layers.Masking(),
    lambda: layers.Reshape((-1, 2)),
    lambda: layers.GlobalAveragePooling1D(),
    lambda: layers.MaxPooling2D(2),
    lambda: layers.EinsumDense("ab,bc->ac", 3),
    lambda: layers.UpSampling1D(2),
    lambda: layers.Rescaling(2.0),
]


def calls(data: bytes) -> None:
    """Calls of layers, models, streams and pools with anything."""
    choose = _Bytes(data)
    which = choose.number(len(_MADE) + 2 * len(_MODELS))
    target: object = None
    if which < len(_MADE):
        target = _MADE[which]()
        works: list[Callable[..., object]] = [target, target]  # type: ignore[list-item]
        keywords: tuple[str, ...] = ("mask", "initial_state", "training", "value", "unknown")
    else:
        model = _MODELS[(which - len(_MADE)) % len(_MODELS)]
        works = [model, model.predict, model.predict_on_batch, model.set_weights]
        works += [model.reset_states, model.stream, model.stream_pool]
        keywords = ("mask", "batch_size", "state", "start", "training")
    for _ in range(1 + choose.number(3)):
        work = works[choose.number(len(works))]
        args = [choose.thing() for _ in range(choose.number(3))]
        kwargs = {
            keywords[choose.number(len(keywords))]: choose.thing() for _ in range(choose.number(3))
        }
        try:
            made = work(*args, **kwargs)
            outcomes["done"] += 1
        except (TypeError, ValueError, UnsupportedLayerError):
            outcomes["refused"] += 1
            continue
        if isinstance(made, Stream):
            works = [made.step, made.feed, made.save, made.reset, partial(setattr, made, "state")]
            keywords = ("out", "x")
        elif isinstance(made, StreamPool):
            works = [made.step, made.state, made.reset, made.snapshot, made.restore, made.open]
            works = [_without_key_errors(one) for one in works]
            keywords = ("out", "start", "ids")


def _without_key_errors(work: Callable[..., object]) -> Callable[..., object]:
    """Of ids that are not open, or a pool that is full."""

    def call(*args: object, **kwargs: object) -> object:
        try:
            return work(*args, **kwargs)
        except (KeyError, RuntimeError) as error:
            if "stream" not in str(error):
                raise
            return None

    return call


TARGETS = {one.__name__: one for one in (architecture, archive, hdf5, weights, snapshot, calls)}
