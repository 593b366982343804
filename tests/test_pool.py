"""Pools of streams: any of them stepped together, from threads and from coroutines."""

import asyncio
import copy
import pickle
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastrnn
from fastrnn import layers as L
from fastrnn.errors import PoolFullError
from tests.clock import Clock
from tests.test_streaming import (
    MASKED,
    MODELS,
    DecayCell,
    decoder,
    flat,
    inputs_for,
    sequential,
    with_random_weights,
)

RNG = np.random.default_rng(5)


def small_model():
    return with_random_weights(
        sequential(L.LSTM(6, name="lstm"), L.Dense(2)), np.random.default_rng(1)
    )


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["every model", "in any order"])
def test_pools_give_what_streams_give(kind, masked, rng):
    models = MASKED if masked else MODELS
    for name in models if kind == "every model" else ["lstm", "conv", "embedding"][masked:]:
        if name not in models:
            continue
        model = with_random_weights(models[name](), rng)
        pool, streams = model.stream_pool(9), {}
        for _ in range(9 if kind == "every model" else 5):
            streams[pool.open()] = model.stream()
        ids = np.array(list(streams))
        for _ in range(3 if kind == "every model" else 30):
            chosen = rng.permutation(ids)[: rng.integers(1, len(ids) + 1)]
            x = inputs_for(model, len(chosen), rng, 1)[:, 0]
            if masked and x.dtype == np.float32:
                x[rng.random(len(x)) < 0.5] = 0
            got = flat(pool.step(chosen if rng.random() < 0.5 else chosen.tolist(), x))
            for row, id in enumerate(chosen.tolist()):
                for a, b in zip(got, flat(streams[id].step(x[row])), strict=True):
                    assert a[row].shape == b.shape
                    tolerance = 2e-3 if b.dtype == np.float16 else 3e-6 * max(1, np.abs(b).max())
                    np.testing.assert_allclose(a[row], b, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 95, 97, 1000])
def test_many_streams_are_stepped_in_tiles_and_threads(count, threads, rng):
    model = with_random_weights(sequential(L.LSTM(64, return_sequences=True), L.Dense(2)), rng)
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(threads)
    try:
        pool = model.stream_pool(1000)
        every = rng.permutation([pool.open() for _ in range(1000)])
        ids, others = np.split(every, [count])
        x = rng.normal(size=(count, 4, 4)).astype("float32")
        got = np.stack([pool.step(ids, x[:, t]) for t in range(4)], axis=1)
    finally:
        fastrnn.set_num_threads(before)
    np.testing.assert_allclose(got, model(x), rtol=0, atol=1e-5)
    assert not any(array.any() for array in pool.state(others).values())


def test_ids_are_never_given_twice(model):
    pool = model.stream_pool(3)
    seen = set()
    for _ in range(1000):
        ids = [pool.open() for _ in range(RNG.integers(1, 4))]
        assert all(type(id) is int for id in ids)
        assert not seen.intersection(ids)
        seen.update(ids)
        assert len(pool) == len(ids)
        for id in ids:
            assert id in pool
            pool.close(id)
            assert id not in pool
            with pytest.raises(KeyError, match=str(id)):
                pool.close(id)


def test_beyond_capacity_nothing_is_opened(model):
    pool = model.stream_pool(2)
    ids = [pool.open(), pool.open()]
    pool.step(ids, np.ones((2, 4)))
    before = pool.snapshot(ids)
    with pytest.raises(RuntimeError, match="2 streams"):
        pool.open()
    assert len(pool) == 2
    assert pool.snapshot(ids) == before
    pool.close(ids[0])
    assert pool.open() not in ids


def test_a_new_stream_starts_anew(model):
    pool = model.stream_pool(1)
    first = pool.open()
    expected = pool.step([first], np.ones((1, 4)))
    pool.step([first], np.ones((1, 4)))
    pool.close(first)
    second = pool.open()
    np.testing.assert_array_equal(pool.step([second], np.ones((1, 4))), expected)
    pool.reset([second])
    np.testing.assert_array_equal(pool.step([second], np.ones((1, 4))), expected)


