"""The README's table of layers, made from what the code registers: `python -m tests.support_table` writes it."""

import re
from pathlib import Path

import fastrnn
from fastrnn._nested import flatten
from fastrnn.layers import REGISTRY
from fastrnn.layers.rnn import KerasCell
from fastrnn.plan import Builder, Executable
from tests.layer_examples import EXAMPLES, arguments_of

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- layers:start -->", "<!-- layers:end -->"
FAMILIES = {
    "recurrent": "rnn simple_rnn lstm gru conv_lstm wrappers",
    "cells": "cells",
    "core": "core embedding activation_layers lambda_layer",
    "convolution": "convolution",
    "pooling": "pooling",
    "attention": "attention einsum_dense",
    "normalization": "normalization",
    "reshaping": "reshaping",
    "merging": "merging",
    "noise and regularization": "noise",
}


def is_compiled(name: str) -> bool:
    """Whether the example of a layer runs in kernels from its input to its output."""
    make, shapes = EXAMPLES[name]
    layer = make(fastrnn)
    builder = Builder()
    arguments = arguments_of(shapes, lambda shape: builder.value((None, *shape)))
    output = layer.lower_call(builder, arguments, {})
    inputs = [value.buffer for value in flatten(arguments)]
    executable = Executable(builder, inputs, [output])
    return executable.plan.program is not None


def family_of(name: str) -> str:
    cls = REGISTRY[name]
    module = "cells" if issubclass(cls, KerasCell) else cls.__module__.rpartition(".")[2]
    return next(family for family, modules in FAMILIES.items() if module in modules.split())


def table() -> str:
    """The table in Markdown."""
    rows: dict[str, tuple[list[str], list[str]]] = {family: ([], []) for family in FAMILIES}
    for name, cls in REGISTRY.items():
        if name == "InputLayer":
            continue
        compiled, in_numpy = rows[family_of(name)]
        # A cell has its kernel in the layers that run it over time.
        runs_in_kernels = issubclass(cls, KerasCell) or is_compiled(name)
        (compiled if runs_in_kernels else in_numpy).append(f"`{name}`")
    lines = ["| layers | in compiled kernels | in NumPy |", "| --- | --- | --- |"]
    for family, cells in rows.items():
        lines.append(
            f"| {family} | " + " | ".join(", ".join(sorted(names)) for names in cells) + " |"
        )
    return "\n".join(lines)


def in_readme(text: str) -> str:
    """`text` of the README with the table in its place."""
    block = f"{START}\n{table()}\n{END}"
    return re.sub(f"{START}.*{END}", lambda _: block, text, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(in_readme(README.read_text()))
