"""ConvLSTM: its kernel in every build against the oracle, and its layers against real Keras."""

import functools
import importlib
import itertools

import numpy as np
import pytest

import fastrnn
from fastrnn import _dispatch, activations, reference
from tests.pairs import pairwise

BASE = importlib.import_module("fastrnn._core_base_f32")
BUILDS = [
    f"{level}_f{bits}"
    for level in _dispatch._built_levels()
    if BASE.cpu_has(level)
    for bits in (32, 64)
]
MASKS = {
    None: None,
    "right": [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]],
    "left": [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]],
    "holes": [[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1]],
    "rows": [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]],
}


def masked(kind, batch, steps):
    """Return a mask (batch, steps) of the pattern `kind`, or None."""
    if kind is None:
        return None
    return np.resize(np.array(MASKS[kind], bool), (batch, 4))[:, :steps].copy()


# The kernel against the oracle in float64

KERNEL_OPTIONS = {
    "taps": [(1,), (3,), (4,), (1, 1), (3, 3), (2, 3), (1, 5), (4, 2), (2, 2, 2), (3, 1, 2)],
    "channels": [1, 2, 3, 5],
    "filters": [1, 3, 4, 8, 9, 16, 17, 33, 40],
    "space": [(5, 4, 3), (1, 6, 5), (4, 5, 13), (3, 7, 29)],
    "strides": [1, 2, (2, 1, 3)],
    "dilation": [1, 2, (2, 1, 2)],
    "padding": ["valid", "same"],
    "channels_first": [False, True],
    "batch": [1, 2, 5],
    "steps": [1, 2, 4],
    "mask": [*MASKS],
    "activation": ["tanh", "relu", "softsign"],
    "recurrent_activation": ["sigmoid", "hard_sigmoid"],
    **{
        flag: [False, True]
        for flag in (
            "use_bias",
            "initial",
            "final",
            "return_sequences",
            "go_backwards",
            "zero_output_for_mask",
        )
    },
}
KERNEL_CASES = pairwise(KERNEL_OPTIONS, seed=5)


def per_axis(value, rank):
    return (value,) * rank if isinstance(value, int) else value[-rank:]


class KernelCase:
    """A ConvLSTM as a step of the core, what it is called with, and what the oracle says."""

    def __init__(self, seed, **case):
        rng = np.random.default_rng(seed)
        rank = len(case["taps"])
        self.strides = per_axis(case["strides"], rank)
        self.dilation = per_axis(1 if max(self.strides) > 1 else case["dilation"], rank)
        self.padding, self.channels_first = case["padding"], case["channels_first"]
        self.names = case["activation"], case["recurrent_activation"]
        self.options = {
            flag: case[flag]
            for flag in ("return_sequences", "go_backwards", "zero_output_for_mask")
        }
        channels, filters, batch = case["channels"], case["filters"], case["batch"]
        reach = [(n - 1) * step + 1 for n, step in zip(case["taps"], self.dilation, strict=True)]
        space = [max(n, least) for n, least in zip(case["space"][-rank:], reach, strict=True)]
        image = (channels, *space) if self.channels_first else (*space, channels)
        area = np.prod(case["taps"])
        self.weights = [
            rng.normal(0, 1 / np.sqrt(area * channels), (*case["taps"], channels, 4 * filters)),
            rng.normal(0, 0.5 / np.sqrt(area * filters), (*case["taps"], filters, 4 * filters)),
            rng.normal(0, 0.5, 4 * filters) if case["use_bias"] else None,
        ]
        self.weights = [None if w is None else w.astype(np.float32) for w in self.weights]
        self.x = rng.normal(size=(batch, case["steps"], *image)).astype(np.float32)
        self.mask = masked(case["mask"], batch, case["steps"])
        x = self.x.astype(np.float64)
        cell = self.cell()
        zeros = cell.initial_states(x)
        self.states = []
        if case["initial"]:
            self.states = [rng.normal(0, 0.7, z.shape).astype(np.float32) for z in zeros]
        start = tuple(state.astype(np.float64) for state in self.states) or zeros
        y, states = reference.recurrence(cell, x, start, self.mask, **self.options)
        self.expected = [y, *states] if case["final"] else [y]

    def cell(self):
        """Return the oracle's cell, in float64."""
        return reference.ConvLSTM(
            *[None if w is None else w.astype(np.float64) for w in self.weights],
            *map(activations.get, self.names),
            strides=self.strides,
            dilation=self.dilation,
            padding=self.padding,
            channel_axis=1 if self.channels_first else -1,
        )

    def program(self, core):
        """Buffers: 0 x, 1 the mask, 2 and 3 the initial states, 4 y, 5 and 6 the final states."""
        initial = tuple(range(2, 2 + len(self.states)))
        final = tuple(range(5, 4 + len(self.expected)))
        step = core.ConvRecurrent(
            *[None if w is None else w.astype(core.DTYPE) for w in self.weights],
            *self.names,
            self.strides,
            self.dilation,
            same=self.padding == "same",
            channels_first=self.channels_first,
            x=0,
            mask=None if self.mask is None else 1,
            initial=initial,
            y=4,
            final=final,
            **self.options,
        )
        assert step.sources == (0, *([] if self.mask is None else [1]), *initial)
        assert step.targets == (4, *final)
        return core.Program(7, [step], step.sources, step.targets, {1})

    def arrays(self, core):
        x, *states = (array.astype(core.DTYPE) for array in (self.x, *self.states))
        return (x, *([] if self.mask is None else [self.mask]), *states)

    def check(self, core):
        results = self.program(core).run(self.arrays(core))
        results = results if isinstance(results, tuple) else (results,)
        tolerance = 1e-12 if core.DTYPE.itemsize == 8 else 5e-6
        for got, expected in zip(results, self.expected, strict=True):
            assert got.dtype == core.DTYPE
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@functools.cache
def kernel_case(number):
    return KernelCase(number, **KERNEL_CASES[number])


