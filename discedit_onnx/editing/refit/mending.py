"""How much of what a loss costs stays where the layers before and behind it are refitted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plan import plan_removal
from .batches import images_in
from .pairs import find_pairs
from .refit import refit_pair
from .stages import Walk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ...graph.coupling import Coupling
    from .layers import Layer
    from .outputs import Outputs

    Feeds = Mapping[str, NDArray[Any]]

MENDED_AT, IMAGES = 1 / 4, 128
"""Share of a group that is removed to measure it, and images to fit both layers on: what is left is
told well by few."""
APART = 2.5
"""How much more an error counts where no two layers in a row mend it together. One layer behind it
mends what several groups lost, so that the sum of what they lose alone is too much for those."""


class Mending:
    """Two layers in a row, refitted for the loss of a part of the group between them.

    Parameters
    ----------
    coupling, device, seed
        As in `curves.least_squares`.
    layers
        Of the dense model.
    fit
        Batches to fit on; some of them are used.
    outputs
        Measures the error; it has advanced to each group before that is asked for.
    """

    def __init__(
        self,
        coupling: Coupling,
        layers: Sequence[Layer],
        fit: Sequence[Feeds],
        outputs: Outputs,
        device: str,
        seed: int,
    ) -> None:
        self._coupling, self._outputs, self._seed = coupling, outputs, seed
        self._pairs = find_pairs(coupling.view, layers)
        seen = np.cumsum([images_in([part]) for part in fit])
        some = fit[: int(np.searchsorted(seen, IMAGES)) + 1]
        self._walk, self._images = Walk(coupling.view, some, device), images_in(some)

    def left(self, removed: NDArray[np.bool_], reader: str, error: float, begin: int) -> float:
        """What an error counts, as a multiple of itself.

        Parameters
        ----------
        removed
            Components of one group, shape (components,).
        reader
            Node of the one layer that reads them; empty if there are several.
        error
            Of the outputs, where the readers alone are refitted.
        begin
            Number of the first node that is changed; not before that of the group before.
        """
        pair = self._pairs.get(reader)
        if pair is None:
            return APART
        if not error > 0:
            return 1.0
        self._walk.advance(self._coupling.view.proto, begin)
        plan = plan_removal(self._coupling, removed, "")
        new = refit_pair(self._coupling, removed, plan, pair, self._walk, self._images, self._seed)
        plan = replace(plan, updates=new.updates, biases=new.biases)
        both = self._outputs.error(plan) - self._outputs.before
        return float(np.clip(both / error, 0.0, 1.0))
