"""Labelled images together with what a model needs to read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .data import ImageFolder, open_folder
from .preprocess import Preprocess, find_preprocess
from .runner import Classifier, classifier_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ..model import Model


@dataclass(frozen=True)
class Images:
    """Images, their preprocessing, and the classifier that they are for.

    Attributes
    ----------
    folder
        Files and labels.
    preprocess
        What becomes of each file.
    classifier
        Input and output of the model.
    """

    folder: ImageFolder
    preprocess: Preprocess
    classifier: Classifier

    def sample(self, count: int = 32) -> list[dict[str, NDArray[Any]]]:
        """Feeds with about `count` images, spread evenly over the folder.

        A model of fixed batch size gets whole batches only.
        """
        size = self.classifier.batch or count
        number = max(size, count - count % size)
        pick = np.linspace(0, len(self.folder) - 1, number).astype(int)
        files = tuple(self.folder.files[i] for i in pick)
        part = replace(self.folder, files=files, labels=self.folder.labels[pick])
        batches = part.batches(self.preprocess, self.classifier.form, size)
        return [self.classifier.feeds(images) for images, _ in batches]


def open_images(model: Model, folder: str | Path, preprocess: str | Path | None = None) -> Images:
    """Find labelled images for a model.

    Parameters
    ----------
    model
        An image classifier. Its metadata may name its classes and its preprocessing.
    folder
        A folder of class folders, matched to the model's classes by name, by number, or in
        sorted order where the counts agree.
    preprocess
        A file with the keys of `preprocessor_config.json`; otherwise the model's metadata, or
        values scaled to [0, 1].

    Returns
    -------
    Images

    Raises
    ------
    ModelError
        If the model is not an image classifier.
    DataError
        If the folder holds no images, its classes are not the model's, or the preprocessing
        can't be read.
    """
    from pathlib import Path

    classifier = classifier_of(model)
    found = open_folder(folder, model.class_names, classifier.num_classes)
    settings = find_preprocess(model, None if preprocess is None else Path(preprocess))
    return Images(found, settings, classifier)
