"""Models of the zoo that are PyTorch modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo_models import Input, image, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoo_models import Zoo


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


def add_torchvision(models: Zoo) -> None:
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


def add_timm(models: Zoo) -> None:
    def make(name: str, size: int, arguments: dict[str, Any]) -> Callable[[], Any]:
        def build() -> Any:
            import timm

            sized = {"img_size": size} if name.startswith(SIZED) else {}
            return timm.create_model(name, num_classes=100, **sized, **arguments)

        return build

    for name, size, export, arguments in TIMM:
        models.add("timm", name, make(name, size, arguments), image(size), export)


def add_segmentation(models: Zoo) -> None:
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


def add_transformers(models: Zoo) -> None:
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
