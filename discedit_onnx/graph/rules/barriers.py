"""Operators that are pinned on purpose, with the reason.

Components get through none of them: because the result depends on all components together, or on
their positions; because they can't carry a number to what they make; or because no network that is
trained and deployed holds components there. A reason completes "<operator> <name> ...".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..shapes import CLASSICAL
from .elementwise import unary
from .registry import barriers, rule

if TYPE_CHECKING:
    from ..scope import Scope

SEQUENCE = "works on a sequence, not on a tensor"
OPTIONAL = "works on an optional, not on a tensor"
TEXT = "works on text"
RANDOM = "makes random numbers"
TRAINING = "is for training"
SIGNAL = "transforms a signal as a whole"
INTEGER = "works on integers whose zero is not 0"

barriers(
    {
        "If": "chooses between subgraphs",
        "Loop": "repeats a subgraph",
        "Scan": "repeats a subgraph",
        "SequenceMap": "repeats a subgraph",
    }
)

barriers(
    dict.fromkeys(
        ("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
         "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence"),
        SEQUENCE,
    )
    | dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), OPTIONAL)
    | dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        TEXT,
    )
    | dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
         "RandomUniformLike"),
        RANDOM,
    )
    | dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), TRAINING)
    | dict.fromkeys(("DFT", "MelWeightMatrix", "STFT"), SIGNAL)
    | dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), "makes a window")
    | dict.fromkeys(("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"), INTEGER)
)  # fmt: skip

barriers(
    {
        "AffineGrid": "makes a grid of positions",
        "BitCast": "reads bits as another type",
        "CausalConvWithState": "keeps a state between runs",
        "CenterCropPad": "crops to a shape of its own",
        "Col2Im": "folds blocks of positions into channels",
        "Compress": "selects by a computed condition",
        "ConstantOfShape": "fills a shape that is computed",
        "DeformConv": "shifts positions by group",
        "CumProd": "multiplies along an axis",
        "Det": "takes a determinant over both axes",
        "DynamicQuantizeLinear": "takes its scale from all values",
        "EyeLike": "makes an identity matrix",
        "GatherElements": "picks at positions along all axes",
        "ImageDecoder": "decodes an image",
        "LRN": "normalises over neighbouring channels",
        "LinearAttention": "keeps a state between runs",
        "MaxRoiPool": "pools regions",
        "MaxUnpool": "takes positions counted over channels",
        "NonMaxSuppression": "selects boxes by their overlap",
        "NonZero": "gives positions counted over all axes",
        "OneHot": "makes one number per class",
        "Range": "makes a range of computed length",
        "RoiAlign": "pools regions",
        "Scatter": "writes at positions along all axes",
        "ScatterElements": "writes at positions along all axes",
        "ScatterND": "writes at positions along several axes",
        "Shape": "measures what has no known shape",
        "Size": "measures what has no known shape",
        "TensorScatter": "writes into a cache at computed positions",
        "Unique": "drops what occurs twice",
    }
)

# In front of a network, in a pipeline of scikit-learn: what they work on are inputs, mostly.
barriers(
    dict.fromkeys(("ArrayFeatureExtractor", "FeatureVectorizer"), "picks and joins features")
    | dict.fromkeys(("Imputer", "Scaler"), "holds a number for each feature in an attribute")
    | {"Normalizer": "normalises over the features", "ZipMap": "makes a map of names"},
    domain=CLASSICAL,
)


@rule("Constant")
def constant(scope: Scope) -> None:
    """No barrier: its axes get their variables when a rule asks for them."""


rule("Binarizer", domain=CLASSICAL, opset=(1, None))(unary)
