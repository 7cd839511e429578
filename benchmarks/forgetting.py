"""Forgetting each class in turn: levels, removal and baselines, with the attacks on each.

    python benchmarks/forgetting.py                       # the sample ResNet-20
    python benchmarks/forgetting.py --model M.onnx --calibration DIR --test DIR [--preprocess FILE]

Calibrated on a seeded choice of the calibration images, measured on all test images. Prints
Markdown: means over classes, and their standard deviation over seeds; ways that look at no image
run once, baselines with the first seed only. With `--rows FILE` each measurement is kept as it
comes, and what is there is not measured again.

RA is the accuracy on the retained classes when the class's logit is hidden in the original: the
free gain of a smaller problem. "Recall": the class after each channel's statistics, and its
logit's, were set back to the original's on retained images. "Old head": the original head on the
edited features. The probe and the ten-shot head are fitted on the last features of half of the test
images and scored on the others. Seconds are of the processor, in one thread, moments given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from forgetting_tails import Kept, logits

import discedit_onnx as dx
from discedit_onnx.editing.edit import carry_out
from discedit_onnx.editing.forgetting.components import Amount
from discedit_onnx.editing.forgetting.way import Way
from discedit_onnx.evidence.attacks import few_shots, probe
from discedit_onnx.evidence.observing import Seen, Subject, observe
from discedit_onnx.evidence.recall import by_head_of, recall, reenabled
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.graph.view import weight_tensors
from discedit_onnx.scoring.weights import chance, magnitude

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.editing.edit import Edit
    from discedit_onnx.model import Model

SAMPLES = Path(__file__).parents[1] / "sample_models"
PER_CLASS, SHOTS, BATCH = 100, 10, 100
RECALLED = 35
"""Of the calibration images of each class, how many the recall attack takes its statistics from."""
PUBLISHED = Way(
    method="components", witness="exponential", amount=Amount("count", 3), refit=False,
    keep_head=True,
)  # fmt: skip
"""DisCEdit-U done right: the exponential witness, so many of each layer, signed, zeroed."""

ROUND_TO = 4
"""Multiples of channels that are left, as `forget --remove` does on a CPU."""
WAYS: dict[str, tuple[Way, bool]] = {
    "level output": (Way("output"), False),
    "level head (head projection alone)": (Way("head"), False),
    "level features": (Way(), True),
    "level features, moments only": (Way(), False),
    "channels removed": (Way(remove=True, round_to=ROUND_TO), True),
    "channels removed, moments only": (Way(remove=True, round_to=ROUND_TO), False),
    "DisCEdit-U, refitted, level head": (Way(method="components"), False),
    "LEACE, level head": (Way(method="leace"), True),
    "SVD projection alone": (Way(method="svd", keep_head=True), True),
    "DisCEdit-U as published": (PUBLISHED, False),
}
"""Name to how, and whether images are given to find the strength by."""
BASELINES = {"random components": chance, "smallest L1": lambda coupling, _: magnitude(coupling, 1)}
"""As many of each group as DisCEdit-U as published zeroes."""
FOUND_BY, REMOVED = "level features", "channels removed"
ORIGINAL = "the original"


@dataclass(frozen=True)
class Row:
    """One class, one seed; all in per cent but strength and seconds. NaN: can't be had."""

    forget: float
    from_ra: float
    from_base: float
    recall: float
    old_head: float
    recall_old_head: float
    probe: float
    shots: float
    changed: float
    parameters: float
    strength: float
    seconds: float


