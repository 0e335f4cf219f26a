"""Models of other packages, built from configurations with random weights: nothing is downloaded.

A row says where a model comes from, how it is built, tiny for tests and, for some, at an ordinary size for timings, and
what it is given. Packages are imported when a model is built; they are the extra ``models``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a configuration that would fetch something is an error

Settings = dict[str, Any]
Draw = Callable[[torch.dtype], Any]
Batch = dict[str, Draw]


@dataclass(frozen=True)
class RealModel:
    """A model, its settings, and what it is given.

    Args:
        package: the package that it is from.
        architecture: dotted name of its class within the package.
        configuration: dotted name of the class of its configuration; "" for a model that takes the settings itself.
        tiny: the settings and the batch for tests.
        ordinary: those that are timed, if it is.
        loss: from the output, the loss.
    """

    package: str
    architecture: str
    configuration: str
    tiny: tuple[Settings, Batch]
    ordinary: tuple[Settings, Batch] | None = None
    loss: Callable[[Any], Tensor] = lambda output: output.loss

    def build(self, dtype: torch.dtype = torch.float64, ordinary: bool = False) -> nn.Module:
        """Return the model in training mode, the same at each call."""
        settings = self._size(ordinary)[0]
        torch.manual_seed(0)
        if self.configuration:
            settings = {"config": named(self.package, self.configuration)(**settings)}
        model = named(self.package, self.architecture)(**settings).to(dtype).train()
        for parameter in model.parameters():  # scales and shifts away from 1 and 0, where what is wrong may look right
            if parameter.dim() < 2:
                nn.init.normal_(parameter, float(parameter.detach().mean()), 0.1)
        return model

    def inputs(self, dtype: torch.dtype = torch.float64, ordinary: bool = False) -> dict[str, Any]:
        """Return the arguments of a call, the same at each one."""
        torch.manual_seed(1)
        return {name: draw(dtype) for name, draw in self._size(ordinary)[1].items()}

    def step(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a batch; the same random numbers are drawn at each call."""
        torch.manual_seed(2)
        return self.loss(model(**batch))

    def _size(self, ordinary: bool) -> tuple[Settings, Batch]:
        if not ordinary:
            return self.tiny
        if self.ordinary is None:
            raise ValueError(f"{self.architecture} has no ordinary size")
        return self.ordinary


def named(package: str, name: str) -> Any:
    """Return what a dotted name of a package means."""
    *modules, last = f"{package}.{name}".split(".")
    return getattr(importlib.import_module(".".join(modules)), last)


# ----------------------------------------------------------------------------------------------------------------------
# What they are given


def normal(*shape: int) -> Draw:
    return lambda dtype: torch.randn(shape, dtype=dtype)


def below(bound: int, *shape: int) -> Draw:
    return lambda dtype: torch.randint(bound, shape)


def classified(*shape: int, classes: int = 2) -> Batch:
    return {"pixel_values": normal(*shape), "labels": below(classes, shape[0])}


def tokens(vocabulary: int, *shape: int, labels: Draw | None = None) -> Batch:
    """Return a text whose labels are tokens too, unless they are given."""
    return {"input_ids": below(vocabulary, *shape), "labels": labels or below(vocabulary, *shape)}


def square(output: Any) -> Tensor:
    """Return the mean square of the first tensor of an output: a loss for what has none."""
    found = output if isinstance(output, Tensor) else next(iter(output.values()))
    return found.square().mean()


# ----------------------------------------------------------------------------------------------------------------------
# The table

_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_SMALL_DIM = {"n_layers": 2, "n_heads": 2, "dim": 16, "hidden_dim": 24}
_X_TRANSFORMER = {"num_tokens": 50, "depth": 1, "heads": 2, "max_seq_len": 16, "attn_dropout": 0.1}
_WHISPER = "models.whisper.modeling_whisper.WhisperEncoder"

