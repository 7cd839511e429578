"""From scores to an edited model: what to remove, the plan, the surgery, and the proof."""
