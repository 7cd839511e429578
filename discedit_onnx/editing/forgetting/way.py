"""How classes are forgotten: level, method, strength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import UsageError, require_count, require_finite
from ...scoring.saliency import DEFAULT_WITNESS
from ..order import Limits
from .components import Amount

Level = Literal["output", "head", "features"]
Method = Literal["projection", "svd", "leace", "components"]

LEVELS: tuple[Level, ...] = ("output", "head", "features")
METHODS: tuple[Method, ...] = ("projection", "svd", "leace", "components")
"""`projection`: the class means' part outside the retained span (DAMP). `svd`: Kodge and others.
`leace`: Belrose and others. `components`: DisCEdit-U. See docs/forgetting.md."""

NEED_DATA = ("svd", "leace")
MAX_DROP = 0.01
UNSEEN = Amount("share", 0.02)
"""What is removed where there are no images to see what it costs."""


@dataclass(frozen=True)
class Way:
    """How classes are forgotten.

    Attributes
    ----------
    level
        How deep: "output", "head" or "features".
    method
        At level features.
    strength
        Of a projection; found by itself where it is None and there is data.
    max_drop
        What each search may cost the retained classes, as a share.
    amount
        How many components are taken, by method components and where they are removed. None: a
        share that is found by itself for `remove` where there is data, else the default one.
    witness
        That components are chosen by.
    remove
        At level features: cut components out, whatever the method.
    round_to
        Widths that `remove` leaves are multiples of this; see `order.Limits`.
    refit
        Make up for components that go, with what stays; see `filling`.
    keep_head
        At level features: leave out the projection of level head, so that the method alone
        forgets. Of the methods only svd then edits the head.
    refit_head
        At level features: fit the head anew to the retained classes in place of that projection;
        see `head.refitted`. Needs data.
    drop_output
        Take the classes' columns off the output.
    """

    level: Level = "features"
    method: Method = "projection"
    strength: float | None = None
    max_drop: float = MAX_DROP
    amount: Amount | None = None
    witness: str = DEFAULT_WITNESS
    remove: bool = False
    round_to: int = 1
    refit: bool = True
    keep_head: bool = False
    refit_head: bool = False
    drop_output: bool = False

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UsageError(f"no level {self.level!r}; there are {', '.join(LEVELS)}")
        if self.method not in METHODS:
            raise UsageError(f"no method {self.method!r}; there are {', '.join(METHODS)}")
        for name in ("remove", "refit", "keep_head", "refit_head", "drop_output"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} {getattr(self, name)!r}: give True or False")
        require_finite("max_drop", self.max_drop)
        if not 0 <= self.max_drop < 1:
            raise UsageError(f"--max-drop {100 * self.max_drop:g} is not in [0, 100) points")
        if self.strength is not None:
            require_finite("strength", self.strength)
            if self.strength < 0:
                raise UsageError(f"strength {self.strength:g} is below 0")
        require_count("--round-to", self.round_to)
        if self.keep_head and self.refit_head:
            raise UsageError("give one of --keep-head and --refit-head")
        if self.level != "features" and (self.remove or self.keep_head or self.refit_head):
            raise UsageError(f"--level {self.level} edits the head only; take --level features")

    @property
    def default_amount(self) -> Amount:
        """How many components are taken where no images say."""
        if self.amount is not None:
            return self.amount
        return UNSEEN if self.remove else Amount()

    @property
    def limits(self) -> Limits:
        """Which widths may be left: any where components are silenced only."""
        return Limits(self.round_to) if self.remove else Limits()

    def check_sources(self, moments: bool, data: bool) -> None:
        """Refuse what can't be done with what there is.

        Raises
        ------
        UsageError
            If images or moments are missing.
        """
        if self.level != "features":
            return
        if self.method in NEED_DATA and not data:
            raise UsageError(
                f"--method {self.method} needs second moments of what each layer reads, which no "
                "moments file holds: give images with --data, or take --method projection"
            )
        if self.refit_head and not data:
            raise UsageError("--refit-head needs images of the retained classes: give --data")
        if not moments and not data:
            raise UsageError("level features needs moments, or images to gather them from")
