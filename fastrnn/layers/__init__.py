"""Keras's layers, by Keras's names."""

from fastrnn.layers.base import Layer
from fastrnn.layers.core import Activation, Dense, Dropout, Input, InputLayer
from fastrnn.layers.gru import GRU, GRUCell
from fastrnn.layers.lstm import LSTM, LSTMCell
from fastrnn.layers.rnn import RNN
from fastrnn.layers.simple_rnn import SimpleRNN, SimpleRNNCell

_LOADABLE = (
    InputLayer,
    SimpleRNN,
    LSTM,
    GRU,
    RNN,
    SimpleRNNCell,
    LSTMCell,
    GRUCell,
    Dense,
    Activation,
    Dropout,
)

REGISTRY: dict[str, type[Layer]] = {layer.__name__: layer for layer in _LOADABLE}
"""The layers that a file may name: nothing else is ever made from one."""

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Dense",
    "Dropout",
    "GRUCell",
    "Input",
    "InputLayer",
    "LSTMCell",
    "Layer",
    "SimpleRNN",
    "SimpleRNNCell",
]
