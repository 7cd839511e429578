"""`score --plan-samples`: how many images a certificate takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discedit_onnx.amounts import number

if TYPE_CHECKING:
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.scoring.comparison import Comparison

    from .output import Screen

CONFIDENCE = 0.95
"""Where none is asked for."""

STEPS = 6
"""Sizes of what a sample may show, from little above the target to 1."""


def show(
    screen: Screen,
    moments: Moments,
    comparison: Comparison,
    witness: str,
    target: float,
    confidence: float | None,
) -> None:
    """Images of a class from which on a bound can be certified, by what the sample shows.

    All comparisons of the model are counted, and images of the other side in the proportion that
    the moments have them.
    """
    import numpy as np

    from discedit_onnx.errors import UsageError
    from discedit_onnx.scoring.certificates import CERTIFIED_BY
    from discedit_onnx.scoring.laws import MomentLaws
    from discedit_onnx.scoring.planning import plan_samples

    if not 0.0 < target < 1.0:
        raise UsageError(f"--plan-samples {target:g}: give a bound between 0 and 1")
    confidence = CONFIDENCE if confidence is None else confidence
    p, q = comparison.laws(MomentLaws.of(moments, moments.features[:1], slice(0, 1)))
    ratio = float(np.median(q.count / np.maximum(p.count, 1)))
    channels = moments.mean.shape[1]
    compared = channels * len(comparison)
    certificate = CERTIFIED_BY[witness]
    shown = np.linspace(target, 1.0, STEPS + 1)[1:].round(3).tolist()
    needed = [
        plan_samples(target, value, compared, confidence, certificate, ratio or 1.0)
        for value in shown
    ]
    screen.facts(
        f"Images that it takes to certify a bound of {target:g}",
        {
            "certificate": f"{certificate}, for {witness}",
            "confidence": f"{confidence:.4g}, for all {number(compared)} comparisons at once",
            "other side": f"{ratio:.3g} images for each of the class",
            "here": f"{number(int(np.median(p.count)))} images of a class (median)",
        },
    )
    screen.table(
        "By the estimate that the sample shows",
        ["estimate", "images of the class"],
        [[f"{value:.2f}", number(count)] for value, count in zip(shown, needed, strict=True)],
    )
    screen.json(
        {
            "target": target,
            "certificate": certificate,
            "confidence": confidence,
            "comparisons": compared,
            "ratio": ratio,
            "images": [
                {"estimate": value, "needed": count}
                for value, count in zip(shown, needed, strict=True)
            ],
        }
    )
