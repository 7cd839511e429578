"""How often a certified bound exceeds the true total variation, and how large it is.

    python benchmarks/coverage.py [--simulations 2000] [--seed 0]

Laws with known total variation; images, and those from which the edges of the bins come, are drawn
anew in each simulation. Beside each certificate stands the plug-in value of the bound that it
certifies; `two bands` is the usual certificate of a threshold, as a baseline. Then how many images
a certificate needs, and what it costs. Prints Markdown.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy
from scipy import stats

from discedit_onnx.calibration.histograms import BINS, bin_of, quantile_edges
from discedit_onnx.scoring.binned import histogram_bound, representatives, threshold_bound
from discedit_onnx.scoring.bounds import fisher_bound, sharp_bound
from discedit_onnx.scoring.certificates import CERTIFICATES, error_of_each
from discedit_onnx.scoring.planning import plan_samples

if TYPE_CHECKING:
    from collections.abc import Callable

    Sample = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

SIZES = (30, 100, 500)
PILOT = 64
CONFIDENCE = 0.95
MANY = 4224 * 10
"""Comparisons certified at once in the second power table: ten classes, each against the rest."""


def two_bands(
    counts_p: np.ndarray, counts_q: np.ndarray, edges: np.ndarray, error: float
) -> np.ndarray:
    """The empirical Kolmogorov-Smirnov distance less one two-sided DKW band for each sample."""
    widths = [
        math.sqrt(math.log(4 / error) / (2 * side[:, 0].sum())) for side in (counts_p, counts_q)
    ]
    return np.maximum(plug_in("threshold", counts_p, counts_q, edges) - sum(widths), 0)


METHODS = {**CERTIFICATES, "two bands": two_bands}


@dataclass(frozen=True)
class Family:
    """Two laws and the distance between them."""

    name: str
    p: Sample
    q: Sample
    distance: float


def families() -> tuple[Family, ...]:
    """Normals shifted and widened, exponentials, rectified normals, one law twice; and a rest.

    The last is beyond the assumption: a rest of two classes with equally many images of each, as
    calibration with so many images of each class has it, is not a sample of independent draws.
    """
    # Densities of N(0, 1) and N(0, 9) cross at +-c.
    crossing = math.sqrt(2 * math.log(3) / (1 - 1 / 9))
    widened = 2 * (stats.norm.cdf(crossing) - stats.norm.cdf(crossing / 3))
    # Rates 1 and 1/3 cross at log(3) / (1 - 1/3).
    where = 1.5 * math.log(3)
    rates = math.exp(-where / 3) - math.exp(-where)
    return (
        Family(
            "normals, shifted by 2",
            lambda rng, shape: rng.normal(size=shape),
            lambda rng, shape: rng.normal(size=shape) + 2,
            2 * stats.norm.cdf(1) - 1,
        ),
        Family(
            "normals, three times as wide",
            lambda rng, shape: rng.normal(size=shape),
            lambda rng, shape: 3 * rng.normal(size=shape),
            widened,
        ),
        Family(
            "exponentials, means 1 and 3",
            lambda rng, shape: rng.exponential(size=shape),
            lambda rng, shape: 3 * rng.exponential(size=shape),
            rates,
        ),
        # The set {x <= 1/2}, in which the normals differ most, is not touched by max(0, x).
        Family(
            "max(0, normal), shifted by 1",
            lambda rng, shape: np.maximum(rng.normal(size=shape), 0),
            lambda rng, shape: np.maximum(rng.normal(size=shape) + 1, 0),
            2 * stats.norm.cdf(0.5) - 1,
        ),
        Family(
            "one discrete law twice",
            lambda rng, shape: rng.binomial(6, 0.3, shape).astype(float),
            lambda rng, shape: rng.binomial(6, 0.3, shape).astype(float),
            0.0,
        ),
        Family(
            "a class and two others, stratified",
            lambda rng, shape: rng.normal(size=shape),
            lambda rng, shape: rng.normal(size=shape) + strata(shape[1]),
            between_strata(),
        ),
    )


def strata(size: int) -> np.ndarray:
    """Means of the images of two classes, equally many in each fold."""
    return np.where(np.arange(size) % 4 < 2, -2.0, 2.0)


def between_strata() -> float:
    """Total variation between N(0, 1) and an even mixture of N(-2, 1) and N(2, 1).

    With x >= 0 the ratio of the densities is exp(-2) cosh(2 x), which is 1 at one point.
    """
    where = math.acosh(math.exp(2)) / 2
    of_class = 2 * stats.norm.cdf(where) - 1
    of_others = stats.norm.cdf(where - 2) - stats.norm.cdf(-where - 2)
    return float(of_class - of_others)


def histograms(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts (2, S, B) of values (S, N) by fold, simulation and bin."""
    simulations, bins = len(edges), edges.shape[1] + 1
    place = bin_of(values.T.astype(np.float32), edges).astype(np.int64)
    place += np.arange(simulations) * bins
    counts = [
        np.bincount(fold.ravel(), minlength=simulations * bins)
        for fold in (place[::2], place[1::2])
    ]
    return np.stack(counts).reshape(2, simulations, bins)


