"""Evidence of forgetting: two models, labelled images, and every attack on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from ..calibration.classifier import classifier_of
from ..editing.forgetting.classes import find_classes
from ..errors import DataError, UsageError
from . import attacks
from .accuracy import Accuracy, accuracy, goes_to, hidden
from .intervals import Share, share
from .observing import FIRST_CHANNEL, Seen, Subject, observe
from .recall import by_head_of, recall, reenabled
from .verdict import Limits, Test, Verdict, verdicts
from .witnesses import Membership, Witness, membership, strongest_witness

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ..calibration.data import Dataset
    from ..graph.view import Node
    from ..model import Model

    FloatArray = NDArray[np.float64]

FEWEST = 2
"""Images of a class: one to fit on, one to score."""
LAST = "last features"
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


@dataclass(frozen=True)
class Recall:
    """Forgotten images found after the recall attack.

    Attributes
    ----------
    logit
        With the statistics of the forgotten logits alone set to those of the original.
    own
        With those of all layers and of the logits.
    old_head
        By the original's head on the edited features as they are; None where they do not fit it.
    old_head_attacked
        The same on the attacked features.
    retain
        Accuracy on retained images, that the statistics are not from, with all attacked.
    attacked, skipped, images
        See `recall.Recalled`.
    """

    logit: Share
    own: Share
    old_head: Share | None
    old_head_attacked: Share | None
    retain: Share
    attacked: int
    skipped: int
    images: int


@dataclass(frozen=True)
class Probing:
    """What classifiers fitted on a model's features find of the forgotten images.

    Attributes
    ----------
    probes
        By tensor: a linear probe; see `attacks.probe`. The last features go by `LAST`.
    shots
        By images of each class: see `attacks.few_shots`.
    nearest
        Nearest class mean in the last features.
    """

    probes: Mapping[str, Share]
    shots: Mapping[int, Share]
    nearest: Share


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that was found.

    Attributes
    ----------
    classes
        The forgotten classes.
    class_names
        Of all classes.
    images
        How many there were.
    before, hidden, after
        Accuracy of the original, of the original with the forgotten logits hidden, and of the
        edited model. Hiding lifts accuracy on retained images by itself: what an edit costs is
        read against `hidden`.
    goes_to : int64 (forgotten, K)
        Where the edited model puts forgotten images.
    recall
        The recall attack.
    verdicts
        For each level.
    notes
        What could not be tested, and why.
    probed_before, probed_after, probed_reference
        Probes of the three models; None in brief evidence, and without a reference.
    membership_before, membership_after
        By confidence; None in brief evidence.
    witness_before, witness_after
        What tells the class apart most; None in brief evidence.
    """

    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    images: int
    before: Accuracy
    hidden: Accuracy
    after: Accuracy
    goes_to: NDArray[np.int64]
    recall: Recall
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    probed_before: Probing | None = None
    probed_after: Probing | None = None
    probed_reference: Probing | None = None
    membership_before: Membership | None = None
    membership_after: Membership | None = None
    witness_before: Witness | None = None
    witness_after: Witness | None = None

    @property
    def names(self) -> list[str]:
        """Names of the forgotten classes."""
        return [self.class_names[k] for k in self.classes]


