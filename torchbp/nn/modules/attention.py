"""Multi-head attention and the transformers made of it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.transformer import _detect_is_causal_mask, _get_seq_len

import torchbp.nn.functional as F
from torchbp.nn.modules.dropout import Dropout
from torchbp.nn.modules.linear import Linear
from torchbp.nn.modules.normalization import LayerNorm


class MultiheadAttention(torch.nn.MultiheadAttention):
    """Attention of ``num_heads`` parts; see :func:`torchbp.nn.functional.multi_head_attention_forward`.

    There is no other path for inference, so nested tensors are refused as torch.nn refuses them in training.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the layer's output and, if wanted, the probabilities."""
        if query.is_nested or key.is_nested or value.is_nested:
            raise AssertionError("MultiheadAttention: query, key and value must not be nested tensors")
        swapped = self.batch_first and query.dim() == 3
        if swapped:
            same = {id(t): t.transpose(1, 0) for t in (query, key, value)}  # one tensor stays one
            query, key, value = (same[id(t)] for t in (query, key, value))
        output, weights = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=not self._qkv_same_embed_dim,
            q_proj_weight=self.q_proj_weight,
            k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return output.transpose(1, 0) if swapped else output, weights


class TransformerEncoderLayer(torch.nn.TransformerEncoderLayer):
    """Self-attention and two linear layers, each with dropout, a sum and a normalisation.

    Made of torchbp's layers, in inference too: torch.nn's one operator for a whole layer is not taken.
    """

    __signature__ = inspect.signature(torch.nn.TransformerEncoderLayer)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take torch.nn's arguments."""
        super().__init__(*args, **kwargs)
        _adopt(self)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return the layer's output."""
        if self.norm_first:
            x = src + self._sa_block(self.norm1(src), src_mask, src_key_padding_mask, is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(src + self._sa_block(src, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(x + self._ff_block(x))


class TransformerDecoderLayer(torch.nn.TransformerDecoderLayer):
    """Self-attention, attention to an encoder's output, and two linear layers; made of torchbp's layers."""

    __signature__ = inspect.signature(torch.nn.TransformerDecoderLayer)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take torch.nn's arguments."""
        super().__init__(*args, **kwargs)
        _adopt(self)


class TransformerEncoder(torch.nn.TransformerEncoder):
    """A stack of encoder layers.

    It makes no nested tensors, so the output at a padded position is what the layers compute, in inference as in
    training; torch.nn's is 0 in inference alone.
    """

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Return the output of the last layer, normalised if there is a norm."""
        length = _get_seq_len(src, self.layers[0].self_attn.batch_first)
        is_causal = _detect_is_causal_mask(mask, is_causal, length)
        output = src
        for layer in self.layers:
            output = layer(output, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=is_causal)
        return output if self.norm is None else self.norm(output)


class TransformerDecoder(torch.nn.TransformerDecoder):
    """A stack of decoder layers."""


class Transformer(torch.nn.Transformer):
    """An encoder and a decoder, made of torchbp's layers but for a ``custom_encoder`` or ``custom_decoder``."""

    __signature__ = inspect.signature(torch.nn.Transformer)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take torch.nn's arguments."""
        super().__init__(*args, **kwargs)
        given = self.__signature__.bind(*args, **kwargs).arguments
        _adopt(self, *(name for name in ("encoder", "decoder") if given.get(f"custom_{name}") is None))


_OWN: dict[type, type] = {
    torch.nn.Linear: Linear,
    torch.nn.Dropout: Dropout,
    torch.nn.LayerNorm: LayerNorm,
    torch.nn.MultiheadAttention: MultiheadAttention,
    torch.nn.TransformerEncoderLayer: TransformerEncoderLayer,
    torch.nn.TransformerDecoderLayer: TransformerDecoderLayer,
    torch.nn.TransformerEncoder: TransformerEncoder,
    torch.nn.TransformerDecoder: TransformerDecoder,
}
ACTIVATIONS: dict[Any, Any] = {torch.nn.functional.relu: F.relu, torch.nn.functional.gelu: F.gelu}


def _adopt(module: torch.nn.Module, *names: str) -> None:
    """Make the layers that torch.nn's constructor made torchbp's: the same objects, which draw the same parameters."""
    for name, child in module.named_children():
        if name != "activation" and (not names or name in names):
            child.__class__ = _OWN.get(type(child), type(child))
            _adopt(child)
    activation = getattr(module, "activation", None)
    if inspect.isroutine(activation):
        module.activation = ACTIVATIONS.get(activation, activation)