class Trials:
    """A model, its test images, and what was measured once for all."""

    def __init__(self, model: Model, test: Dataset) -> None:
        self.model, self.test = model, Kept(model, test)
        self.labels = test.labels
        self.classes = len(test.class_names)
        last = self.test.places[-1]
        self.original = logits(self.test.tail(model, last), self.test.data(last))

    def reference(self, gone: int) -> tuple[float, float]:
        """Retained accuracy of the original as it is, and with the class's logit hidden."""
        inside, hidden = self.labels == gone, self.original.copy()
        hidden[:, gone] = -np.inf
        return self.right(self.original)[~inside].mean(), self.right(hidden)[~inside].mean()

    def right(self, values: np.ndarray) -> np.ndarray:
        """Which test images are put into their class."""
        return values.argmax(axis=1) == self.labels

    def row(self, gone: int, known: Kept, make: Callable[[], Edit] | None) -> Row:
        """Measure what an edit does; None edits nothing. `known` are images to attack with."""
        began = time.process_time()
        edit = None if make is None else make()
        seconds = time.process_time() - began
        model = self.model if edit is None else replace(self.model, proto=edit.proto)
        place = self.test.place_of(model.proto)
        new = Subject.of(self.test.tail(model, place), self.classes, [gone])
        old = Subject.of(self.test.tail(self.model, place), self.classes, [gone])
        data, inside = self.test.data(place), self.labels == gone
        seen = observe(new, data, batch_size=BATCH)
        right = self.right(seen.logits)
        base, ra = self.reference(gone)
        others = known.data(place).take(np.flatnonzero(known.labels != gone))
        own, owned = self.recalled(old, new, others, data, gone)
        before, after = (1, 1) if edit is None else edit.parameters
        return Row(
            forget=100 * right[inside].mean(),
            from_ra=100 * (right[~inside].mean() - ra),
            from_base=100 * (right[~inside].mean() - base),
            recall=own,
            old_head=self.by_old_head(old, seen, gone),
            recall_old_head=owned,
            probe=100 * probe(seen.last, self.labels, [gone]).value,
            shots=100 * few_shots(seen.last, self.labels, [gone])[SHOTS].value,
            changed=100 * changed(edit),
            parameters=100 * (1 - min(after, before) / before),
            strength=getattr(edit, "strength", None) or 0.0,
            seconds=seconds,
        )

    @staticmethod
    def by_old_head(old: Subject, seen: Seen, gone: int) -> float:
        """Share of the class that the original head finds in features; NaN where it can't read."""
        values, inside = by_head_of(old, seen.last), seen.labels == gone
        return np.nan if values is None else 100 * (values[inside].argmax(axis=1) == gone).mean()

    def recalled(
        self, old: Subject, new: Subject, retained: Dataset, test: Dataset, gone: int
    ) -> tuple[float, float]:
        """The class after the recall attack, by the model's own head and by the original's."""
        attacked = recall(old, new, retained, "cpu", BATCH).subject
        inside = test.take(np.flatnonzero(self.labels == gone))
        known, found = (observe(attacked, part, batch_size=BATCH) for part in (retained, inside))
        known_before = observe(old, retained, batch_size=BATCH).logits
        values = np.concatenate([known.logits, found.logits])
        before = np.concatenate([known_before, np.zeros_like(found.logits)])
        used = np.arange(len(values)) < len(known.logits)
        again = reenabled(values, before, used, [gone])[~used]
        return 100 * (again.argmax(axis=1) == gone).mean(), self.by_old_head(old, found, gone)