@pytest.mark.parametrize("name", ["fast", "in NumPy"])
def test_errors_change_nothing(name, model):
    if name == "in NumPy":
        model = sequential(L.RNN(DecayCell()), L.Dense(2))
    pool = model.stream_pool(4)
    a, b, c = (pool.open() for _ in range(3))
    pool.close(b)
    pool.step([a, c], np.ones((2, 4)))
    before = pool.snapshot([a, c])
    two = np.ones((2, 4), "float32")
    wrong = [
        ([a, b], two, KeyError),
        ([a, 10**30], two, KeyError),
        ([a, -1], two, KeyError),
        (np.array([a, b]), two, KeyError),
        (np.array([a, -1]), two, KeyError),
        (np.array([a, 2**63], np.uint64), two, KeyError),
        ([a, a], two, ValueError),
        (np.array([c, a, c]), np.ones((3, 4)), ValueError),
        ([[a, c]], two, TypeError),
        (np.array([[a, c]]), two, ValueError),
        (np.array([a, c], float), two, TypeError),
        ([a, 1.0], two, TypeError),
        (["a", "c"], two, TypeError),
        ([a, c], np.ones((3, 4)), ValueError),
        ([a, c], np.ones((2, 5)), ValueError),
        ([a, c], np.ones(4), ValueError),
        ([a], np.ones(4, "float32"), ValueError),
        ([a, c], [["x"] * 4] * 2, TypeError),
    ]
    for ids, x, error in wrong:
        with pytest.raises(error):
            pool.step(ids, x)
        assert pool.snapshot([a, c]) == before
    with pytest.raises(ValueError, match="`out`"):
        pool.step([a, c], two, out=np.zeros((2, 3), "float32"))
    assert pool.snapshot([a, c]) == before
    assert pool.step([], np.ones((0, 4), "float32")).shape == (0, 2)
    out = np.zeros((2, 2), "float32")
    assert pool.step((c, a), two, out=out) is out
    assert out.any()


def test_a_capacity_is_a_positive_integer(model):
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="capacity"):
            model.stream_pool(wrong)


def test_snapshots_go_to_other_pools_and_streams(model, rng):
    pool = model.stream_pool(5)
    ids = [pool.open() for _ in range(5)]
    x = rng.normal(size=(5, 6, 4)).astype("float32")
    for t in range(3):
        pool.step(ids, x[:, t])
    saved = pool.snapshot(ids[1:4])
    other = model.stream_pool(4)
    other.open()
    moved = other.restore(saved)
    expected = pool.step(ids, x[:, 3])
    np.testing.assert_allclose(other.step(moved, x[1:4, 3]), expected[1:4], rtol=0, atol=1e-6)
    stream = model.stream(state=saved)
    np.testing.assert_allclose(stream.step(x[1:4, 3]), expected[1:4], rtol=0, atol=1e-6)
    with pytest.raises(RuntimeError, match="3 streams for 0 free"):
        other.restore(saved)
    assert pool.restore(saved, ids[:3]) == ids[:3]
    np.testing.assert_allclose(pool.step(ids[:3], x[1:4, 3]), expected[1:4], rtol=0, atol=1e-6)
    before = pool.snapshot(ids)
    for data, chosen, error in [
        (saved, ids[:2], ValueError),
        (saved, [ids[0], ids[0], ids[1]], ValueError),
        (saved, [ids[0], 99999, ids[1]], KeyError),
        (saved[:-1], None, ValueError),
        (sequential(L.GRU(3)).stream().save(), None, ValueError),
    ]:
        with pytest.raises(error):
            pool.restore(data, chosen)
    assert pool.snapshot(ids) == before
    with pytest.raises(ValueError, match="got none"):
        pool.snapshot([])