MODELS: dict[str, RealModel] = {
    "ResNet": RealModel(
        "transformers",
        "ResNetForImageClassification",
        "ResNetConfig",
        ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "num_labels": 2}, classified(2, 3, 32, 32)),
        (
            {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic", "num_labels": 100},
            classified(8, 3, 112, 112, classes=100),
        ),
    ),
    "ConvNeXt": RealModel(
        "transformers",
        "ConvNextForImageClassification",
        "ConvNextConfig",
        ({"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}, classified(2, 3, 32, 32)),
        (
            {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2], "num_labels": 100},
            classified(8, 3, 112, 112, classes=100),
        ),
    ),
    "MobileNetV2": RealModel(
        "transformers",
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        ({"depth_multiplier": 0.25, "image_size": 64, "num_labels": 2}, classified(4, 3, 64, 64)),
        ({"num_labels": 100}, classified(8, 3, 112, 112, classes=100)),
    ),
    "EfficientNet": RealModel(
        "transformers",
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        (
            {
                "width_coefficient": 0.25,
                "depth_coefficient": 0.1,
                "image_size": 64,
                "hidden_dim": 320,
                "dropout_rate": 0.2,
                "num_labels": 2,
            },
            classified(4, 3, 64, 64),
        ),
    ),
    "BiT": RealModel(
        "transformers",
        "BitForImageClassification",
        "BitConfig",
        (
            {"embedding_size": 8, "hidden_sizes": [32, 32], "depths": [1, 2], "num_groups": 4, "num_labels": 2},
            classified(2, 3, 32, 32),
        ),
    ),
    "RegNet": RealModel(
        "transformers",
        "RegNetForImageClassification",
        "RegNetConfig",
        (
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "groups_width": 4, "num_labels": 2},
            classified(2, 3, 32, 32),
        ),
    ),
    "ViT": RealModel(
        "transformers",
        "ViTForImageClassification",
        "ViTConfig",
        ({**_SMALL, "image_size": 16, "patch_size": 4, "hidden_dropout_prob": 0.1}, classified(2, 3, 16, 16)),
        (
            {
                "hidden_size": 192,
                "num_hidden_layers": 12,
                "num_attention_heads": 3,
                "intermediate_size": 768,
                "image_size": 112,
                "num_labels": 100,
            },
            classified(8, 3, 112, 112, classes=100),
        ),
    ),
    "Swin": RealModel(
        "transformers",
        "SwinForImageClassification",
        "SwinConfig",
        (
            {
                "image_size": 32,
                "patch_size": 4,
                "embed_dim": 8,
                "depths": [2, 2],
                "num_heads": [2, 2],
                "window_size": 4,
                "drop_path_rate": 0.0,
                "num_labels": 2,
            },
            classified(2, 3, 32, 32),
        ),
    ),
    "SegFormer": RealModel(
        "transformers",
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        (
            {
                "num_encoder_blocks": 2,
                "depths": [1, 1],
                "sr_ratios": [2, 1],
                "hidden_sizes": [8, 16],
                "patch_sizes": [7, 3],
                "strides": [4, 2],
                "num_attention_heads": [1, 2],
                "mlp_ratios": [2, 2],
                "decoder_hidden_size": 16,
                "drop_path_rate": 0.0,
                "num_labels": 3,
            },
            {"pixel_values": normal(2, 3, 32, 32), "labels": below(3, 2, 32, 32)},
        ),
        ({"num_labels": 20}, {"pixel_values": normal(2, 3, 128, 128), "labels": below(20, 2, 128, 128)}),
    ),
    "DPT": RealModel(
        "transformers",
        "DPTForSemanticSegmentation",
        "DPTConfig",
        (
            {
                **_SMALL,
                "num_hidden_layers": 4,
                "backbone_out_indices": [0, 1, 2, 3],
                "image_size": 32,
                "patch_size": 8,
                "neck_hidden_sizes": [8, 8, 8, 8],
                "fusion_hidden_size": 8,
                "num_labels": 3,
            },
            {"pixel_values": normal(2, 3, 32, 32), "labels": below(3, 2, 32, 32)},
        ),
    ),
    "Swin2SR": RealModel(
        "transformers",
        "Swin2SRForImageSuperResolution",
        "Swin2SRConfig",
        (
            {
                "image_size": 16,
                "embed_dim": 8,
                "depths": [2],
                "num_heads": [2],
                "window_size": 4,
                "drop_path_rate": 0.0,
                "upsampler": "pixelshuffle",
                "num_channels": 3,
            },
            {"pixel_values": normal(1, 3, 16, 16)},
        ),
        loss=square,
    ),
    "VideoMAE": RealModel(
        "transformers",
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        (
            {**_SMALL, "image_size": 16, "patch_size": 8, "num_frames": 4, "num_labels": 2},
            {"pixel_values": normal(2, 4, 3, 16, 16), "labels": below(2, 2)},
        ),
    ),
    "BERT": RealModel(
        "transformers",
        "BertForSequenceClassification",
        "BertConfig",
        ({**_SMALL, "vocab_size": 50, "max_position_embeddings": 16}, tokens(50, 2, 9, labels=below(2, 2))),
        (
            {
                "hidden_size": 256,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "intermediate_size": 1024,
                "vocab_size": 10000,
            },
            tokens(10000, 8, 128, labels=below(2, 8)),
        ),
    ),
    "DistilBERT": RealModel(
        "transformers",
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        ({**_SMALL_DIM, "vocab_size": 50, "max_position_embeddings": 16}, tokens(50, 2, 9)),
    ),
    "GPT-2": RealModel(
        "transformers",
        "GPT2LMHeadModel",
        "GPT2Config",
        ({"vocab_size": 50, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}, tokens(50, 2, 9)),
        ({"vocab_size": 10000, "n_embd": 256, "n_layer": 4, "n_head": 4}, tokens(10000, 8, 128)),
    ),
    "Llama": RealModel(
        "transformers",
        "LlamaForCausalLM",
        "LlamaConfig",
        ({**_SMALL, "vocab_size": 50, "num_key_value_heads": 1}, tokens(50, 2, 9)),
    ),
    "T5": RealModel(
        "transformers",
        "T5ForConditionalGeneration",
        "T5Config",
        (
            {
                "vocab_size": 50,
                "d_model": 16,
                "d_kv": 8,
                "d_ff": 24,
                "num_layers": 2,
                "num_heads": 2,
                "decoder_start_token_id": 0,
            },
            tokens(50, 2, 9),
        ),
    ),
    "BART": RealModel(
        "transformers",
        "BartForConditionalGeneration",
        "BartConfig",
        (
            {
                "vocab_size": 50,
                "max_position_embeddings": 16,
                "d_model": 16,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "encoder_ffn_dim": 24,
                "decoder_ffn_dim": 24,
            },
            tokens(50, 2, 9),
        ),
    ),
    "CLIP": RealModel(
        "transformers",
        "CLIPModel",
        "CLIPConfig",
        (
            {
                "text_config": {**_SMALL, "vocab_size": 50, "max_position_embeddings": 16},
                "vision_config": {**_SMALL, "image_size": 16, "patch_size": 8},
                "projection_dim": 8,
            },
            {"input_ids": below(48, 3, 9), "pixel_values": normal(3, 3, 16, 16), "return_loss": lambda dtype: True},
        ),
    ),
    "Whisper encoder": RealModel(
        "transformers",
        _WHISPER,
        "WhisperConfig",
        (
            {
                "d_model": 16,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 24,
                "num_mel_bins": 8,
                "max_source_positions": 12,
                "dropout": 0.1,
            },
            {"input_features": normal(2, 8, 24)},
        ),
        ({"max_source_positions": 200}, {"input_features": normal(4, 80, 400)}),
        loss=square,
    ),
    "Wav2Vec2": RealModel(
        "transformers",
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        (
            {
                **_SMALL,
                "conv_dim": [8, 8],
                "conv_kernel": [10, 3],
                "conv_stride": [5, 2],
                "num_conv_pos_embeddings": 4,
                "num_conv_pos_embedding_groups": 2,
                "mask_time_prob": 0.0,
                "layerdrop": 0.0,
                "classifier_proj_size": 8,
                "num_labels": 2,
            },
            {"input_values": normal(2, 160), "labels": below(2, 2)},
        ),
    ),
    "EnCodec": RealModel(
        "transformers",
        "models.encodec.modeling_encodec.EncodecEncoder",
        "EncodecConfig",
        (
            {"num_filters": 4, "hidden_size": 8, "upsampling_ratios": [4, 2], "num_lstm_layers": 2},
            {"hidden_states": normal(2, 1, 64)},
        ),
        loss=square,
    ),
    "PatchTST": RealModel(
        "transformers",
        "PatchTSTForPrediction",
        "PatchTSTConfig",
        (
            {
                "num_input_channels": 2,
                "context_length": 16,
                "patch_length": 4,
                "patch_stride": 4,
                "prediction_length": 4,
                "d_model": 16,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "ffn_dim": 24,
            },
            {"past_values": normal(3, 16, 2), "future_values": normal(3, 4, 2)},
        ),
    ),
    "diffusion U-Net": RealModel(
        "diffusers",
        "UNet2DModel",
        "",
        (
            {
                "sample_size": 16,
                "block_out_channels": (8, 16),
                "layers_per_block": 1,
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
                "norm_num_groups": 4,
                "attention_head_dim": 4,
            },
            {"sample": normal(2, 3, 16, 16), "timestep": below(1000, 2)},
        ),
        (
            {"sample_size": 32, "block_out_channels": (64, 128, 128, 256), "layers_per_block": 1},
            {"sample": normal(4, 3, 32, 32), "timestep": below(1000, 4)},
        ),
        loss=square,
    ),
    "image autoencoder": RealModel(
        "diffusers",
        "AutoencoderKL",
        "",
        (
            {
                "block_out_channels": (8, 16),
                "down_block_types": ("DownEncoderBlock2D",) * 2,
                "up_block_types": ("UpDecoderBlock2D",) * 2,
                "norm_num_groups": 4,
            },
            {"sample": normal(2, 3, 16, 16)},
        ),
        loss=square,
    ),
    "volumetric U-Net": RealModel(
        "monai",
        "networks.nets.UNet",
        "",
        (
            {
                "spatial_dims": 3,
                "in_channels": 1,
                "out_channels": 2,
                "channels": (4, 8, 8),
                "strides": (2, 2),
                "num_res_units": 1,
                "dropout": 0.1,
            },
            {"x": normal(2, 1, 16, 16, 16)},
        ),
        (
            {
                "spatial_dims": 3,
                "in_channels": 1,
                "out_channels": 2,
                "channels": (16, 32, 64, 128),
                "strides": (2, 2, 2),
                "num_res_units": 2,
            },
            {"x": normal(2, 1, 32, 32, 32)},
        ),
        loss=square,
    ),
    "volumetric DenseNet": RealModel(
        "monai",
        "networks.nets.DenseNet",
        "",
        (
            {
                "spatial_dims": 3,
                "in_channels": 1,
                "out_channels": 2,
                "init_features": 8,
                "growth_rate": 4,
                "block_config": (2, 2),
                "dropout_prob": 0.1,
            },
            {"x": normal(2, 1, 16, 16, 16)},
        ),
        loss=square,
    ),
    "SegResNet": RealModel(
        "monai",
        "networks.nets.SegResNet",
        "",
        (
            {"spatial_dims": 3, "init_filters": 8, "blocks_down": (1, 2), "blocks_up": (1,), "dropout_prob": 0.1},
            {"x": normal(2, 1, 8, 8, 8)},
        ),
        loss=square,
    ),
    "x-transformer": RealModel(
        "x_transformers",
        "XTransformer",
        "",
        (
            {
                "dim": 16,
                **{f"{part}_{key}": value for part in ("enc", "dec") for key, value in _X_TRANSFORMER.items()},
            },
            {"src": below(50, 2, 9), "tgt": below(50, 2, 8)},
        ),
        loss=lambda output: output,
    ),
}
