"""pytest-benchmark cases: a call of fastrnn, on one thread and on all."""

import os

import pytest

from benchmarks.configurations import DESIGN, MODELS
from benchmarks.peers import Fastrnn

ALL_THREADS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize("threads", sorted({1, ALL_THREADS}), ids="threads={}".format)
@pytest.mark.parametrize("configuration", DESIGN + MODELS, ids=lambda row: row.name)
def test_call(benchmark, configuration, threads):
    benchmark.group = configuration.name
    engine = Fastrnn(threads)
    model = engine.prepare(configuration, configuration.parameters(), configuration.inputs())
    benchmark(model.call)
