"""Calibration against plain inference, and against the two usual ways to look at activations.

    python benchmarks/calibration.py [--device cpu] [--runs 9] [--images 50000]

Random weights in the shapes of ResNet-50 (224 x 224, batch 16) and ResNet-20 (32 x 32, batch 128),
random images, one batch again and again: no data loading in anything. Everything that is compared
is measured in this one run. Prints Markdown.

Calibration is what `calibrate` does, from the images to moments and histograms, batch after batch;
what is done once, before the first one and after the last, is left out. It runs parts of a batch
side by side. So does "plain, in parts", beside the plain run of whole batches.

1. Time over plain inference: runs of each kind take turns in one process, medians of the ratios of
   neighbours.
2. The same taps as full outputs with NumPy reductions, and in `onnxruntime.quantization`'s
   calibraters: time a batch, peak memory, bytes fetched; every way in a process of its own, three
   of each that take turns, medians.
3. Peak memory by the number of images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
from calibration_models import resnet20, resnet50

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 10
SEED = 0
TURNS = 3
"""Processes of each way; they take turns, and medians of what stood side by side are told."""

SPARE = 2
"""Batches behind those that are timed."""
FOUR = ("mean", "rms", "mean_square", "max", "positive")


@dataclass(frozen=True)
class Case:
    """A model, the batch that it is run on, and how often."""

    name: str
    make: Callable[[], onnx.ModelProto]
    shape: tuple[int, ...]
    batches: int

    def feeds(self) -> dict[str, np.ndarray]:
        """A batch of random images."""
        values = np.random.default_rng(SEED).normal(size=self.shape)
        return {"image": values.astype(np.float32)}


CASES = {
    "ResNet-50": Case("ResNet-50", resnet50, (16, 3, 224, 224), 4),
    "ResNet-20": Case("ResNet-20", resnet20, (128, 3, 32, 32), 20),
}


@dataclass(frozen=True, eq=False)
class Repeated:
    """A source of samples that holds one batch, again and again."""

    feeds: dict[str, np.ndarray]
    batches: int
    name: str = "images"
    preparation: tuple[str, str] = ("none", "benchmark")
    uniform: bool = True

    @property
    def labels(self) -> Any:
        """Classes that take turns."""
        from discedit_onnx.calibration.classes import GivenLabels

        return GivenLabels.of_array(np.arange(len(self)) % CLASSES, self.name)

    def __len__(self) -> int:
        return self.batches * len(self.feeds["image"])

    def start(self, index: np.ndarray, pool: Any) -> Callable[[], dict[str, np.ndarray]]:
        """Nothing to be waited for."""
        rows = index % len(self.feeds["image"])
        whole = np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
        some = slice(rows[0], rows[0] + len(rows)) if whole else rows
        return lambda: {name: values[some] for name, values in self.feeds.items()}


class Way(Protocol):
    """One way to run a model on a batch, again and again."""

    fetched: int
    """Bytes that come out of the graph for a batch."""

    def seconds(self) -> float:
        """Run some batches; how long one took."""


class Loop:
    """Batch after batch.

    Parameters
    ----------
    case
        Says how many.
    step
        Takes a batch and returns the bytes that came out of the graph.
    """

    def __init__(self, case: Case, step: Callable[[dict[str, np.ndarray]], int]) -> None:
        self._step, self._feeds, self._batches = step, case.feeds(), case.batches
        self.fetched = step(self._feeds)

    def seconds(self) -> float:
        """Run the batches."""
        start = time.perf_counter()
        for _ in range(self._batches):
            self._step(self._feeds)
        return (time.perf_counter() - start) / self._batches


class Calibration:
    """What `calibrate` does with a model, without a data source."""

    def __init__(self, case: Case, device: str, features: Any, second: bool) -> None:
        from discedit_onnx.calibration.classifier import classifier_of
        from discedit_onnx.calibration.data import Dataset
        from discedit_onnx.calibration.gathering import Wanted, open_run, plan_run
        from discedit_onnx.model import load

        self._folder = tempfile.TemporaryDirectory()  # the model is read again for its hash
        path = Path(self._folder.name) / "model.onnx"
        onnx.save(case.make(), path)
        model = load(path)
        source = Repeated(case.feeds(), 1 + case.batches + SPARE)
        index, names = np.arange(len(source)), tuple(map(str, range(CLASSES)))
        data = Dataset(source, classifier_of(model), names, index % CLASSES, index, {})
        taps, wanted = taps_of(model.proto), Wanted(features=features, second=second)
        self._size = case.shape[0]
        self._run = plan_run(model, data, taps, wanted, batch_size=self._size)
        self._tapped = open_run(model, self._run, device=device)
        self.fetched = self._fetched(source.feeds)

    def seconds(self) -> float:
        """Gather moments; what is timed begins and ends with as many parts under way."""
        from discedit_onnx.calibration.gathering import gather

        ticks: dict[int, float] = {}
        gather(
            self._run, self._tapped,
            progress=lambda done, _: ticks.update({done: time.perf_counter()}),
        )  # fmt: skip
        first, last = self._size, max(ticks) - SPARE * self._size
        return (ticks[last] - ticks[first]) / (last - first) * self._size

    def _fetched(self, feeds: dict[str, np.ndarray]) -> int:
        """Scalars and scores of a batch: as many for each image."""
        from discedit_onnx.calibration.taps import statistics_of

        seen = self._tapped.observe({name: values[:1] for name, values in feeds.items()})
        assert seen.scores is not None
        kinds = len(statistics_of(self._tapped.features))
        return self._size * (seen.scores.nbytes + kinds * seen.features[:, :, 0].nbytes)


class Parts:
    """The plain model on halves of batches, side by side, as calibration runs them."""

    fetched = 0

    def __init__(self, case: Case, device: str) -> None:
        from discedit_onnx.calibration.session import cores, open_session

        self._lanes = cores()
        self._session = open_session(case.make(), device, shared=True, lanes=self._lanes)
        self._pool = ThreadPoolExecutor(self._lanes)
        self._feeds, self._batches = case.feeds(), case.batches

    def seconds(self) -> float:
        """Run the batches."""
        start = time.perf_counter()
        parts = np.array_split(self._feeds["image"], self._lanes) * self._batches
        list(self._pool.map(lambda x: self._session.run(["logits"], {"image": x}), parts))
        return (time.perf_counter() - start) / self._batches


def plain(model: onnx.ModelProto, device: str) -> Callable[[dict[str, np.ndarray]], int]:
    """The model as it is."""
    from discedit_onnx.calibration.session import open_session

    session = open_session(model, device, shared=True)  # as calibration opens it
    return lambda feeds: sum(out.nbytes for out in session.run(["logits"], feeds))


def full_outputs(model: onnx.ModelProto, device: str) -> Callable[[dict[str, np.ndarray]], int]:
    """Every tapped tensor as an output, reduced by NumPy to the same features."""
    from discedit_onnx.calibration.session import open_session

    taps = taps_of(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(t.tensor) for t in taps)
    session = open_session(copy, device, shared=True)

    def step(feeds: dict[str, np.ndarray]) -> int:
        found = session.run(["logits", *(tap.tensor for tap in taps)], feeds)
        for tap, x in zip(taps, found[1:], strict=True):
            if tap.reduced:
                np.mean(x, axis=tap.reduced)
                np.sqrt(np.mean(np.square(x), axis=tap.reduced))
        return sum(out.nbytes for out in found)

    return step


def quantizers(model: onnx.ModelProto, kind: str) -> Callable[[dict[str, np.ndarray]], int]:
    """The calibraters of `onnxruntime.quantization`, on the same tensors."""
    from onnxruntime.quantization import calibrate

    tensors = {tap.tensor for tap in taps_of(model)}
    base = {"minmax": calibrate.MinMaxCalibrater, "histogram": calibrate.HistogramCalibrater}[kind]

    class Same(base):  # type: ignore[misc, valid-type]
        """Of the tapped tensors."""

        def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> Any:
            _, infos = super().select_tensors_to_calibrate(model)
            return set(tensors), infos

    folder = Path(tempfile.mkdtemp())
    onnx.save(model, folder / "model.onnx")
    found = Same(folder / "model.onnx", augmented_model_path=str(folder / "augmented.onnx"))
    found.augment_graph()
    found.set_execution_providers(["CPUExecutionProvider"])
    outputs = found.infer_session.get_outputs()

    def step(feeds: dict[str, np.ndarray]) -> int:
        reader = iter([feeds])
        found.collect_data(type("R", (calibrate.CalibrationDataReader,), {
            "get_next": lambda self: next(reader, None)})())  # fmt: skip
        if kind == "minmax":
            return 4 * 2 * len(tensors)
        size = len(feeds["image"])
        shapes = [[d if isinstance(d, int) else size for d in out.shape] for out in outputs]
        return sum(4 * int(np.prod(shape)) for shape in shapes)

    return step


def taps_of(model: onnx.ModelProto) -> Any:
    """The taps of `discedit-onnx calibrate`."""
    from discedit_onnx.calibration.placement import place_taps
    from discedit_onnx.graph.axes import Reach
    from discedit_onnx.graph.coupling import analyse

    reaches = (Reach(inexact=True), Reach(inexact=True, inside_heads=True))
    return place_taps(*(analyse(model, reach) for reach in reaches))


def make(case: Case, way: str, device: str) -> Way:
    """One of the ways by name."""
    from discedit_onnx.calibration.taps import GATHERED

    return {
        "plain inference": lambda: Loop(case, plain(case.make(), device)),
        "plain, in parts": lambda: Parts(case, device),
        "calibrate": lambda: Calibration(case, device, GATHERED, False),
        "all scalars": lambda: Calibration(case, device, FOUR, False),
        "second moments": lambda: Calibration(case, device, GATHERED, True),
        "full outputs, NumPy": lambda: Loop(case, full_outputs(case.make(), device)),
        "quantization MinMax": lambda: Loop(case, quantizers(case.make(), "minmax")),
        "quantization Histogram": lambda: Loop(case, quantizers(case.make(), "histogram")),
    }[way]()


def ratios(case: Case, device: str, runs: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each way, and its ratio to the plain run beside it: medians."""
    from discedit_onnx.calibration.session import cores

    ways = ["plain inference", "calibrate", "all scalars", "second moments"]
    if device == "cpu" and cores() > 1:
        ways.insert(1, "plain, in parts")
    made = {way: make(case, way, device) for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(runs + 1):
        for way, found in made.items():
            seconds = found.seconds()
            if number:  # the first one warms up
                times[way].append(seconds)
    base = times["plain inference"]
    return {
        way: (
            1000 * statistics.median(found),
            statistics.median(a / b for a, b in zip(found, base, strict=True)),
        )
        for way, found in times.items()
    }


def alone(case: Case, way: str, device: str) -> dict[str, float]:
    """In this process: seconds a batch, bytes fetched, and peak memory."""
    made = make(case, way, device)
    return {"seconds": made.seconds(), "fetched": made.fetched, "peak": peak_memory()}


def peak_memory() -> float:
    """Most bytes of this process in memory; `getrusage` would count its parent's as well."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024.0 * int(line.split()[1])


def in_a_process(case: Case, way: str, device: str, batches: int) -> dict[str, float]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--case", case.name, "--way", way]
    command += ["--batches", str(batches), "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def beside(turn: dict[str, dict[str, float]], way: str) -> tuple[float, float, float, float]:
    """Seconds, over those of calibration, and peak memory, over that of the plain run."""
    one, ours, base = turn[way], turn["calibrate"], turn["plain inference"]
    return (
        one["seconds"],
        one["seconds"] / ours["seconds"],
        one["peak"],
        one["peak"] / base["peak"],
    )


def report(device: str, runs: int, images: int) -> None:
    """Measure everything and print it."""
    import onnxruntime

    cores = len(os.sched_getaffinity(0))
    print(f"{platform.system()} {platform.machine()}, {cores} cores, Python "
          f"{platform.python_version()}, onnxruntime {onnxruntime.__version__}, NumPy "
          f"{np.__version__}, device {device}, seed {SEED}\n")  # fmt: skip
    print("| model | batch | | ms a batch | over plain |\n|---|---|---|---|---|")
    for case in CASES.values():
        for way, (ms, ratio) in ratios(case, device, runs).items():
            print(f"| {case.name} | {case.shape[0]} | {way} | {ms:.1f} | {ratio:.2f} |", flush=True)
    print("\n| model | | ms a batch | slower than calibrate | peak MB | over plain | MB fetched |")
    print("|---|---|---|---|---|---|---|")
    ways = ["plain inference", "calibrate", "full outputs, NumPy"]
    ways += ["quantization MinMax", "quantization Histogram"] if device == "cpu" else []
    for case in CASES.values():
        turns = [
            {way: in_a_process(case, way, device, case.batches) for way in ways}
            for _ in range(TURNS)
        ]
        for way in ways:
            seconds, slower, peak, over = (
                statistics.median(values)
                for values in zip(*(beside(turn, way) for turn in turns), strict=True)
            )
            print(
                f"| {case.name} | {way} | {1000 * seconds:.1f} | {slower:.2f} x "
                f"| {peak / 2**20:.0f} | {100 * (over - 1):+.1f} % "
                f"| {turns[0][way]['fetched'] / 2**20:.2f} |",
                flush=True,
            )
    case = CASES["ResNet-20"]
    few, many = (
        in_a_process(case, "calibrate", device, max(number // case.shape[0], 1))["peak"]
        for number in (1000, images)
    )
    print(
        f"\nPeak memory of {case.name} at 1,000 images {few / 2**20:.1f} MB, at {images:,} "
        f"{many / 2**20:.1f} MB: {100 * (many / few - 1):+.1f} %."
    )


def main() -> None:
    """Parse the options; one way alone is what `in_a_process` asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--way")
    parser.add_argument("--batches", type=int, default=1)
    options = parser.parse_args()
    if options.way:
        case = replace(CASES[options.case], batches=options.batches)
        print(json.dumps(alone(case, options.way, options.device)))
    else:
        report(options.device, options.runs, options.images)


if __name__ == "__main__":
    main()
