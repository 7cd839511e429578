"""Evidence of forgetting, as a report has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .figures import Attack

if TYPE_CHECKING:
    from ..evidence.verify import Evidence


def attacks_of(found: Evidence) -> tuple[Attack, ...]:
    """What attacks found of the forgotten images; those that could not be run are left out."""
    original = found.before.forget.value
    recall = found.recall
    tried = {
        "the class's logit re-enabled": recall.logit,
        "recall attack on all layers": recall.own,
        "the original's head on the edited features": recall.old_head,
        "recall attack and the original's head": recall.old_head_attacked,
    }
    return tuple(
        Attack(name, "forgotten images found", original, share.value)
        for name, share in tried.items()
        if share is not None
    )