def verify(
    original: Model,
    edited: Model,
    data: Dataset,
    classes: Sequence[int | str],
    *,
    reference: Model | None = None,
    members: Dataset | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    brief: bool = False,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 64,
) -> Evidence:
    """Gather the evidence.

    Parameters
    ----------
    original, edited
        The model before and after.
    data
        Labelled images that neither was made with, opened for the original.
    classes
        What was forgotten: indices or names.
    reference
        A model trained without the classes, of the same inputs.
    members
        Images of the forgotten classes that the original was trained on; others are left out.
    limits
        What the verdicts are held against.
    brief
        Accuracy and recall only.
    seed
        Of the few shots.
    device, batch_size
        As in `calibrate`.

    Raises
    ------
    UsageError
        If a class is unknown.
    DataError
        If the models do not fit each other or the images, or there are no images of some kind.
    ModelError
        If a model's output does not come from a linear layer.
    """
    forgotten = find_classes(data.class_names, classes)
    _require_images(data, forgotten)
    count = classifier_of(original).num_classes
    run = _Run(data, forgotten, seed, device, batch_size)
    old, new = (Subject.of(model, count, forgotten) for model in (original, edited))
    tensors = {} if brief else edited_tensors(old, new)
    before, after = run.seen(old, tensors), run.seen(new, tensors)
    recalled = run.recalled(old, new, before, after)
    tests = _tests(run.found(after.logits), recalled, limits)
    more: dict[str, Any] = {}
    if not brief:
        third = None if reference is None else Subject.of(reference, count, forgotten)
        more = run.more(old, new, third, before, after, tensors, members)
        if third is not None:
            tests += against_reference(more["probed_after"], more["probed_reference"], limits.gain)
    return Evidence(
        classes=tuple(forgotten),
        class_names=data.class_names,
        images=len(data),
        before=accuracy(before.logits, before.labels, forgotten),
        hidden=accuracy(hidden(before.logits, forgotten), before.labels, forgotten),
        after=accuracy(after.logits, after.labels, forgotten),
        goes_to=goes_to(after.logits, after.labels, forgotten),
        recall=recalled,
        verdicts=verdicts(tests),
        notes=tuple(_notes(recalled, reference is None, members is None, brief)),
        **more,
    )


def edited_tensors(original: Subject, edited: Subject) -> dict[str, int]:
    """Outputs of layers that have other constants than the original's, and their channel axes.

    The head's own output is left out: it holds the logits, which the other tests are about.
    """
    found = {}
    old = original.view.producer
    for node in edited.view.nodes:
        if node.domain or node.op not in LAYERS or node.outputs[0] not in old:
            continue
        if node.outputs[0] == edited.head.node or node.outputs[0] not in edited.view.varying:
            continue
        if _constants(edited, node) != _constants(original, old[node.outputs[0]]):
            found[node.outputs[0]] = 1 if node.op in FIRST_CHANNEL else -1
    return found


def _constants(subject: Subject, node: Node) -> list[tuple[tuple[int, ...], bytes]]:
    """Shapes and bytes of what a node reads that is constant."""
    held = subject.view.initializers
    arrays = [numpy_helper.to_array(held[name]) for name in node.inputs if name in held]
    return [(array.shape, array.tobytes()) for array in arrays]


def _require_images(data: Dataset, forgotten: Sequence[int]) -> None:
    data.require_labels("evidence of forgetting")
    if data.predicted:
        raise UsageError("the model's own labels are no evidence; use --labels given")
    counts = np.bincount(data.labels, minlength=len(data.class_names))
    missing = [data.class_names[k] for k in forgotten if counts[k] < FEWEST]
    if missing:
        raise DataError(
            f"fewer than {FEWEST} images of {', '.join(missing)}: nothing can be said of what is "
            "left of it; give images of the forgotten class too"
        )
    if np.delete(counts, list(forgotten)).max(initial=0) < FEWEST:
        raise DataError("no images of classes that were to stay; give some of those too")


