"""The builds of the kernels that this CPU can run, as tests take them."""

import functools

from fastrnn import _core

LEVELS = list(dict.fromkeys(level for level, _ in _core.BUILDS))
BUILDS = [build.name for build in _core.BUILDS.values()]


class Core:
    """The compiled core with its operations and programs bound to one build."""

    def __init__(self, build):
        self.build = build
        self.DTYPE = build.dtype

    def __getattr__(self, name):
        value = getattr(_core, name)
        bound = isinstance(value, type) and issubclass(value, (_core.Step, _core.Program))
        return functools.partial(value, self.build) if bound else value


def core_of(level, bits):
    """Return the core with one of its builds."""
    return Core(_core.BUILDS[level, bits])