def simulate(
    family: Family, rng: np.random.Generator, simulations: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of P and Q and edges of many simulations with `size` images a side."""
    half = (simulations, PILOT // 2)
    pilot = np.concatenate([family.p(rng, half), family.q(rng, half)], axis=1)
    edges = quantile_edges(pilot.T)
    shape = (simulations, size)
    p, q = (histograms(law(rng, shape), edges) for law in (family.p, family.q))
    return p, q, edges.astype(np.float64, order="C")


def plug_in(name: str, counts_p: np.ndarray, counts_q: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bound that a certificate certifies, at the shares of the sample."""
    p, q = (
        counts.sum(axis=0) / counts.sum(axis=(0, 2))[:, None] for counts in (counts_p, counts_q)
    )
    if name in ("threshold", "two bands"):
        return threshold_bound(p, q)
    if name == "histogram":
        return histogram_bound(p, q)
    if name == "interval":
        steps = np.cumsum(p - q, axis=-1)
        return np.ptp(steps, axis=-1)
    values = representatives(edges)
    mean_p, mean_q = (p * values).sum(axis=-1)[:, None], (q * values).sum(axis=-1)[:, None]
    var_p, var_q = (
        (share * (values - mean) ** 2).sum(axis=-1)[:, None, None]
        for share, mean in ((p, mean_p), (q, mean_q))
    )
    bound = {"fisher": fisher_bound, "sharp": sharp_bound}[name]
    return bound(mean_p, var_p, mean_q, var_q)


def rows(simulations: int, seed: int) -> dict[tuple[str, str, int], tuple[float, ...]]:
    """By family, certificate and size: too large, plug-in too large, and three means over TV."""
    found = {}
    for family in families():
        for size in SIZES:
            rng = np.random.default_rng([seed, size])
            data = simulate(family, rng, simulations, size)
            for name, function in METHODS.items():
                bound = function(*data, error_of_each(CONFIDENCE, 1))
                many = function(*data, error_of_each(CONFIDENCE, MANY))
                guess = plug_in(name, *data)
                truth = family.distance + 1e-9
                scale = family.distance or math.nan
                found[family.name, name, size] = (
                    (bound > truth).mean(),
                    (guess > truth).mean(),
                    bound.mean() / scale,
                    many.mean() / scale,
                    guess.mean() / scale,
                )
    return found


def table(
    title: str, found: dict[tuple[str, str, int], tuple[float, ...]], cell: Callable[..., str]
) -> None:
    """One row for each family and size, one column for each certificate."""
    print(f"\n{title}\n\n| laws | TV | images a side | {' | '.join(METHODS)} |")
    print("|---|---|---|" + "---|" * len(METHODS))
    for family in families():
        for size in SIZES:
            keys = [(family.name, name, size) for name in METHODS]
            if keys[0] in found:
                cells = " | ".join(cell(*found[key]) for key in keys)
                print(f"| {family.name} | {family.distance:.3f} | {size} | {cells} |")


def plans() -> None:
    """Images of a class that are needed, by what is to be certified and what is observed."""
    print(
        f"\nImages of a class to certify one of {MANY:,} bounds at {CONFIDENCE:.0%}, with as many"
    )
    print("images on the other side / nine times as many:\n")
    print(f"| to certify | from | {' | '.join(CERTIFICATES)} |")
    print("|---|---|" + "---|" * len(CERTIFICATES))
    for target, observed in ((0.1, 0.3), (0.3, 0.5), (0.3, 0.8), (0.5, 0.8), (0.9, 0.98)):
        cells = [
            " / ".join(
                str(plan_samples(target, observed, MANY, CONFIDENCE, name, ratio))
                for ratio in (1.0, 9.0)
            )
            for name in CERTIFICATES
        ]
        print(f"| {target} | {observed} | {' | '.join(cells)} |")


def cost(seed: int) -> None:
    """Seconds for all comparisons of a ResNet of 4,224 channels and ten classes."""
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.ones(BINS), (10, MANY // 10))
    counts = np.stack([rng.multinomial(50, law), rng.multinomial(50, law)])
    edges = np.tile(np.linspace(-1, 1, BINS - 1), (MANY // 10, 1))
    rest = counts.sum(axis=1, keepdims=True) - counts
    times = []
    for name, function in CERTIFICATES.items():
        started = time.perf_counter()
        function(counts, rest, edges, error_of_each(CONFIDENCE, MANY))
        times.append(f"{name} {time.perf_counter() - started:.2f} s")
    print(f"\nTime for {MANY:,} comparisons with {BINS} bins: {', '.join(times)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    found = rows(options.simulations, options.seed)
    print(
        f"{options.simulations} simulations, seed {options.seed}, confidence {CONFIDENCE:.0%}; "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}; "
        f"{time.perf_counter() - started:.0f} s."
    )
    allowed = 1 - CONFIDENCE
    tests = [
        stats.binomtest(
            round(row[0] * options.simulations), options.simulations, allowed, "greater"
        ).pvalue
        for row in found.values()
    ]
    print(
        f"\nMost often too large, in any cell: {max(row[0] for row in found.values()):.2%} of the "
        f"simulations, where {allowed:.0%} are allowed; the smallest p-value of "
        f"{len(tests)} binomial tests is {min(tests):.3g}."
    )
    table(
        "Share of simulations in which the certificate exceeds TV / in which the plug-in does:",
        found,
        lambda bound, guess, *_: f"{bound:.1%} / {guess:.0%}",
    )
    table(
        f"Mean certificate over TV, alone / as one of {MANY:,} at once / mean plug-in over TV:",
        {key: row for key, row in found.items() if not math.isnan(row[2])},
        lambda _, __, alone, many, guess: f"{alone:.2f} / {many:.2f} / {guess:.2f}",
    )
    plans()
    cost(options.seed)


if __name__ == "__main__":
    main()