def test_streams_of_a_pool_have_their_own_start(rng):
    model = decoder()
    x = rng.normal(size=(4, 5, 4)).astype("float32")
    h, memory = rng.normal(size=(4, 5)), rng.normal(size=(4, 6, 4))
    with pytest.raises(ValueError, match="known sizes"):
        model.stream_pool(4, start=["h", "memory"])
    inputs = fastrnn.Input((None, 4), name="x"), fastrnn.Input((5,), name="h")
    states = L.Dense(5)(inputs[1])
    y = L.GRU(5, return_sequences=True)(inputs[0], initial_state=states)
    model = fastrnn.Model(inputs, L.Dense(2)(L.Add()([y, states])))
    pool = model.stream_pool(4, start=["h"])
    ids = [pool.open(start={"h": h[i : i + 1]}) for i in range(4)]
    got = np.stack([pool.step(ids, x[:, t]) for t in range(5)], axis=1)
    np.testing.assert_allclose(got, model([x, h]), rtol=0, atol=2e-6)
    pool.reset(ids[2:])
    np.testing.assert_allclose(pool.step(ids[2:], x[2:, 0]), got[2:, 0], rtol=0, atol=2e-6)
    saved = pool.snapshot(ids[2:])
    expected = pool.step(ids[2:], x[2:, 1])
    for id in ids:
        pool.close(id)
    np.testing.assert_allclose(
        pool.step(pool.restore(saved), x[2:, 1]), expected, rtol=0, atol=2e-6
    )
    for wrong in (None, {"h": h[:2]}, {"other": h[:1]}):
        with pytest.raises(ValueError, match="start"):
            pool.open(start=wrong)
    del memory


class Interleavings(RuleBasedStateMachine):
    """A pool beside a stream of its own for each id."""

    @initialize(capacity=st.integers(1, 6))
    def make(self, capacity):
        self.model = small_model()
        self.pool = self.model.stream_pool(capacity)
        self.streams, self.closed = {}, []

    @precondition(lambda self: len(self.streams) < self.pool.capacity)
    @rule()
    def open(self):
        id = self.pool.open()
        assert id not in self.streams
        assert id not in self.closed
        self.streams[id] = self.model.stream()

    @precondition(lambda self: len(self.streams) == self.pool.capacity)
    @rule()
    def open_beyond(self):
        with pytest.raises(RuntimeError):
            self.pool.open()

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def close(self, data):
        id = data.draw(st.sampled_from(list(self.streams)))
        self.pool.close(id)
        del self.streams[id]
        self.closed.append(id)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def step(self, data):
        ids = data.draw(st.lists(st.sampled_from(list(self.streams)), unique=True))
        x = RNG.normal(size=(len(ids), 4)).astype("float32")
        for row, id in zip(self.pool.step(ids, x), ids, strict=True):
            expected = self.streams[id].step(x[ids.index(id)])
            np.testing.assert_allclose(row, expected, rtol=0, atol=3e-6)

    @precondition(lambda self: self.streams and self.closed)
    @rule(data=st.data())
    def step_a_closed_one(self, data):
        ids = [data.draw(st.sampled_from(list(self.streams)))]
        ids.insert(data.draw(st.integers(0, 1)), data.draw(st.sampled_from(self.closed)))
        with pytest.raises(KeyError):
            self.pool.step(ids, np.ones((2, 4)))

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def move(self, data):
        id = data.draw(st.sampled_from(list(self.streams)))
        saved = self.pool.snapshot([id])
        self.pool.close(id)
        self.closed.append(id)
        (new,) = self.pool.restore(saved)
        assert new not in self.closed
        self.streams[new] = self.streams.pop(id)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def reset(self, data):
        id = data.draw(st.sampled_from(list(self.streams)))
        self.pool.reset([id])
        self.streams[id].reset()

    @invariant()
    def knows_who_is_open(self):
        if hasattr(self, "pool"):
            assert len(self.pool) == len(self.streams)
            assert all(id in self.pool for id in self.streams)
            assert not any(id in self.pool for id in self.closed)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_threads_hammer_one_pool(model):
    pool = model.stream_pool(64)
    errors = []

    def run(seed):
        rng = np.random.default_rng(seed)
        try:
            streams = {}
            for _ in range(150):
                if len(streams) < 8:
                    streams[pool.open()] = model.stream()
                ids = list(streams)
                ids = [ids[i] for i in rng.permutation(len(ids))[: rng.integers(1, len(ids) + 1)]]
                x = rng.normal(size=(len(ids), 4)).astype("float32")
                for row, y in zip(ids, pool.step(ids, x), strict=True):
                    expected = streams[row].step(x[ids.index(row)])
                    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6)
                if rng.random() < 0.3:
                    pool.close(ids[0])
                    del streams[ids[0]]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


