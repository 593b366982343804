"""Pools: many streams of one model whose states stand in one array each, stepped together, any of them at a time.

Steps that coroutines ask for one by one are batched as in Gao, Yu, Wu and Li, "Low latency RNN inference with cellular
batching" (EuroSys 2018): a step of the model is the unit, so a sequence joins and leaves from one step to the next.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import _core
from fastrnn._forks import keep_whole
from fastrnn._nested import flatten, unflatten
from fastrnn._pace import uninterrupted
from fastrnn._types import Nested
from fastrnn.errors import PoolFullError
from fastrnn.layers.core import positive_integer
from fastrnn.snapshots import pack, unpack
from fastrnn.streaming import checked_states, put_into, step_in_numpy, steps_of

if TYPE_CHECKING:
    from types import TracebackType

    from fastrnn.model import Model

DEFAULT_WAIT = 200e-6
"""Seconds that the first of a batch waits for others: short beside a network, long enough for a loop's other tasks."""

LONGEST_ON_LOOP = 1e-3
"""Seconds of a step beyond which it runs in a thread, so that the event loop goes on: handing it over takes 0.1 ms."""

BATCHES_WAITING = 8
"""Full batches of steps that wait at most where the caller does not say."""

TIMER_SECONDS = 2e-3
"""What is left of a wait is polled for: asyncio's timers, whole milliseconds, would overshoot it several times."""

Ids = Sequence[int] | np.ndarray