@pytest.fixture(params=BUILDS)
def core(request):
    module = importlib.import_module(f"fastrnn._core_{request.param}")
    module.set_num_threads(1)
    yield module
    module.set_num_threads(fastrnn.get_num_threads())


def test_kernel_in_every_pair_of_options(core):
    for number in range(len(KERNEL_CASES)):
        kernel_case(number).check(core)


@functools.cache
def large_case():
    """One image of more pixels than a block of work, each worth a thread."""
    case = {name: values[-1] for name, values in KERNEL_OPTIONS.items()}
    return KernelCase(0, **case | {"taps": (3, 3), "space": (21, 29), "strides": 1, "batch": 1})


def test_threads_change_nothing(core):
    case = large_case()
    alone = case.program(core).run(case.arrays(core))
    core.set_num_threads(3)
    together = case.program(core).run(case.arrays(core))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_large_batches_are_cut_into_tiles(core):
    """Three layers, with 4 MB a row of float32 between them."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.3, (1, 4, 16)).astype(core.DTYPE), np.zeros((1, 4, 16), core.DTYPE)]
    steps = [
        core.ConvRecurrent(
            *weights,
            None,
            "tanh",
            "sigmoid",
            [1],
            [1],
            same=False,
            channels_first=False,
            x=number,
            y=number + 1,
            return_sequences=True,
        )
        for number in range(3)
    ]
    program = core.Program(4, steps, [0], [3])
    x = rng.normal(size=(19, 2, 2**16, 4)).astype(core.DTYPE)
    together = program.run(x)
    for row in (0, 9, 18):
        np.testing.assert_array_equal(together[row], program.run(x[row : row + 1])[0])


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 3, 5, 5), (2, 2, 2, 4), (2, 2, 2, 4)],
        [(2, 3, 5, 5, 2), (2, 2, 2, 4), (2, 2, 2, 4)],
        [(2, 3, 3, 5, 3), (2, 2, 2, 4), (2, 2, 2, 4)],
        [(2, 0, 5, 5, 3), (2, 2, 2, 4), (2, 2, 2, 4)],
        [(2, 3, 5, 5, 3), (2, 2, 2, 3), (2, 2, 2, 4)],
        [(2, 3, 5, 5, 3), (2, 2, 2, 4), (2, 2, 4)],
    ],
)
def test_kernel_refuses_arrays_that_do_not_fit(shapes, core):
    step = core.ConvRecurrent(
        np.zeros((4, 4, 3, 16), core.DTYPE),
        np.zeros((4, 4, 4, 16), core.DTYPE),
        None,
        "tanh",
        "sigmoid",
        [1, 1],
        [1, 1],
        same=False,
        channels_first=False,
        x=0,
        initial=(1, 2),
        y=3,
    )
    program = core.Program(4, [step], [0, 1, 2], [3])
    fitting = [(2, 3, 5, 5, 3), (2, 2, 2, 4), (2, 2, 2, 4)]
    assert program.run(tuple(np.zeros(shape, core.DTYPE) for shape in fitting)).shape == (
        2,
        2,
        2,
        4,
    )
    assert program.run(tuple(np.zeros(shape, core.DTYPE) for shape in shapes)) is None


def test_directions_merge_step_by_step_whatever_a_step_is(core):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4, 5, 6, 2)).astype(core.DTYPE)
    for mode, backwards in itertools.product(core.MERGE_MODES, [False, True]):
        step = core.Merge(mode, a=0, b=1, y=2, backwards=backwards)
        got = core.Program(3, [step], [0, 1], [2]).run((a, b))
        expected = reference.merge(a, b[:, ::-1] if backwards else b, mode)
        np.testing.assert_array_equal(got, expected)
