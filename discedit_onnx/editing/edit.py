"""An edited model with the proof that it is what was planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph.cost import ParameterCount
from ..model import save
from .plan import plan_removal, plan_zeroing
from .surgery import apply
from .verify import Equality, compare, mask, random_feeds

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from ..calibration.images import Images
    from ..graph.coupling import Coupling
    from ..model import Model
    from .plan import Plan


@dataclass(frozen=True, eq=False)
class Edit:
    """An edited model, not yet written.

    Attributes
    ----------
    source
        The model that was edited; unchanged.
    proto
        The edited model; the source's own where nothing was edited.
    plan
        All that was changed.
    components
        What was removed or silenced, shape (components,).
    groups
        For each group, in the order of the graph: its name, its components before, and those
        that are left.
    parameters
        Before and after.
    equality
        How far the edited model lies from the masked original.
    """

    source: Model
    proto: onnx.ModelProto
    plan: Plan
    components: NDArray[np.bool_]
    groups: tuple[tuple[str, int, int], ...]
    parameters: tuple[int, int]
    equality: Equality

    @property
    def sparsity(self) -> float:
        """Share of the parameters that was removed."""
        before, after = self.parameters
        return 1 - after / before if before else 0.0

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write the edited model; see `discedit_onnx.model.save`."""
        save(self.proto, self.source, path, force)


def carry_out(
    model: Model,
    coupling: Coupling,
    components: NDArray[np.bool_],
    *,
    remove: bool,
    images: Images | None = None,
    device: str = "auto",
) -> Edit:
    """Remove or silence components, and prove the result against the masked original.

    Parameters
    ----------
    model
        The original.
    coupling
        Its coupling.
    components
        Which, shape (components,).
    remove
        Cut them out; otherwise zero the weights that consume them.
    images
        For the proof of equality; random inputs where there are none.
    device
        As in `calibrate`.

    Raises
    ------
    GateError
        If the edited model's outputs differ from those of the masked original, though the plan is
        exact.
    """
    planner = plan_removal if remove else plan_zeroing
    plan = planner(coupling, components, model.hash)
    proto = apply(model.proto, plan)
    origin, feeds = "random inputs", random_feeds(coupling.view)
    if images is not None:
        origin, feeds = "images", images.sample()
    equality = compare(mask(coupling, components), proto, feeds, device, origin)
    if plan.exact:
        equality.require()
    count = ParameterCount(coupling)
    left = count.left(components) if remove else count.total
    groups = tuple(
        (group.name, len(group.components), int((~components[group.components]).sum()))
        for group in coupling.groups
    )
    return Edit(model, proto, plan, components, groups, (count.total, left), equality)