# Coroutines.


class Counted:
    """A pool's steps, noted."""

    def __init__(self, pool, monkeypatch):
        self.calls, step = [], pool.step

        def noted(ids, x, out=None):
            self.calls.append(list(ids))
            return step(ids, x, out)

        monkeypatch.setattr(pool, "step", noted)


def test_what_is_submitted_together_is_one_step(model, monkeypatch):
    pool = model.stream_pool(50)
    counted = Counted(pool, monkeypatch)
    ids = [pool.open() for _ in range(50)]
    x = RNG.normal(size=(3, 50, 4)).astype("float32")

    async def main():
        async with pool:
            return [await asyncio.gather(*map(pool.submit, ids, part)) for part in x]

    got = asyncio.run(main())
    assert [sorted(call) for call in counted.calls] == [sorted(ids)] * 3
    np.testing.assert_allclose(got[-1], model(x.swapaxes(0, 1)), rtol=0, atol=3e-6)
    assert got[0][0].shape == (2,)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("fastrnn.pool.time", clock)
    return clock


def test_a_batch_waits_for_others_as_long_as_it_may(model, monkeypatch, clock):
    pool = model.stream_pool(3)
    counted = Counted(pool, monkeypatch)
    a, b, _ = (pool.open() for _ in range(3))

    async def later(id, seconds):
        await asyncio.sleep(seconds)
        return await pool.submit(id, np.ones(4))

    async def main(max_wait):
        async with pool.batching(max_wait=max_wait):
            start = clock.now
            await asyncio.gather(later(a, 0), later(b, 0.03))
            return clock.now - start

    assert clock.run(main(0.2)) == pytest.approx(0.2, abs=1e-3)
    assert counted.calls == [[a, b]]
    assert clock.run(main(0.001)) == pytest.approx(0.031, abs=1e-3)
    assert counted.calls[1:] == [[a], [b]]
    assert clock.run(main(0)) == pytest.approx(0.03, abs=1e-3)
    assert counted.calls[3:] == [[a], [b]]


def test_a_lone_stream_does_not_wait(model, clock):
    pool = model.stream_pool(3)
    id = pool.open()

    async def main():
        async with pool.batching(max_wait=30):
            await pool.submit(id, np.ones(4))

    clock.run(main())
    assert clock.now < 1


def test_steps_of_one_stream_keep_their_order(model):
    pool = model.stream_pool(3)
    ids = [pool.open() for _ in range(3)]
    x = RNG.normal(size=(3, 5, 4)).astype("float32")

    async def main():
        async with pool.batching(max_batch=2):
            return await asyncio.gather(
                *(pool.submit(ids[i], x[i, t]) for t in range(5) for i in range(3))
            )

    got = np.array(asyncio.run(main())).reshape(5, 3, 2)
    stream = model.stream(batch_size=3)
    np.testing.assert_allclose(got.swapaxes(0, 1), stream.feed(x), rtol=0, atol=3e-6)


