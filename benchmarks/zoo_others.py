"""Models of the zoo from Keras, JAX, Paddle and scikit-learn."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from zoo_models import SEED, Input, image

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo_models import Zoo


KERAS_MIT = {
    "image_shape": (64, 64, 3), "num_layers": 4, "layerwise_depths": (1, 1, 1, 1),
    "layerwise_num_heads": (1, 2, 4, 4), "layerwise_sr_ratios": (8, 4, 2, 1),
    "layerwise_patch_sizes": (7, 3, 3, 3), "layerwise_strides": (4, 2, 2, 2),
    "hidden_dims": (16, 32, 64, 64), "max_drop_path_rate": 0.0,
}  # fmt: skip
KERAS_TEXT = {
    "vocabulary_size": 100, "num_layers": 2, "num_heads": 4, "hidden_dim": 64,
    "intermediate_dim": 128, "max_sequence_length": 32,
}  # fmt: skip


def add_keras(models: Zoo) -> None:
    def seeded(make: Callable[[], Any]) -> Callable[[], Any]:
        def build() -> Any:
            os.environ["KERAS_BACKEND"] = "tensorflow"
            import keras

            keras.utils.set_random_seed(SEED)
            model = make()
            generator = np.random.default_rng(SEED)
            for weight in model.weights:
                values = np.asarray(weight)
                if values.ndim == 1:
                    weight.assign(values + 0.1 * np.abs(generator.standard_normal(values.shape)))
            return model

        return build

    def application(name: str, size: int, arguments: dict[str, Any]) -> Callable[[], Any]:
        def build() -> Any:
            import keras

            shape = (size, size, 3)
            kind = getattr(keras.applications, name)
            return kind(weights=None, input_shape=shape, classes=100, **arguments)

        return build

    def classifier(kind: str, family: str, arguments: dict[str, Any]) -> Callable[[], Any]:
        def build() -> Any:
            from keras_hub import models as library

            backbone = getattr(library, f"{family}Backbone")(**arguments)
            return getattr(library, f"{family}{kind}")(backbone, num_classes=10)

        return build

    for name, size, export, arguments in (
        ("MobileNet", 64, "keras 13 dynamic", {"alpha": 0.5}),
        ("MobileNetV2", 64, "keras 15 static", {"alpha": 0.5}),
        ("MobileNetV3Small", 64, "keras 17 dynamic", {}),
        ("EfficientNetV2B0", 64, "keras 18 static", {"include_preprocessing": False}),
        ("DenseNet121", 64, "keras 13 static", {}),
        ("ResNet50V2", 64, "keras 14 dynamic", {}),
    ):
        inputs = (Input("image", (size, size, 3)),)
        models.add("keras", name, seeded(application(name, size, arguments)), inputs, export)
    pixels = (Input("images", (64, 64, 3)),)
    words = (
        Input("token_ids", (16,), 100, integers="int32"),
        Input("padding_mask", (16,), 2, 1, integers="int32"),
    )
    for kind, family, entries, arguments, export in (
        ("ImageClassifier", "MiT", pixels, KERAS_MIT, "keras 16 dynamic"),
        ("TextClassifier", "Roberta", words, KERAS_TEXT, "keras 18 static"),
        ("TextClassifier", "DistilBert", words, KERAS_TEXT, "keras 13 dynamic"),
    ):
        build = seeded(classifier(kind, family, arguments))
        models.add("keras-hub", f"{family}{kind}", build, entries, export)


JAX_VIT = {
    "height": 28, "width": 28, "num_hiddens": 64, "num_layers": 2, "num_heads": 4, "mlp_dim": 128,
    "num_classes": 10, "embed_dims": (16, 32, 64),
}  # fmt: skip
JAX_DINO = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
JAX_GPT = {
    "vocab_size": 100, "n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 16, "dropout": 0.0,
}  # fmt: skip

# Models that come with jax2onnx: module and class, settings, input, export.
JAX: tuple[tuple[str, dict[str, Any], Input, str], ...] = (
    ("cnn.CNN", {}, Input("image", (28, 28, 1)), "jax 21 dynamic"),
    ("vit.VisionTransformer", JAX_VIT, Input("image", (28, 28, 1)), "jax 21 dynamic"),
    ("dinov3.VisionTransformer", JAX_DINO, Input("image", (3, 32, 32)), "jax 23 static"),
    ("gpt.GPT", JAX_GPT, Input("tokens", (16,), 100, integers="int32"), "jax 22 dynamic"),
)


def add_jax(models: Zoo) -> None:
    def make(path: str, settings: dict[str, Any]) -> Callable[[], Any]:
        def build() -> Any:
            from importlib import import_module

            from flax import nnx

            module, _, name = path.partition(".")
            library = import_module(f"jax2onnx.plugins.examples.nnx.{module}")
            model = getattr(library, name)(**settings, rngs=nnx.Rngs(SEED))
            model.eval()
            return model

        return build

    for path, settings, entry, export in JAX:
        models.add("jax", path, make(path, settings), (entry,), export)


def add_paddle(models: Zoo) -> None:
    def vision(name: str) -> Callable[[], Any]:
        def build() -> Any:
            from paddle.vision import models as library

            return getattr(library, name)(num_classes=100)

        return build

    def encoder() -> Any:
        from paddle import nn

        return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128), 2)

    for name, export in (
        ("resnet18", "paddle 15 dynamic"),
        ("mobilenet_v3_small", "paddle 13 dynamic"),
        ("shufflenet_v2_x0_5", "paddle 11 static"),
        ("densenet121", "paddle 16 static"),
    ):
        models.add("paddle", name, vision(name), image(64), export)
    tokens = (Input("tokens", (16, 64)),)
    models.add("paddle", "TransformerEncoder", encoder, tokens, "paddle 17 dynamic")


def add_sklearn(models: Zoo) -> None:
    def make(name: str) -> Callable[[], Any]:
        def build() -> Any:
            from sklearn import neural_network

            generator = np.random.default_rng(SEED)
            x = generator.standard_normal((200, 20)).astype(np.float32)
            y = x[:, :3].argmax(axis=1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # three steps do not converge
                kind = getattr(neural_network, name)
                estimator = kind(hidden_layer_sizes=(64, 32), max_iter=3, random_state=SEED)
                return estimator.fit(x, y)

        return build

    for name, opset in (("MLPClassifier", 15), ("MLPRegressor", 18)):
        models.add("sklearn", name, make(name), (Input("X", (20,)),), f"skl2onnx {opset} dynamic")
