"""How much of a layer's input a component is: its share of the mean square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..calibration.placement import tap_components

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..calibration.moments import Moments
    from ..graph.coupling import Coupling


def energy(coupling: Coupling, moments: Moments) -> NDArray[np.float64]:
    """Mean square of a component where it is consumed, relative to the mean over that tensor.

    All images count alike. A component that is consumed in several tensors gets the mean over
    them.

    Parameters
    ----------
    coupling
        Of the model.
    moments
        Of the same model.

    Returns
    -------
    ndarray of float64, shape (components,)
        Infinite for a component that no tap sees: nothing is known of it, so it goes last.
    """
    (squares,) = np.moveaxis(moments.select(["mean_square"]).mean, -1, 0)  # (classes, channels)
    share = moments.count / max(int(moments.count.sum()), 1)
    total, times = np.zeros(coupling.size), np.zeros(coupling.size)
    for tap in moments.taps:
        found = share @ squares[:, moments.slices[tap.tensor]]
        component = tap_components(coupling, tap)
        seen = component >= 0
        np.add.at(total, component[seen], found[seen] / max(float(found.mean()), 1e-300))
        np.add.at(times, component[seen], 1)
    return np.where(times > 0, total / np.maximum(times, 1), np.inf)
