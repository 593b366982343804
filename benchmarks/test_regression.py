"""``make bench-check``: no case is slower, by ratio to the yardstick, than the baseline file says it was."""

import time

import pytest

from benchmarks import yardstick
from benchmarks.configurations import (
    Configuration,
    Dense,
    Embedding,
    Recurrent,
    bidirectional,
    single,
)
from benchmarks.peers import Fastrnn

# Three runs of one code, with the machine busy, differed by up to 1.08.
MARGIN = 1.3
ROUNDS = 200
ROUND_SECONDS = 1e-3

CASES = (
    Configuration((Recurrent("rnn", 2, return_sequences=False), Dense(1)), 1, 1, 12),
    single("rnn", 32, 128, 1, 100),
    single("lstm", 1, 16, 1, 100),
    single("lstm", 32, 64, 1, 100),
    single("lstm", 64, 256, 1, 10),
    single("lstm", 64, 128, 32, 10),
    single("gru", 1, 50, 1, 100),
    single("gru", 32, 64, 1, 100),
    single("gru", 64, 128, 7, 10),
    bidirectional("lstm", 32, 64, 1, 50),
    Configuration((Embedding(64), Recurrent("lstm", 64, False), Dense(1)), 10000, 1, 100),
)


@pytest.mark.parametrize("configuration", CASES, ids=lambda row: row.name)
def test_no_slower_than_the_baseline(benchmark, baseline, configuration):
    model = Fastrnn(1).prepare(configuration, configuration.parameters(), configuration.inputs())
    model.call()
    start = time.perf_counter()
    model.call()
    calls = max(1, round(ROUND_SECONDS / (time.perf_counter() - start)))
    yardsticks = []

    def several():
        for _ in range(calls):
            model.call()

    benchmark.pedantic(
        several,
        setup=lambda: yardsticks.append(yardstick.seconds()),
        rounds=ROUNDS,
        warmup_rounds=5,
    )
    ratio = benchmark.stats.stats.min / calls / min(yardsticks)
    benchmark.extra_info["yardsticks a call"] = ratio
    baseline.measured[configuration.name] = ratio
    if not baseline.saving:
        before = baseline.ratios[configuration.name]
        assert ratio <= MARGIN * before, f"{ratio:.4g} yardsticks a call, {before:.4g} before"
