"""The builds of the core that this CPU can run."""

import importlib

from fastrnn import _dispatch

BASE = importlib.import_module("fastrnn._core_base_f32")
LEVELS = [level for level in _dispatch._built_levels() if BASE.cpu_has(level)]
BUILDS = [f"{level}_f{bits}" for level in LEVELS for bits in (32, 64)]
