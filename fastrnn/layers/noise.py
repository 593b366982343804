"""Keras's layers that do something in training only: the identity here."""

from typing import Any, ClassVar

from fastrnn._types import Config, Shape
from fastrnn.layers.common import check_rank, known_data_format
from fastrnn.layers.core import Dropout
from fastrnn.layers.reshaping import Identity


class AlphaDropout(Dropout):
    """The identity, as in inference.

    Parameters
    ----------
    rate : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    noise_shape, seed : optional
        Kept for the config.
    """


class GaussianDropout(Dropout):
    """The identity, as in inference.

    Parameters
    ----------
    rate : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    seed : optional
        Kept for the config.
    """

    arguments: ClassVar[tuple[Any, ...]] = ("rate", "seed")

    def __init__(self, rate: float, seed: Any = None, **kwargs: Any) -> None:
        super().__init__(rate, seed=seed, **kwargs)


class GaussianNoise(Dropout):
    """The identity, as in inference.

    Parameters
    ----------
    stddev : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    seed : optional
        Kept for the config.
    """

    arguments: ClassVar[tuple[Any, ...]] = ("stddev", "seed")

    def __init__(self, stddev: float, seed: Any = None, **kwargs: Any) -> None:
        super().__init__(stddev, seed=seed, **kwargs)

    @property
    def stddev(self) -> float:
        """float: what `Dropout` calls the rate."""
        return self.rate


class _SpatialDropout(Dropout):
    rank: ClassVar[int]
    arguments: ClassVar[tuple[Any, ...]] = ()

    def _check_input(self, shape: Shape) -> None:
        check_rank(shape, self.rank + 2, f"layer {self.name!r}")

    def get_config(self) -> Config:
        # Keras leaves the rest out of these layers' configs.
        config = {name: getattr(self, name) for name in ("rate", "seed", "name", "dtype")}
        return {**config, **{name: getattr(self, name) for name in self.arguments}}


class SpatialDropout1D(_SpatialDropout):
    """The identity, as in inference, of (batch, steps, features).

    Parameters
    ----------
    rate : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    seed : optional
        Kept for the config.
    name, dtype : str, optional
    """

    rank = 1

    def __init__(
        self,
        rate: float,
        seed: Any = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, seed=seed, name=name, dtype=dtype, **kwargs)


class _SpatialDropoutOfImages(_SpatialDropout):
    arguments = ("data_format",)

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        seed: Any = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, seed=seed, name=name, dtype=dtype, **kwargs)
        self.data_format = known_data_format(data_format, f"layer {self.name!r}")


class SpatialDropout2D(_SpatialDropoutOfImages):
    """The identity, as in inference, of (batch, rows, columns, channels).

    Parameters
    ----------
    rate : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    data_format, seed : optional
        Kept for the config.
    name, dtype : str, optional
    """

    rank = 2


class SpatialDropout3D(_SpatialDropoutOfImages):
    """The identity, as in inference, of (batch, size, size, size, channels).

    Parameters
    ----------
    rate : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    data_format, seed : optional
        Kept for the config.
    name, dtype : str, optional
    """

    rank = 3


class ActivityRegularization(Identity):
    """The identity.

    Parameters
    ----------
    l1, l2 : float
        Kept for the config.
    """

    arguments = ("l1", "l2")

    def __init__(self, l1: float = 0.0, l2: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.l1, self.l2 = l1, l2
