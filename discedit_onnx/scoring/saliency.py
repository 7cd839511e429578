"""From bounds per channel and class to one number per component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.placement import tap_components
from ..errors import DataError, UsageError
from .witness import WITNESSES, sign

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..calibration.moments import Moments
    from ..calibration.taps import Tap
    from ..graph.coupling import Coupling
    from ..model import Model

DEFAULT_WITNESS = "sharp"


@dataclass(frozen=True)
class Scores:
    """Bounds of one witness, where components are consumed.

    A component may be consumed in several tensors (a residual spine is), and thus have several
    channels here.

    Attributes
    ----------
    witness
        Its name.
    class_names
        The K classes.
    taps
        The tensors, in the order of the channel axis.
    bounds
        Each class against the rest, shape (channels, K), in [0, 1]. Plug-in estimates.
    signs
        +1 where a channel fires more for the class than for the rest, -1 where less,
        shape (channels, K).
    component
        Component of each channel, -1 where it can't be removed, shape (channels,).
    components
        Number of components.
    """

    witness: str
    class_names: tuple[str, ...]
    taps: tuple[Tap, ...]
    bounds: NDArray[np.float64]
    signs: NDArray[np.int8]
    component: NDArray[np.int64]
    components: int

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Channels of each tensor."""
        ends = np.cumsum([tap.length for tap in self.taps]).tolist()
        return {
            tap.tensor: slice(end - tap.length, end)
            for tap, end in zip(self.taps, ends, strict=True)
        }

    def per_component(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest value over the channels of each component.

        Parameters
        ----------
        values
            Shape (channels, ...).

        Returns
        -------
        ndarray of float64, shape (components, ...)
            0 for a component that no tap sees.
        """
        largest = np.zeros((self.components, *values.shape[1:]))
        seen = self.component >= 0
        np.maximum.at(largest, self.component[seen], values[seen])
        return largest


def check_witness(name: str) -> None:
    """Raise UsageError if there is no witness of this name."""
    if name not in WITNESSES:
        raise UsageError(f"no witness named {name!r}; there are {', '.join(WITNESSES)}")


def score(
    model: Model, coupling: Coupling, moments: Moments, witness: str = DEFAULT_WITNESS
) -> Scores:
    """Bound how well each channel tells each class from the rest.

    Parameters
    ----------
    model
        The model.
    coupling
        Its coupling.
    moments
        Of the same model.
    witness
        A name in `scoring.witness.WITNESSES`.

    Raises
    ------
    UsageError
        If there is no such witness.
    DataError
        If the moments are of another model.
    """
    check_witness(witness)
    if moments.source != model.hash:
        raise DataError(
            f"the moments are of another model (SHA-256 {moments.source[:12]}..., not "
            f"{model.hash[:12]}...); calibrate {model.path} again"
        )
    component = [tap_components(coupling, tap) for tap in moments.taps]
    return Scores(
        witness=witness,
        class_names=moments.class_names,
        taps=moments.taps,
        bounds=WITNESSES[witness](moments),
        signs=sign(moments),
        component=np.concatenate(component) if component else np.empty(0, dtype=np.int64),
        components=coupling.size,
    )


Reduction = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]

REDUCTIONS: dict[str, Reduction] = {
    "max": lambda bounds: bounds.max(axis=1),
    "mean": lambda bounds: bounds.mean(axis=1),
    "min": lambda bounds: bounds.min(axis=1),
}
"""Ways to join the bounds of all classes, shape (components, K), into one saliency.

`max`: important to any class. `mean`: to the average class. `min`, of the published code: to
every class; it throws away a filter that tells nine classes of ten apart.
"""


def saliency(scores: Scores, reduction: str = "max") -> NDArray[np.float64]:
    """One number per component: the lower, the less it tells classes apart.

    Parameters
    ----------
    scores
        Of the model.
    reduction
        A name in `REDUCTIONS`.

    Returns
    -------
    ndarray of float64, shape (components,)
    """
    return REDUCTIONS[reduction](scores.per_component(scores.bounds))
