"""What a call of a model runs: by which kernel, in which way, on how many threads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastrnn.model import Model


@dataclass(frozen=True)
class Operation:
    """One operation of a call.

    Attributes
    ----------
    name : str
        The operation's, as in `fastrnn.plan`.
    runs_on : str
        The build of the kernels, such as "v4_f32" (AVX-512, float32), or "NumPy".
    ways : tuple of str
        What was chosen: "rows in lanes" of vectors rather than units, "projection ahead" of the recurrence or "from a
        table", "in place".
    threads : int
        That share the operation, or else the tiles of the batch.
    tile_rows : int or None
        Rows of the batch that go through the operations before the next.
    share_of_cost : float
        Its part of the call's multiply-adds, or their worth in time. NaN in NumPy.
    weight_bytes : int or None
        What its prepared weights take.
    """

    name: str
    runs_on: str
    ways: tuple[str, ...] = ()
    threads: int = 1
    tile_rows: int | None = None
    share_of_cost: float = float("nan")
    weight_bytes: int | None = None


@dataclass(frozen=True)
class Explanation:
    """What a call runs, in its order; printed as a table."""

    operations: tuple[Operation, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as lists, dicts, numbers and strings; None for a cost that is not known."""
        operations = [asdict(one) for one in self.operations]
        for one in operations:
            if np.isnan(one["share_of_cost"]):
                one["share_of_cost"] = None
        return {"operations": operations}

    def __str__(self) -> str:
        rows = [("operation", "runs on", "way", "threads", "tile", "cost", "weights")]
        rows += [
            (
                one.name,
                one.runs_on,
                ", ".join(one.ways) or "-",
                str(one.threads),
                "-" if one.tile_rows is None else str(one.tile_rows),
                "-" if np.isnan(one.share_of_cost) else f"{one.share_of_cost:.1%}",
                "-" if one.weight_bytes is None else f"{one.weight_bytes / 1024:,.1f} KiB",
            )
            for one in self.operations
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def explain(model: Model, shape: Sequence[Any]) -> Explanation:
    """Tell what a call of a model runs.

    The call is made on zeros, and without masks; states stay as they are.

    Parameters
    ----------
    model : Model
    shape : tuple of int, or list of such
        The input's with the batch, or each input's.

    Returns
    -------
    Explanation
        Its `str` is a table.

    Raises
    ------
    ValueError
        If the model takes no inputs of that shape.
    """
    several = not all(isinstance(size, (int, np.integer)) for size in shape)
    zeros = [np.zeros(one, np.float32) for one in (shape if several else [shape])]
    parts = model._explain(zeros if several else zeros[0])
    total = sum(one["cost"] for part in parts for one in part.get("operations", ()))
    operations: list[Operation] = []
    for part in parts:
        if "operations" not in part:
            operations.append(Operation(part["operation"], "NumPy"))
            continue
        operations += [
            Operation(
                one["operation"],
                part["build"],
                tuple(one["ways"]),
                max(one["threads"], 1 if part["shared"] == "operations" else part["threads"]),
                part["tile_rows"],
                one["cost"] / total if total else float("nan"),
                one["weight_bytes"],
            )
            for one in part["operations"]
        ]
    return Explanation(tuple(operations))
