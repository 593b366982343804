"""A clock that goes on only when somebody waits: what depends on time is tested on a busy machine as on an idle one."""

import asyncio
import selectors

# What an event loop that has something to do takes for a turn: a wait that polls ends.
SECONDS_OF_A_TURN = 1e-5


class Clock:
    """Stands for the module `time` in the module under test, and for the time of its event loop."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def run(self, coroutine):
        """Run a coroutine as asyncio.run does; its timers take no time but this clock's."""
        clock = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout=None):
                if timeout is None:  # only another thread can go on: it is waited for
                    return super().select()
                clock.now += max(timeout, SECONDS_OF_A_TURN)
                return super().select(0)

        loop = asyncio.SelectorEventLoop(Selector())
        loop.time = self.perf_counter
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(coroutine)