@dataclass(frozen=True, eq=False)
class _Run:
    """Images and settings."""

    data: Dataset
    forgotten: list[int]
    seed: int
    device: str
    batch_size: int

    def found(self, logits: FloatArray) -> Share:
        """Share of the forgotten images that are put into a forgotten class."""
        inside = np.isin(self.data.labels, self.forgotten)
        return share(np.isin(logits[inside].argmax(axis=1), self.forgotten))

    def seen(self, subject: Subject, tensors: Mapping[str, int]) -> Seen:
        """What a model makes of the images."""
        return observe(subject, self.data, tensors, device=self.device, batch_size=self.batch_size)

    def recalled(self, old: Subject, new: Subject, before: Seen, after: Seen) -> Recall:
        """The attack, with the statistics of one half of the retained images."""
        data, labels = self.data, self.data.labels
        retained = ~np.isin(labels, self.forgotten)
        used = attacks.halves(labels) & retained
        attacked = recall(old, new, data.take(np.flatnonzero(used)), self.device, self.batch_size)
        seen = self.seen(attacked.subject, {})
        logits = reenabled(seen.logits, before.logits, used, self.forgotten)
        plain, again = (by_head_of(old, part.last) for part in (after, seen))
        others = retained & ~used
        return Recall(
            logit=self.found(reenabled(after.logits, before.logits, used, self.forgotten)),
            own=self.found(logits),
            old_head=None if plain is None else self.found(plain),
            old_head_attacked=None if again is None else self.found(again),
            retain=share(logits[others].argmax(axis=1) == labels[others]),
            attacked=attacked.attacked,
            skipped=attacked.skipped,
            images=attacked.images,
        )

    def more(
        self,
        old: Subject,
        new: Subject,
        reference: Subject | None,
        before: Seen,
        after: Seen,
        tensors: Mapping[str, int],
        members: Dataset | None,
    ) -> dict[str, Any]:
        """What brief evidence leaves out, by the names of `Evidence`."""
        more: dict[str, Any] = {"probed_reference": None}
        if reference is not None:
            known = reference.view.producer
            shared = {name: axis for name, axis in tensors.items() if name in known}
            more["probed_reference"] = self.probed(self.seen(reference, shared))
        for when, subject, seen in (("before", old, before), ("after", new, after)):
            more[f"probed_{when}"] = self.probed(seen)
            more[f"membership_{when}"] = self.membership(subject, seen, members)
            more[f"witness_{when}"] = strongest_witness(
                subject, self.data, self.forgotten, self.device, self.batch_size
            )
        return more

    def probed(self, seen: Seen) -> Probing:
        """Classifiers fitted on features."""
        labels, gone = seen.labels, self.forgotten
        means = {**seen.means, LAST: seen.last}
        return Probing(
            {name: attacks.probe(x, labels, gone) for name, x in means.items()},
            attacks.few_shots(seen.last, labels, gone, self.seed),
            attacks.nearest(seen.last, labels, gone),
        )

    def membership(self, subject: Subject, seen: Seen, members: Dataset | None) -> Membership:
        """The attack by confidence."""
        logits = None
        if members is not None:
            inside = np.flatnonzero(np.isin(members.labels, self.forgotten))
            if not len(inside):
                raise DataError("--members has no images of the forgotten class; give some")
            own = members.take(inside)
            logits = observe(subject, own, device=self.device, batch_size=self.batch_size).logits
        return membership(logits, seen.logits, seen.labels, self.forgotten)


def _tests(plain: Share, recalled: Recall, limits: Limits) -> list[Test]:
    """Those that need no reference."""
    tests = [
        Test("output", "forget accuracy", plain.value, limits.forget),
        Test("head", "logit re-enabled", recalled.logit.value, limits.recall),
        Test("features", "recall attack", recalled.own.value, limits.recall),
    ]
    for name, old in (
        ("the original's head", recalled.old_head),
        ("recall attack and the original's head", recalled.old_head_attacked),
    ):
        if old is not None:
            tests.append(Test("features", name, old.value, limits.recall))
    return tests


def against_reference(after: Probing, reference: Probing, most: float) -> list[Test]:
    """How much more is found than in a model that never saw the class."""
    tests = [
        Test("features", f"linear probe at {name} above the reference",
             found.value - reference.probes[name].value, most)
        for name, found in after.probes.items() if name in reference.probes
    ]  # fmt: skip
    tests += [
        Test("features", f"{k}-shot head above the reference",
             found.value - reference.shots[k].value, most)
        for k, found in after.shots.items() if k in reference.shots
    ]  # fmt: skip
    gain = after.nearest.value - reference.nearest.value
    return [*tests, Test("features", "nearest class mean above the reference", gain, most)]


def _notes(recalled: Recall, alone: bool, no_members: bool, brief: bool) -> Iterator[str]:
    """What could not be tested."""
    if recalled.skipped:
        yield (
            f"{recalled.skipped} layers were left out of the recall attack: their channels are not "
            "those of the original, or they have no bias to shift"
        )
    if recalled.old_head is None:
        yield "the original's head does not fit the edited features, and was not tried on them"
    if brief:
        yield "probes, few shots, membership and witnesses were not tried; verify-forget does"
        return
    if alone:
        yield (
            "without a model retrained without the class, probes and few shots have no reference "
            "and decide nothing: models that never saw a class can often be probed for it too"
        )
    if no_members:
        yield (
            "without training images, membership could not be tested: confidence compares the "
            "class with others instead"
        )