def test_errors_reach_their_own_caller_alone():
    words = sequential(L.Embedding(3, 4, name="words"), L.LSTM(3), shape=(None,), dtype="int32")
    pool = words.stream_pool(6)
    ids = [pool.open() for _ in range(6)]
    closed = ids[5]

    async def main():
        async with pool.batching(max_wait=0.05):
            tasks = [
                asyncio.create_task(pool.submit(id, token))
                for id, token in zip(ids, [1, 7, 2, "x", [1], 1], strict=True)
            ]
            await asyncio.sleep(0)
            pool.close(closed)
            with pytest.raises(KeyError):
                await pool.submit(closed, 1)
            return await asyncio.gather(*tasks, return_exceptions=True)

    one, beyond, two, text, shape, gone = asyncio.run(main())
    for got, token in ((one, 1), (two, 2)):
        np.testing.assert_allclose(got, words.stream().step(token), rtol=0, atol=1e-6)
    assert isinstance(beyond, ValueError)
    assert isinstance(text, TypeError)
    assert isinstance(shape, ValueError)
    assert isinstance(gone, KeyError)
    fresh = words.stream_pool(1)
    assert pool.snapshot(ids[1:2]) == fresh.snapshot([fresh.open()])


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_cancelled_step_is_not_taken_and_crosses_no_other(in_thread, model, monkeypatch):
    if in_thread:
        monkeypatch.setattr("fastrnn.pool.LONGEST_ON_LOOP", -1.0)
    pool = model.stream_pool(20)
    ids = [pool.open() for _ in range(20)]
    x = RNG.normal(size=(20, 3, 4)).astype("float32")

    async def main():
        async with pool.batching(max_wait=0.02):
            results = []
            for t in range(3):
                tasks = [asyncio.create_task(pool.submit(ids[i], x[i, t])) for i in range(20)]
                await asyncio.sleep(0)
                for task in tasks[t::4]:
                    task.cancel()
                results.append(await asyncio.gather(*tasks, return_exceptions=True))
            return results

    results = asyncio.run(main())
    streams = [model.stream() for _ in ids]
    for t, part in enumerate(results):
        for i, got in enumerate(part):
            if i % 4 == t:
                assert isinstance(got, asyncio.CancelledError)
            else:
                np.testing.assert_allclose(got, streams[i].step(x[i, t]), rtol=0, atol=3e-6)


@pytest.mark.slow
def test_long_steps_leave_the_event_loop_free(monkeypatch):
    big = sequential(L.LSTM(512))
    pool = big.stream_pool(200)
    ids = [pool.open() for _ in range(200)]
    monkeypatch.setattr("fastrnn.pool.LONGEST_ON_LOOP", 0.0)
    threads = set()
    step = pool.step
    monkeypatch.setattr(
        pool, "step", lambda *given: threads.add(threading.get_ident()) or step(*given)
    )

    async def main():
        async with pool:
            for _ in range(3):
                await asyncio.gather(*(pool.submit(id, np.ones(4)) for id in ids))

    asyncio.run(main())
    assert threads - {threading.get_ident()}


def test_submit_needs_an_async_with(model):
    pool = model.stream_pool(2)
    id = pool.open()

    async def main():
        with pytest.raises(RuntimeError, match="async with"):
            await pool.submit(id, np.ones(4))
        async with pool:
            with pytest.raises(RuntimeError, match="already"):
                async with pool:
                    pass
            task = asyncio.create_task(pool.submit(id, np.ones(4)))
            await asyncio.sleep(0)
        assert task.done()  # what was submitted is taken before the end
        with pytest.raises(RuntimeError, match="async with"):
            await pool.submit(id, np.ones(4))

    asyncio.run(main())
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_wait"):
            pool.batching(max_wait=wrong)


def hold_up(pool):
    """Let a pool take no step until what is returned is called."""
    gate = threading.Event()
    step = pool.step

    def waiting(ids, x):
        assert gate.wait(60)
        return step(ids, x)

    pool.step = waiting
    return gate.set


def busy(pool, **bounds):
    """Batching whose steps run in a thread, as long ones do."""
    batching = pool.batching(max_wait=0, **bounds)
    batching._seconds_of_row = 1.0
    return batching


def test_no_more_wait_than_may(model):
    """Some are taken, some wait, others are refused, and none is lost."""
    pool = model.stream_pool(20)
    ids = [pool.open() for _ in range(20)]
    go_on = hold_up(pool)

    async def main():
        async with busy(pool, max_batch=4, max_waiting=6, when_full="reject"):
            steps = [asyncio.create_task(pool.submit(id, np.ones(4))) for id in ids[:4]]
            await asyncio.sleep(0.05)
            steps += [asyncio.create_task(pool.submit(id, np.ones(4))) for id in ids[4:10]]
            await asyncio.sleep(0.05)
            for _ in range(2):
                with pytest.raises(PoolFullError, match="6 steps wait"):
                    await pool.submit(ids[10], np.ones(4))
            steps[-1].cancel()
            await asyncio.sleep(0.05)
            steps[-1] = asyncio.create_task(pool.submit(ids[11], np.ones(4)))  # there is room again
            await asyncio.sleep(0.05)
            go_on()
            return await asyncio.gather(*steps)

    results = asyncio.run(main())
    assert len(results) == 10
    assert all(np.array_equal(result, results[0]) for result in results)