def changed(edit: Edit | None) -> float:
    """Share of the parameters that have other values, or are zeroed."""
    if edit is None or hasattr(edit, "changed"):
        return getattr(edit, "changed", 0.0)
    tensors = weight_tensors(edit.source.proto)
    total = sum(np.prod(t.dims) for t in tensors.values() if t.dims)
    sizes = [(tensors[z.tensor].dims, z) for z in edit.plan.zeros]
    return sum(len(z.indices) * int(np.prod(d)) // d[z.axis] for d, z in sizes) / total


def subset(data: Dataset, per_class: int, seed: int) -> Dataset:
    """A seeded choice of images, equally many of each class."""
    generator = np.random.default_rng(seed)
    picks = [
        generator.permutation(np.flatnonzero(data.labels == k))[:per_class]
        for k in range(len(data.class_names))
    ]
    return data.take(np.sort(np.concatenate(picks)))


def baseline(model: Model, like: Edit, rank: Callable, seed: int) -> Edit:
    """As many components as another edit silenced, of the same groups, by another rule."""
    coupling = analyse(model.proto)
    values = rank(coupling, seed)
    chosen = np.zeros(coupling.size, dtype=bool)
    for group in coupling.groups:
        count = int(like.components[group.components].sum())
        chosen[group.components[np.argsort(values[group.components])[:count]]] = True
    return carry_out(model, coupling, chosen & coupling.silenceable, remove=False, device="cpu")


def maker(
    model: Model,
    moments: Moments,
    images: Dataset,
    log: Log,
    key: tuple[str, int, int],
) -> Callable[[], Edit] | None:
    """What makes the edit of a row; the search for a strength is not done again for removal."""
    name, gone, seed = key
    if name == ORIGINAL:
        return None
    if name in BASELINES:
        like = dx.forget(model, moments, [gone], PUBLISHED, device="cpu")
        return lambda: baseline(model, like, BASELINES[name], seed)
    way, given = WAYS[name]
    data = images if given else None
    known = log.rows.get((FOUND_BY, gone, seed))
    if name == REMOVED and known is not None:
        way = replace(way, strength=known.strength)
    return lambda: dx.forget(model, moments, [gone], way, data=data, device="cpu")


class Log:
    """Rows by name, class and seed; kept in a file where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.rows = path, {}
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                name, gone, seed, fields = json.loads(line)
                self.rows[name, gone, seed] = Row(**fields)

    def add(self, key: tuple[str, int, int], row: Row) -> None:
        self.rows[key] = row
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps([*key, asdict(row)]) + "\n")

    def means(self, name: str, field: str) -> np.ndarray:
        """Means over classes, one for each seed."""
        found: dict[int, list[float]] = {}
        for (known, _, seed), row in self.rows.items():
            if known == name:
                found.setdefault(seed, []).append(getattr(row, field))
        return np.array([np.mean(values) for _, values in sorted(found.items())])

    def worst(self, name: str) -> float:
        """The class that most is left of, by its mean over seeds."""
        found: dict[int, list[float]] = {}
        for (known, gone, _), row in self.rows.items():
            if known == name:
                found.setdefault(gone, []).append(row.forget)
        return max(np.mean(values) for values in found.values())


def cell(values: np.ndarray, form: str) -> str:
    """Mean, and standard deviation over seeds where there are several."""
    if np.isnan(values).any():
        return ""
    spread = f" ± {format(values.std(ddof=1), form.lstrip('+'))}" if len(values) > 1 else ""
    return format(values.mean(), form) + spread


def table(log: Log, names: Iterable[str]) -> None:
    """Means over classes; the worst class by its mean over seeds."""
    print(
        "| | classes x seeds | forget | worst class | retain from RA | from base | recall "
        "| old head | recall, old head | linear probe | 10 shots | weights changed "
        "| parameters gone | strength | s |\n|---" + "|---" * 14 + "|"
    )
    forms = {"from_ra": "+.2f", "from_base": "+.2f", "strength": ".2f"}
    for name in names:
        cells = {
            field: cell(log.means(name, field), forms.get(field, ".1f"))
            for field in Row.__dataclass_fields__
        }
        forget, *rest = cells.values()
        runs = [key[1:] for key in log.rows if key[0] == name]
        many = f"{len({gone for gone, _ in runs})} x {len({seed for _, seed in runs})}"
        print("|", " | ".join([name, many, forget, f"{log.worst(name):.1f}", *rest]), "|")
    print(flush=True)


def against_retrained(trials: Trials, test: Dataset, log: Log, retrained: list[str]) -> None:
    """Probe and ten shots of each row beside those of models that never saw the class."""
    print("| class | model | linear probe | 10 shots |\n|---|---|---|---|")
    for item in retrained:
        gone, path = int(item.partition("=")[0]), item.partition("=")[2]
        subject = Subject.of(dx.load(path), trials.classes, [gone])
        seen = observe(subject, test, device="cpu", batch_size=BATCH)
        own = probe(seen.last, test.labels, [gone]), few_shots(seen.last, test.labels, [gone])
        rest = test.labels != gone
        top = 100 * (seen.logits[rest].argmax(axis=1) == test.labels[rest]).mean()
        label = f"retrained without it ({top:.2f} % on the others)"
        name = test.class_names[gone]
        print(f"| {name} | {label} | {100 * own[0].value:.1f} | {100 * own[1][SHOTS].value:.1f} |")
        for known in dict.fromkeys(key[0] for key in log.rows if key[1] == gone):
            rows = [row for key, row in log.rows.items() if key[:2] == (known, gone)]
            means = (np.mean([getattr(r, field) for r in rows]) for field in ("probe", "shots"))
            print("|", " | ".join([name, known, *(f"{mean:.1f}" for mean in means)]), "|")
    print(flush=True)


def curve(trials: Trials, moments: Moments, classes: list[int]) -> None:
    """The whole trade-off: strength against the class (old head) and the others."""
    print("| strength | forget, without level head | retain from RA |\n|---|---|---|")
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0):
        way = Way(keep_head=True, strength=strength)
        found = []
        for gone in classes:
            inside = trials.labels == gone
            edit = dx.forget(trials.model, moments, [gone], way, device="cpu")
            place = trials.test.place_of(edit.proto)
            edited = trials.test.tail(replace(trials.model, proto=edit.proto), place)
            values = logits(edited, trials.test.data(place))
            forget = trials.right(values)[inside].mean()
            values[:, gone] = -np.inf
            drop = trials.right(values)[~inside].mean() - trials.reference(gone)[1]
            found.append((100 * forget, 100 * drop))
        forget, drop = np.mean(found, axis=0)
        print(f"| {strength:g} | {forget:.1f} | {drop:+.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SAMPLES / "fashion_resnet20.onnx")
    parser.add_argument("--calibration", default=SAMPLES / "fashion_mnist/calibration")
    parser.add_argument("--test", default=SAMPLES / "fashion_mnist/test")
    parser.add_argument("--preprocess", help="for both folders, unless the model says it")
    parser.add_argument("--classes", default="", help="indices with commas; all unless given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", default="", help="names of rows, with semicolons")
    parser.add_argument("--rows", type=Path, help="measurements, kept as they come")
    parser.add_argument("--retrained", nargs="*", default=[], metavar="CLASS=MODEL")
    parser.add_argument("--curve", action="store_true", help="the whole trade-off, too")
    args = parser.parse_args()
    model = dx.load(args.model)
    pool, test = (
        dx.open_data(model, folder, preprocess=args.preprocess)
        for folder in (args.calibration, args.test)
    )
    classes = [int(k) for k in args.classes.split(",") if k] or list(range(len(test.class_names)))
    known = [ORIGINAL, *WAYS, *BASELINES]
    wanted = [name.strip() for name in args.ways.split(";") if name.strip()] or known
    trials, log = Trials(model, test), Log(args.rows)
    print(
        f"{args.model.name}: top-1 {100 * trials.right(trials.original).mean():.2f} % on "
        f"{len(test):,} test images; classes {classes}, {args.seeds} seeds, {PER_CLASS} images a "
        f"class; {platform.machine()}, {os.cpu_count()} cores, ONNX Runtime "
        f"{onnxruntime.__version__}, NumPy {np.__version__}\n",
        flush=True,
    )
    for seed in range(args.seeds):
        calibration = subset(pool, PER_CLASS, seed)
        moments = dx.calibrate(model, calibration, device="cpu")
        known = Kept(model, subset(calibration, RECALLED, seed))
        for gone in classes:
            for key in ((name, gone, seed) for name in wanted):
                if key not in log.rows:
                    make = maker(model, moments, calibration, log, key)
                    log.add(key, trials.row(gone, known, make))
    table(log, dict.fromkeys(key[0] for key in log.rows))
    if args.retrained:
        against_retrained(trials, test, log, args.retrained)
    if args.curve:
        images = subset(pool, PER_CLASS, 0)
        curve(trials, dx.calibrate(model, images, device="cpu"), classes)


if __name__ == "__main__":
    main()