class StreamPool:
    """Streams of one model, of which any can be stepped together; `Model.stream_pool` makes it.

    Threads may share it. It computes with the weights that the model had when it was made.

    Parameters
    ----------
    model : Model
    capacity : int
        How many streams can be open at once.
    start : sequence of str
        Names of the inputs that are given when a stream is opened.

    Attributes
    ----------
    capacity : int
    """

    def __init__(self, model: "Model", capacity: int, start: Sequence[str] = ()) -> None:
        self.capacity = positive_integer(capacity, "capacity")
        self._name = f"pool of {model.name!r}"
        self._steps = steps = steps_of(model, list(start))
        form = steps.step
        self._constants: list[np.ndarray] = []
        dtype = next((step.dtype for step in form.plan.steps if step.dtype is not None), np.float32)
        for number in form.constants:
            shape = steps.needed_shapes[number]
            sizes = [size for size in shape if size is not None]
            if len(sizes) < len(shape):
                raise ValueError(
                    f"{self._name}: expected what is given at the start in known sizes; got {shape}"
                )
            kind = bool if steps.is_mask(number) else dtype
            self._constants.append(np.zeros((capacity, *sizes), kind))
        self._states = [np.zeros((capacity, *state.shape), state.dtype) for state in steps.carried]
        self._fresh = None if steps.start_inputs else steps.states(1, {})
        self._started: dict[int, list[np.ndarray]] = {}
        self._core = steps.compiled(self._states, self._constants, picked=True)
        self._slots = _core.Slots(self.capacity)
        self._lock = threading.Lock()
        keep_whole(self)
        self._batching: Batching | None = None

    def __len__(self) -> int:
        """How many streams are open."""
        return self._slots.n_open

    def __contains__(self, id: object) -> bool:
        """Whether a stream is open."""
        return self._slots.has(id)

    def open(self, start: Mapping[str, ArrayLike] | None = None) -> int:
        """Return the id of a new stream, an integer that no stream of the pool had or will have.

        Parameters
        ----------
        start : dict of str to array-like, optional
            The inputs that the pool was made to take here, with a batch of one each.

        Raises
        ------
        RuntimeError
            If `capacity` streams are open.
        ValueError
            If what is given at the start does not fit.
        """
        if set(start or {}) != set(self._steps.given):
            names = ", ".join(self._steps.given) or "nothing"
            raise ValueError(
                f"{self._name}: expected {names} at the start; got {', '.join(start or {}) or 'nothing'}"
            )
        arrays = self._steps.start_arrays(start)
        if any(len(array) != 1 for array in arrays):
            raise ValueError(
                f"{self._name}: expected a batch of one at the start; got shape {arrays[0].shape}"
            )
        begun = self._steps.begin(arrays)
        states = self._fresh or self._steps.states(1, begun)
        with self._lock:
            id = self._slots.open()
            try:
                self._put(self._slots.places_of([id]), states, [(arrays, begun)])
            except BaseException:
                self._slots.close(id)
                raise
        return id

    def _put(
        self,
        places: np.ndarray,
        states: Sequence[np.ndarray],
        starts: Sequence[tuple[list[np.ndarray], Mapping[int, np.ndarray]]] = (),
    ) -> None:
        """Write the states of some places and, for new ones, what was given at their starts."""
        uninterrupted(np.ndarray.__setitem__, self._states, [places] * len(states), states)
        for place, (arrays, begun) in zip(places.tolist(), starts, strict=False):
            if arrays:
                self._started[place] = arrays
            for array, number in zip(self._constants, self._steps.step.constants, strict=True):
                array[place] = begun[number][0]

    def close(self, id: int) -> None:
        """End a stream; KeyError if it is not open."""
        with self._lock:
            place = int(self._slots.places_of([id])[0])
            self._slots.close(id)
            self._started.pop(place, None)

    def step(self, ids: Ids, x: Nested, out: np.ndarray | None = None) -> Nested:
        """Take the next timestep of some streams, all in one batch.

        Parameters
        ----------
        ids : list or array of int, n of them
        x : array-like, shape (n, features)
            A row a stream, in the order of `ids`: whatever one timestep of the model's input is; a list, or a dict by
            name, for several inputs.
        out : ndarray, optional
            Where to put the one output: of its shape and dtype, C-contiguous, not overlapping with `x`.

        Returns
        -------
        ndarray, or the model's output structure of ndarray
            (n, ...), in the order of `ids`.

        Raises
        ------
        KeyError
            If a stream is not open.
        TypeError, ValueError
            If an id is given twice or something does not fit. After any error all states are as they were.
        """
        with self._lock:
            places = self._slots.places_of(ids)
            y = None if self._core is None else self._core.step(x, out, places)
            outputs: Any = y
            if y is None:
                outputs = self._step(places, x, out)
        form = self._steps.step
        return outputs if form.structure is None else form.in_structure(outputs)

    def _step(self, places: np.ndarray, x: Nested, out: np.ndarray | None) -> Any:
        """`step` for what the core does not take as it comes."""
        arrays = self._steps.arrays(x, 1, self._name)
        if len(arrays[0]) != len(places):
            raise ValueError(
                f"{self._name}: expected {len(places)} rows, one an id; got shape {arrays[0].shape}"
            )
        if self._core is not None and out is None:
            made = self._core.step(tuple(arrays), None, places)
            if made is not None:
                return made
        states = [array[places] for array in self._states]
        constants = [array[places] for array in self._constants]
        begun = dict(zip(self._steps.step.constants, constants, strict=True))
        outputs, states = step_in_numpy(self._steps.step, arrays, states, begun)
        if out is not None:
            outputs = [put_into(out, outputs, self._name)]
        self._put(places, states)
        return outputs[0] if len(outputs) == 1 else outputs

    def reset(self, ids: Ids) -> None:
        """Take streams back to before their first step."""
        with self._lock:
            places = self._slots.places_of(ids)
            if self._fresh is not None or not len(places):
                self._put(places, self._fresh or [])
                return
            starts = [self._steps.begin(self._started[place]) for place in places.tolist()]
            fresh = zip(*(self._steps.states(1, begun) for begun in starts), strict=True)
            self._put(places, [np.concatenate(rows) for rows in fresh])

    def state(self, ids: Ids) -> dict[str, np.ndarray]:
        """Return copies of the states of some streams, (n, ...) each, by the names that `Stream.state` has."""
        with self._lock:
            return self._state(self._slots.places_of(ids))

    def _state(self, places: np.ndarray) -> dict[str, np.ndarray]:
        names = [state.name for state in self._steps.carried]
        return {name: array[places] for name, array in zip(names, self._states, strict=True)}

    def snapshot(self, ids: Ids) -> bytes:
        """Return a snapshot of some streams, for `restore` of this pool or another one, or `Model.stream`.

        Raises
        ------
        KeyError, TypeError, ValueError
            As for `step`; also if there is no id.
        """
        ids = list(ids)
        if not ids:
            raise ValueError(f"{self._name}: expected an id or more for a snapshot; got none")
        with self._lock:
            places = self._slots.places_of(ids)
            states = self._state(places)
            given = [self._started[place] for place in places.tolist() if self._steps.given]
            start = {
                layer.name: np.concatenate([one[i] for one in given])
                for i, layer in enumerate(self._steps.start_inputs)
            }
        return pack(len(ids), states, start)

    def restore(self, data: bytes, ids: Ids | None = None) -> list[int]:
        """Open streams that go on from a snapshot, or put open ones where it says.

        Parameters
        ----------
        data : bytes
            From `snapshot` or `Stream.save`.
        ids : list or array of int, optional
            Open streams, as many as the snapshot has; by default new ones.

        Returns
        -------
        list of int
            The ids, in the order of the snapshot.

        Raises
        ------
        RuntimeError
            If there are more than the pool has room for.
        KeyError, TypeError, ValueError
            As for `step`; also if the snapshot is damaged or another model's. After any error all is as it was.
        """
        saved = unpack(bytes(data))
        count = saved.batch_size
        what = f"{self._name}: the snapshot"
        if set(saved.start) != set(self._steps.given):
            raise ValueError(
                f"{what}: expected {sorted(self._steps.given)} at the start; got {sorted(saved.start)}"
            )
        states = checked_states(self._steps, saved.states, count, what)
        given = self._steps.start_arrays(saved.start)
        if any(len(array) != count for array in given):
            raise ValueError(f"{what}: expected {count} rows of what is given at the start")
        rows = [[array[i : i + 1] for array in given] for i in range(count if given else 0)]
        starts = [(row, self._steps.begin(row)) for row in rows]
        with self._lock:
            if ids is None:
                room = self.capacity - self._slots.n_open
                if count > room:
                    raise RuntimeError(f"{what}: {count} streams for {room} free places")
                chosen = []
            else:
                chosen = [int(id) for id in ids]
                if len(chosen) != count:
                    raise ValueError(f"{what}: expected {count} ids; got {len(chosen)}")
            opened: list[int] = []
            try:
                while len(chosen) < count:
                    opened.append(self._slots.open())
                    chosen.append(opened[-1])
                self._put(self._slots.places_of(chosen), states, starts)
            except BaseException:
                for id in opened:
                    self._slots.close(id)
                raise
        return chosen

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self._name}: a pool is neither pickled nor copied, as the ids of its streams are known to others; "
            "`snapshot` saves streams, and `restore` of another pool goes on with them"
        )

    # -- asyncio ----------------------------------------------------------------------------------------------------

    def batching(
        self,
        max_wait: float = DEFAULT_WAIT,
        max_batch: int | None = None,
        max_waiting: int | None = None,
        when_full: Literal["wait", "reject"] = "wait",
    ) -> "Batching":
        """Return what an `async with` enters to collect the steps that coroutines submit.

        Parameters
        ----------
        max_wait : float
            Seconds that a submitted step waits for others at most. It goes at once when all open streams have
            submitted one, or `max_batch` have. What is below two milliseconds of it is polled for on the event loop.
        max_batch : int, optional
            The most streams of one step.
        max_waiting : int, optional
            The most submitted steps that wait to be taken; eight full batches by default.
        when_full : {"wait", "reject"}
            What `submit` does when so many wait: wait for its turn, or raise PoolFullError, which tells a server to
            refuse work while it cannot keep up. `asyncio.timeout` around it limits how long it waits.
        """
        return Batching(self, max_wait, max_batch, max_waiting, when_full)

    async def __aenter__(self) -> "StreamPool":
        return await self.batching().__aenter__()

    async def __aexit__(
        self,
        kind: "type[BaseException] | None",
        error: BaseException | None,
        trace: "TracebackType | None",
    ) -> None:
        if self._batching is not None:
            await self._batching.__aexit__(kind, error, trace)

    async def submit(self, id: int, x: Nested) -> Nested:
        """Take the next timestep of a stream, together with those that other coroutines submit meanwhile.

        Steps of one stream are taken in the order in which they were submitted. A step whose coroutine is cancelled
        before it is taken is not taken.

        Parameters
        ----------
        id : int
        x : array-like, shape (features,)
            As for `Stream.step`, without the batch.

        Returns
        -------
        ndarray, or the model's output structure of ndarray
            (...), without the batch.

        Raises
        ------
        KeyError
            If the stream is not open, or no longer when its turn comes.
        TypeError, ValueError
            If `x` does not fit.
        PoolFullError
            If as many steps wait as may, and those are to be refused.
        RuntimeError
            Outside of `async with`.
        """
        if self._batching is None:
            raise RuntimeError(f"{self._name}: expected submit within `async with` of the pool")
        return await self._batching.submit(id, x)