def test_who_waits_for_room_goes_in_turn(model):
    """By default; whoever gives up before takes no room."""
    pool = model.stream_pool(40)
    ids = [pool.open() for _ in range(40)]
    go_on, taken = hold_up(pool), []
    step = pool.step
    pool.step = lambda given, x: (step(given, x), taken.extend(given))[0]

    async def main():
        batching = busy(pool, max_batch=3, max_waiting=3)
        async with batching:
            steps = [asyncio.create_task(pool.submit(id, np.ones(4))) for id in ids]
            await asyncio.sleep(0.05)
            assert len(batching._at_the_door) == 40 - 3 - 3
            assert sum(map(len, batching._batches)) == 3
            for i in (10, 20):
                steps[i].cancel()
            go_on()
            return await asyncio.gather(*steps, return_exceptions=True)

    results = asyncio.run(main())
    cancelled = [isinstance(result, asyncio.CancelledError) for result in results]
    assert [i for i, one in enumerate(cancelled) if one] == [10, 20]
    assert taken == [id for i, id in enumerate(ids) if i not in (10, 20)]


@pytest.mark.slow
def test_cancellation_storms_lose_and_cross_nothing(model, rng):
    """Half of the tasks are cancelled at random moments: each of the others steps its stream once."""
    pool = model.stream_pool(64)
    ids = [pool.open() for _ in range(64)]
    expected = {id: model.stream() for id in ids}
    last = {}

    async def one(id, x, seconds):
        await asyncio.sleep(seconds)
        last[id] = await pool.submit(id, x)

    async def main():
        async with pool.batching(max_wait=1e-3, max_batch=16, max_waiting=24) as entered:
            assert entered is pool
            for _ in range(8):
                rows = rng.normal(size=(64, 4)).astype(np.float32)
                before = pool.state(ids)
                tasks = [
                    asyncio.create_task(one(id, row, rng.uniform(0, 2e-3)))
                    for id, row in zip(ids, rows, strict=True)
                ]
                for task in rng.permutation(np.array(tasks, object))[:32]:
                    asyncio.get_running_loop().call_later(rng.uniform(0, 4e-3), task.cancel)
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.sleep(0.01)
                after = pool.state(ids)
                for i, (id, end) in enumerate(zip(ids, ends, strict=True)):
                    stream = expected[id]
                    moved = any(
                        not np.array_equal(before[name][i], after[name][i]) for name in before
                    )
                    if end is None:
                        assert moved
                        np.testing.assert_array_equal(last[id], stream.step(rows[i]))
                    elif moved:  # cancelled when it was taken already
                        stream.step(rows[i])
                    for name, state in stream.state.items():
                        np.testing.assert_array_equal(after[name][i], state[0])

    asyncio.run(main())


@pytest.mark.parametrize(
    "bounds", [{"max_waiting": 0}, {"max_waiting": 1.5}, {"when_full": "drop"}, {"max_batch": -1}]
)
def test_bounds_that_are_none(bounds, model):
    with pytest.raises(ValueError, match="expected"):
        model.stream_pool(2).batching(**bounds)


def test_leaving_while_some_wait_for_room_takes_all(model):
    pool = model.stream_pool(8)
    ids = [pool.open() for _ in range(8)]

    async def main():
        async with pool.batching(max_batch=2, max_waiting=2):
            steps = [asyncio.create_task(pool.submit(id, np.ones(4))) for id in ids]
            await asyncio.sleep(0)
        return await asyncio.gather(*steps)

    assert len(asyncio.run(main())) == 8


def test_pools_are_neither_pickled_nor_copied(model):
    pool = model.stream_pool(2)
    for work in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="`snapshot` saves streams"):
            work(pool)
