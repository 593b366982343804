"""Keras's layers, by Keras's names."""

from fastrnn.layers.base import Layer
from fastrnn.layers.core import Activation, Dense, Dropout, Input, InputLayer
from fastrnn.layers.embedding import Embedding, Masking
from fastrnn.layers.gru import GRU, GRUCell
from fastrnn.layers.lstm import LSTM, LSTMCell
from fastrnn.layers.operations import OPERATIONS
from fastrnn.layers.rnn import RNN
from fastrnn.layers.simple_rnn import SimpleRNN, SimpleRNNCell
from fastrnn.layers.wrappers import Bidirectional, TimeDistributed

_LOADABLE = (
    InputLayer,
    SimpleRNN,
    LSTM,
    GRU,
    RNN,
    SimpleRNNCell,
    LSTMCell,
    GRUCell,
    Bidirectional,
    TimeDistributed,
    Embedding,
    Masking,
    Dense,
    Activation,
    Dropout,
)

REGISTRY: dict[str, type[Layer]] = {layer.__name__: layer for layer in _LOADABLE}
"""The layers by their names."""

LOADABLE: dict[str, type[Layer]] = {
    **REGISTRY,
    **{f"ops.{name}": operation for name, operation in OPERATIONS.items()},
}
"""What a file may name: nothing else is ever made from one."""

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Bidirectional",
    "Dense",
    "Dropout",
    "Embedding",
    "GRUCell",
    "Input",
    "InputLayer",
    "LSTMCell",
    "Layer",
    "Masking",
    "SimpleRNN",
    "SimpleRNNCell",
    "TimeDistributed",
]