class Batching:
    """Collects the steps that coroutines of one event loop submit to a pool; `StreamPool.batching` makes it."""

    def __init__(
        self,
        pool: StreamPool,
        max_wait: float,
        max_batch: int | None,
        max_waiting: int | None,
        when_full: Literal["wait", "reject"],
    ) -> None:
        if not 0 <= max_wait < float("inf"):
            raise ValueError(f"expected max_wait as seconds, 0 or more; got {max_wait!r}")
        self._pool, self._max_wait = pool, float(max_wait)
        self._max_batch = pool.capacity
        if max_batch is not None:
            self._max_batch = positive_integer(max_batch, "max_batch")
        self._max_waiting = BATCHES_WAITING * self._max_batch
        if max_waiting is not None:
            self._max_waiting = positive_integer(max_waiting, "max_waiting")
        if when_full not in ("wait", "reject"):
            raise ValueError(f"expected when_full as 'wait' or 'reject'; got {when_full!r}")
        self._rejects = when_full == "reject"
        self._n_waiting = 0
        self._at_the_door: deque[asyncio.Future[None]] = deque()
        self._batches: deque[dict[int, tuple[list[np.ndarray], asyncio.Future[Nested]]]] = deque()
        self._deadline: float | None = None
        self._stepping: asyncio.Future[Any] | None = None
        self._seconds_of_row = 0.0
        self._closing = False

    async def __aenter__(self) -> StreamPool:
        if self._pool._batching is not None:
            raise RuntimeError(f"{self._pool._name}: it is entered by an `async with` already")
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._pool._batching = self
        return self._pool

    async def __aexit__(
        self,
        kind: "type[BaseException] | None",
        error: BaseException | None,
        trace: "TracebackType | None",
    ) -> None:
        """Take what was submitted, then no more."""
        self._closing = True
        try:
            while self._n_waiting or self._stepping is not None:
                if self._stepping is not None:
                    await asyncio.wait([self._stepping])
                elif self._batches:
                    self._take_batch()
                await asyncio.sleep(0)
        finally:
            self._pool._batching = None
            for turn in self._at_the_door:
                turn.cancel()
            for batch in self._batches:
                for _, future in batch.values():
                    future.cancel()

    async def submit(self, id: int, x: Nested) -> Nested:
        """As `StreamPool.submit`."""
        pool = self._pool
        if self._closing or asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                f"{pool._name}: its `async with` has ended, or is of another event loop"
            )
        if id not in pool:
            raise KeyError(f"no stream {id} is open")
        row = pool._steps.arrays(x, 0, pool._name)
        await self._enter()
        future: asyncio.Future[Nested] = self._loop.create_future()
        # Behind its stream's last one, in the first batch that has room.
        first = max((i + 1 for i, batch in enumerate(self._batches) if id in batch), default=0)
        for batch in list(self._batches)[first:]:
            if len(batch) < self._max_batch:
                break
        else:
            batch = {}
            self._batches.append(batch)
        entry = batch[id] = row, future
        if self._deadline is None:
            self._deadline = time.perf_counter() + self._max_wait
            self._loop.call_soon(self._look)
        try:
            return await future
        except asyncio.CancelledError:
            if batch.get(id) is entry:
                del batch[id]
                self._leave(1)
            raise

    async def _enter(self) -> None:
        """Be one of those that wait, as soon as there may be one more; in the order of asking."""
        if self._n_waiting < self._max_waiting:
            self._n_waiting += 1
            return
        if self._rejects:
            raise PoolFullError(
                f"{self._pool._name}: {self._n_waiting} steps wait to be taken, which is as many as may"
            )
        turn: asyncio.Future[None] = self._loop.create_future()
        self._at_the_door.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(1)  # it was let in already
            raise

    def _leave(self, count: int) -> None:
        """So many wait no longer; let others in for them."""
        self._n_waiting -= count
        while self._at_the_door and self._n_waiting < self._max_waiting:
            turn = self._at_the_door.popleft()
            if not turn.done():
                self._n_waiting += 1
                turn.set_result(None)

    def _look(self) -> None:
        """Take the first batch if it need not wait any longer; look again later otherwise."""
        if self._stepping is not None or not self._batches or self._deadline is None:
            self._deadline = None
            return
        left = self._deadline - time.perf_counter()
        if left <= 0 or len(self._batches[0]) >= min(self._max_batch, len(self._pool)):
            self._take_batch()
        elif left > TIMER_SECONDS:
            self._loop.call_later(left - TIMER_SECONDS, self._look)
        else:
            self._loop.call_soon(self._look)

    def _take_batch(self) -> None:
        self._deadline = None
        taken = self._batches.popleft()
        self._leave(len(taken))
        batch = {id: (row, future) for id, (row, future) in taken.items() if not future.done()}
        taken.clear()  # who is cancelled from now on waits no longer
        ids, rows = list(batch), [row for row, _ in batch.values()]
        futures = [future for _, future in batch.values()]
        if len(ids) * self._seconds_of_row > LONGEST_ON_LOOP:

            def resolve(done: "asyncio.Future[list[Any]]") -> None:
                self._stepping = None
                self._resolve(futures, done.result())

            self._stepping = self._loop.run_in_executor(None, self._results, ids, rows)
            self._stepping.add_done_callback(resolve)
        else:
            self._resolve(futures, self._results(ids, rows) if ids else [])

    def _resolve(self, futures: list["asyncio.Future[Nested]"], results: list[Any]) -> None:
        """Give each its result; the next batch has waited meanwhile and goes at once."""
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if self._batches and self._deadline is None and not self._closing:
            self._deadline = 0.0
            self._loop.call_soon(self._look)

    def _results(self, ids: list[int], rows: list[list[np.ndarray]]) -> list[Any]:
        """The result, or the error, of each; an error of one is none of the others'."""
        start = time.perf_counter()
        try:
            inputs: Any = [np.array(column) for column in zip(*rows, strict=True)]
            outputs = self._pool.step(ids, inputs[0] if len(inputs) == 1 else inputs)
        except Exception as error:
            if len(ids) == 1:
                return [error]
            return [self._results([id], [row])[0] for id, row in zip(ids, rows, strict=True)]
        seconds = (time.perf_counter() - start) / len(ids)
        self._seconds_of_row = 0.9 * self._seconds_of_row + 0.1 * seconds
        columns = flatten(outputs)
        # Copies: a view would keep the whole batch alive.
        return [
            unflatten(outputs, [column[i].copy() for column in columns]) for i in range(len(ids))
        ]
