"""The models of the zoo: architectures that we did not write, with random weights.

Nothing is downloaded.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SEED = 0
DYNAMIC_BATCH = 3
"""Samples that a model with a dynamic batch is exported and compared with."""


@dataclass(frozen=True)
class Input:
    """One input of a model, without the batch axis.

    Attributes
    ----------
    name
        What the exported graph calls it.
    shape
        Lengths of the axes behind the batch.
    high
        Integers in [low, high); standard normal numbers if it is None.
    low
        See `high`.
    integers
        Type of integers.
    """

    name: str
    shape: tuple[int, ...]
    high: int | None = None
    low: int = 0
    integers: str = "int64"

    @property
    def dtype(self) -> str:
        """Of its values."""
        return "float32" if self.high is None else self.integers

    def draw(self, batch: int, generator: np.random.Generator) -> NDArray[Any]:
        """Random values, shape (batch, *shape)."""
        if self.high is not None:
            values = generator.integers(self.low, self.high, (batch, *self.shape))
        else:
            values = generator.standard_normal((batch, *self.shape))
        return values.astype(self.dtype)


@dataclass(frozen=True)
class Architecture:
    """One model of the zoo.

    Attributes
    ----------
    name
        Its name in its library.
    library
        Where it comes from.
    build
        Makes it; a `torch.nn.Module` where `exporter` is one of PyTorch's.
    inputs
        In the order of its arguments.
    exporter
        "dynamo" or "script" (PyTorch's two), "keras", "jax", "paddle" or "skl2onnx".
    opset
        Of the default domain.
    dynamic
        Whether the batch axis is open.
    """

    name: str
    library: str
    build: Callable[[], Any]
    inputs: tuple[Input, ...]
    exporter: str
    opset: int
    dynamic: bool

    @property
    def label(self) -> str:
        """Names the model and the way that it was exported; the stem of its file."""
        batch = "dynamic" if self.dynamic else "static"
        return f"{self.library}.{self.name}.{self.exporter}{self.opset}.{batch}"

    @property
    def is_torch(self) -> bool:
        """Whether `build` gives a PyTorch module."""
        return self.exporter in ("dynamo", "script")

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Seeded random inputs by name."""
        generator = np.random.default_rng(SEED)
        batch = DYNAMIC_BATCH if self.dynamic else 1
        return {entry.name: entry.draw(batch, generator) for entry in self.inputs}


@dataclass
class Zoo:
    """A growing list of architectures."""

    models: list[Architecture] = field(default_factory=list)

    def add(
        self,
        library: str,
        name: str,
        build: Callable[[], Any],
        inputs: tuple[Input, ...],
        export: str,
    ) -> None:
        """Append one; `export` reads like "dynamo 18 static"."""
        exporter, opset, batch = export.split()
        model = Architecture(name, library, build, inputs, exporter, int(opset), batch == "dynamic")
        self.models.append(model)


def image(size: int, channels: int = 3) -> tuple[Input, ...]:
    return (Input("image", (channels, size, size)),)


def tokens(length: int = 16, mask: bool = True) -> tuple[Input, ...]:
    """Token numbers of a vocabulary of 100, and which of them count."""
    ids = (Input("input_ids", (length,), 100),)
    return (*ids, Input("attention_mask", (length,), 2, 1)) if mask else ids


def zoo() -> list[Architecture]:
    """All architectures, in the order of the table."""
    models = Zoo()
    _torchvision(models)
    _timm(models)
    _segmentation(models)
    _transformers(models)
    _keras(models)
    _jax(models)
    _paddle(models)
    _sklearn(models)
    return models.models


TORCHVISION = (
    ("alexnet", 224, "dynamo 18 static", {"num_classes": 10}),
    ("resnet18", 64, "dynamo 18 static", {}),
    ("resnet50", 64, "script 11 dynamic", {}),
    ("resnext50_32x4d", 64, "dynamo 20 dynamic", {}),
    ("densenet121", 64, "script 12 static", {}),
    ("squeezenet1_1", 64, "script 11 static", {}),
    ("googlenet", 96, "dynamo 18 dynamic", {"aux_logits": False, "init_weights": False}),
    ("inception_v3", 96, "script 15 static", {"aux_logits": False, "init_weights": False}),
    ("mobilenet_v2", 64, "script 13 dynamic", {}),
    ("mobilenet_v3_small", 64, "dynamo 21 static", {}),
    ("mobilenet_v3_large", 64, "script 14 static", {}),
    ("efficientnet_b0", 64, "dynamo 18 dynamic", {}),
    ("shufflenet_v2_x1_0", 64, "script 12 static", {}),
    ("shufflenet_v2_x0_5", 64, "dynamo 22 dynamic", {}),
    ("mnasnet0_5", 64, "script 16 dynamic", {}),
    ("regnet_x_400mf", 64, "script 17 static", {}),
    ("regnet_y_400mf", 64, "dynamo 18 dynamic", {}),
)

TORCHVISION_OTHER = (
    ("segmentation.lraspp_mobilenet_v3_large", "dynamo 18 static"),
    ("segmentation.deeplabv3_mobilenet_v3_large", "script 16 static"),
    ("video.mc3_18", "script 17 static"),
)

TIMM = (
    ("vgg16_bn", 64, "dynamo 18 static", {"mlp_ratio": 0.125}),
    ("seresnet18", 64, "script 13 static", {}),
    ("skresnet18", 64, "dynamo 18 dynamic", {}),
    ("resnest14d", 64, "script 14 dynamic", {}),
    ("dpn48b", 64, "dynamo 18 static", {}),
    ("dla46x_c", 64, "script 11 dynamic", {}),
    ("hrnet_w18_small", 64, "dynamo 18 static", {}),
    ("cs3darknet_s", 64, "script 15 dynamic", {}),
    ("ese_vovnet19b_dw", 64, "dynamo 19 static", {}),
    ("ghostnet_050", 64, "script 16 static", {}),
    ("repvgg_a0", 64, "script 17 dynamic", {}),
    ("convnext_atto", 64, "script 17 dynamic", {}),
    ("convnextv2_atto", 64, "dynamo 20 static", {}),
    ("poolformer_s12", 64, "dynamo 18 dynamic", {}),
    ("mobilevit_xxs", 64, "dynamo 18 static", {}),
    ("edgenext_xx_small", 64, "script 17 static", {}),
    ("vit_tiny_patch16_224", 64, "dynamo 18 dynamic", {}),
    ("deit_tiny_patch16_224", 64, "script 14 static", {}),
    ("cait_xxs24_224", 64, "dynamo 18 static", {"depth": 6}),
    ("xcit_nano_12_p16_224", 64, "script 16 static", {}),
    ("levit_128s", 224, "dynamo 18 static", {}),
    ("swin_tiny_patch4_window7_224", 56, "dynamo 18 static", {"embed_dim": 48, "depths": (2,) * 4}),
    ("pvt_v2_b0", 64, "script 17 static", {}),
    ("mixer_s32_224", 64, "dynamo 23 dynamic", {}),
    ("resmlp_12_224", 64, "script 13 dynamic", {}),
    ("gmlp_s16_224", 64, "dynamo 18 static", {}),
)


def _torchvision(models: Zoo) -> None:
    def make(path: str, **arguments: Any) -> Callable[[], Any]:
        def build() -> Any:
            from torchvision import models as library

            for part in path.split("."):
                library = getattr(library, part)
            return library(weights=None, **arguments)

        return build

    for name, size, export, arguments in TORCHVISION:
        models.add("torchvision", name, make(name, **arguments), image(size), export)
    for path, export in TORCHVISION_OTHER:
        short = path.split(".")[-1]
        inputs = (Input("video", (3, 4, 32, 32)),) if short == "mc3_18" else image(96)
        extra = {} if short == "mc3_18" else {"weights_backbone": None}
        models.add("torchvision", short, make(path, **extra), inputs, export)


SIZED = ("vit", "deit", "cait", "xcit", "swin", "mixer", "resmlp", "gmlp")
"""timm's families whose constructor wants the image size."""


def _timm(models: Zoo) -> None:
    def make(name: str, size: int, arguments: dict[str, Any]) -> Callable[[], Any]:
        def build() -> Any:
            import timm

            sized = {"img_size": size} if name.startswith(SIZED) else {}
            return timm.create_model(name, num_classes=100, **sized, **arguments)

        return build

    for name, size, export, arguments in TIMM:
        models.add("timm", name, make(name, size, arguments), image(size), export)


def _segmentation(models: Zoo) -> None:
    def make(name: str, encoder: str) -> Callable[[], Any]:
        def build() -> Any:
            import segmentation_models_pytorch as smp

            return getattr(smp, name)(encoder, encoder_weights=None, classes=4)

        return build

    for name, encoder, export in (
        ("Unet", "resnet18", "dynamo 18 static"),
        ("FPN", "mobilenet_v2", "script 16 dynamic"),
        ("Linknet", "resnet18", "script 13 static"),
        ("UnetPlusPlus", "timm-mobilenetv3_small_minimal_100", "dynamo 18 dynamic"),
    ):
        label = f"{name}-{encoder.removeprefix('timm-')}"
        models.add("smp", label, make(name, encoder), image(64), export)


SMALL_TEXT = {
    "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "max_position_embeddings": 64,
}  # fmt: skip
SMALL_IMAGE = {
    "image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip
DISTILBERT = {"vocab_size": 100, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
GPT2 = {"vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {
    "vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
WHISPER = {
    "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128,
    "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 128, "num_mel_bins": 16,
    "max_source_positions": 50, "vocab_size": 100, "pad_token_id": 0,
}  # fmt: skip
WAV2VEC2 = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
SEGFORMER = {"hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 4]}
GROUPED = {**SMALL_TEXT, "num_key_value_heads": 2}

# Model class, its configuration, inputs, export; `eager` spells attention out.
TRANSFORMERS: tuple[tuple[str, dict[str, Any], tuple[Input, ...], str], ...] = (
    ("Bert", SMALL_TEXT, tokens(), "dynamo 18 dynamic"),
    ("Bert", {**SMALL_TEXT, "attn_implementation": "eager"}, tokens(), "script 14 dynamic"),
    ("DistilBert", DISTILBERT, tokens(), "script 17 static"),
    ("Roberta", SMALL_TEXT, tokens(), "dynamo 20 static"),
    ("Albert", {**SMALL_TEXT, "embedding_size": 32}, tokens(), "script 15 static"),
    ("Electra", {**SMALL_TEXT, "embedding_size": 32}, tokens(), "dynamo 18 static"),
    ("GPT2", GPT2, tokens(mask=False), "dynamo 18 dynamic"),
    ("Llama", GROUPED, tokens(mask=False), "dynamo 18 dynamic"),
    ("Qwen2", GROUPED, tokens(mask=False), "dynamo 23 static"),
    ("T5Encoder", T5, tokens(), "dynamo 18 static"),
    ("Whisper.encoder", WHISPER, (Input("mel", (16, 100)),), "dynamo 18 dynamic"),
    ("Wav2Vec2", WAV2VEC2, (Input("sound", (4000,)),), "script 17 static"),
    ("ViT", SMALL_IMAGE, image(32), "script 14 dynamic"),
    ("DeiT", SMALL_IMAGE, image(32), "dynamo 18 static"),
    ("CLIPVision", {**SMALL_IMAGE, "projection_dim": 32}, image(32), "dynamo 21 dynamic"),
    ("Segformer", SEGFORMER, image(64), "script 17 static"),
)


def _transformers(models: Zoo) -> None:
    def make(name: str, settings: dict[str, Any]) -> Callable[[], Any]:
        def build() -> Any:
            import transformers

            family, _, part = name.partition(".")
            config_class = family.removesuffix("Encoder")
            config = getattr(transformers, f"{config_class}Config")(**settings, use_cache=False)
            whole = getattr(transformers, f"{family}Model")(config)
            return getattr(whole, part) if part else whole

        return build

    for name, settings, inputs, export in TRANSFORMERS:
        models.add("transformers", name, make(name, settings), inputs, export)


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


def _keras(models: Zoo) -> None:
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


def _jax(models: Zoo) -> None:
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


def _paddle(models: Zoo) -> None:
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


def _sklearn(models: Zoo) -> None:
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
