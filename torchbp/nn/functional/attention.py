"""Attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as builtin
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.attention import Scores
from torchbp.autograd.replay import replayable
from torchbp.nn.functional._arguments import as_number, autocast_to, check_flag, check_tensors
from torchbp.nn.functional.linear import linear
from torchbp.nn.functional.padding import pad


@replayable
@autocast_to("lower precision")
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(scale q kᵀ + mask) v; a row that sees no key is 0.

    Shapes: query (*, L, E), key (*, S, E), value (*, S, V), output (*, L, V); leading dimensions broadcast.

    Args:
        query: one row for each output.
        key: what the rows are compared with.
        value: what is averaged.
        attn_mask: broadcast to (*, L, S); boolean, True where a key takes part, or added to the scores, and then
            differentiable.
        dropout_p: the probability with which each probability is set to zero, always, in training or not; the draws
            are the built-in's for the same seed. Keeps a byte per score; all else is linear in L and S.
        is_causal: whether row i sees the keys 0 to i only; also beside a mask.
        scale: 1 / sqrt(E) if not given.
        enable_gqa: whether the heads, dimension -3, of the query are a multiple of those of key and value, which then
            serve several in a row.

    Raises:
        RuntimeError: if shapes, dtypes or devices do not fit, or ``dropout_p`` is not between 0 and 1.
        IndexError: if ``enable_gqa`` is set and a tensor has no dimension of heads.

    (Vaswani et al., "Attention is all you need", 2017; Dao, "FlashAttention-2", 2023.)
    """
    op = "scaled_dot_product_attention"
    check_tensors(op, "attn_mask", query=query, key=key, value=value, attn_mask=attn_mask)
    p = as_number(op, "dropout_p", dropout_p)
    check_flag(op, "is_causal", is_causal)
    check_flag(op, "enable_gqa", enable_gqa)
    _check_operands(op, query, key, value, attn_mask)
    if not 0.0 <= p <= 1.0:
        raise RuntimeError(f"{op}(): dropout_p must be between 0 and 1, got {p}")
    length, size = query.shape[-2:]
    scale = None if scale is None else float(as_number(op, "scale", scale))
    group = _group(op, query, key, value) if enable_gqa else 1
    if enable_gqa and key.shape[-3] != value.shape[-3]:  # one head of each for every head of the query
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        group = 1
    leads = [_lead(query, group), key.shape[:-2], value.shape[:-2]]
    alike = leads[0] == leads[1] == leads[2]
    lead = scored = leads[0]
    if not alike:
        lead, scored = (_broadcast(op, some, query, key, value) for some in (leads, leads[:2]))
    kept = mask = None
    if attn_mask is not None or p > 0:
        of_scores = (*scored[:-1], *([scored[-1] * group] if scored else []), length, key.shape[-2])
        if attn_mask is not None:
            if not _fits(attn_mask.shape, of_scores):
                raise RuntimeError(
                    f"{op}(): attn_mask must broadcast to the scores, {of_scores}, got shape {tuple(attn_mask.shape)}"
                )
            mask = _scores_view(attn_mask, lead, group)
        if p > 0:
            kept = _scores_view(autograd.attention.draw_kept(query, key, of_scores, p), lead, group)
    like_query = (  # as the built-in, whose general form returns what is contiguous
        query.dim() == 4
        and group == 1
        and alike
        and kept is None
        and size == value.shape[-1]
        and not (attn_mask is not None and attn_mask.requires_grad)
        and all([t.numel() > 0 and t.stride(-1) == 1 for t in (query, key, value)])
    )
    scores = Scores(scale, is_causal, 0.0 if p == 1 else 1 / (1 - p), like_query)
    operands = (_grouped(query, lead, group), _folded(key, lead), _folded(value, lead), mask, kept)
    output = autograd.attention.attention(*operands, scores)
    if len(lead) == 2 and group == 1:
        return output
    return output.reshape(*lead[:-1], *([lead[-1] * group] if lead else []), *output.shape[-2:])


def _check_operands(op: str, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() < 2:
            raise RuntimeError(f"{op}(): {name} must have at least 2 dimensions, got shape {tuple(tensor.shape)}")
        if tensor.dtype != query.dtype or tensor.device != query.device:
            raise RuntimeError(
                f"{op}(): {name} must have query's dtype and device, {query.dtype} on {query.device}, "
                f"got {tensor.dtype} on {tensor.device}"
            )
    if not query.is_floating_point():
        kind = NotImplementedError if query.is_complex() else RuntimeError
        raise kind(f"{op}(): query must be real and floating-point, got {query.dtype}")
    if query.shape[-1] != key.shape[-1]:
        raise RuntimeError(
            f"{op}(): query and key must have rows of one size, got shapes {tuple(query.shape)} and {tuple(key.shape)}"
        )
    if key.shape[-2] != value.shape[-2]:
        raise RuntimeError(
            f"{op}(): key and value must have as many rows, got shapes {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if attn_mask is not None and attn_mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise RuntimeError(
            f"{op}(): attn_mask must be of dtype bool, float32 or query's, {query.dtype}, got {attn_mask.dtype}"
        )


def _group(op: str, query: Tensor, key: Tensor, value: Tensor) -> int:
    """Return how many heads of the query share one of the key."""
    shapes = [tuple(t.shape) for t in (query, key, value)]
    if min(map(len, shapes)) < 3:
        raise IndexError(f"{op}(): enable_gqa needs a dimension of heads, -3, got shapes {shapes}")
    heads, *shared = (shape[-3] for shape in shapes)
    if heads == shared[0] == shared[1]:
        return 1
    if any(s == 0 or heads % s for s in shared):
        raise RuntimeError(f"{op}(): the heads of key and value must divide those of query, got shapes {shapes}")
    return heads // shared[0]


def _lead(query: Tensor, group: int) -> tuple[int, ...]:
    """Return the leading dimensions, with the heads of the keys."""
    lead = tuple(query.shape[:-2])
    return lead if group == 1 else (*lead[:-1], lead[-1] // group)


def _broadcast(op: str, leads: Sequence[Sequence[int]], *tensors: Tensor) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(*leads))
    except RuntimeError:
        shapes = [tuple(t.shape) for t in tensors]
        raise RuntimeError(
            f"{op}(): the leading dimensions of query, key and value must broadcast, got shapes {shapes}"
        ) from None


def _fits(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Tell whether a shape broadcasts to another without enlarging it."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def _folded(tensor: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Return (B, H, rows, size) from (*lead, rows, size), broadcast first."""
    if len(lead) == 2 and tensor.shape[:-2] == lead:
        return tensor
    tensor = tensor.expand(*lead, *tensor.shape[-2:])
    if len(lead) < 2:
        return tensor[(None,) * (2 - len(lead))]
    return tensor if len(lead) == 2 else tensor.flatten(0, -4)


def _grouped(query: Tensor, lead: tuple[int, ...], group: int) -> Tensor:
    """Return (B, H, L, E) from the query, or (B, H, R, L, E) for groups."""
    if group == 1:
        return _folded(query, lead)
    heads = (*lead[:-1], lead[-1] * group)
    return _folded(query, heads).unflatten(1, (lead[-1], group))


def _scores_view(mask: Tensor, lead: tuple[int, ...], group: int) -> Tensor:
    """Return a mask of the scores as (B, H, L, S), or (B, H, R, L, S), with sizes of one where it is broadcast."""
    rank = len(lead) + 2
    mask = mask[(None,) * (rank - mask.dim())]
    if len(lead) > 2 and any(size != 1 for size in mask.shape[:-3]):
        mask = mask.expand(*lead[:-1], *mask.shape[-3:])
    mask = mask[(None,) * (4 - rank)] if rank <= 4 else mask.flatten(0, -4)
    if group == 1:
        return mask
    return mask.unsqueeze(2) if mask.shape[1] == 1 else mask.unflatten(1, (lead[-1], group))


_attention_with_weights = autocast_to("lower precision")(autograd.attention.attention_with_weights)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Project query, key and value, let ``num_heads`` parts of them attend, and project the result.

    Each head h has its part of E / num_heads features, y_h = softmax(q_h k_hᵀ / sqrt(E / num_heads) + masks) v_h, and
    the output is the projection of the y_h side by side.

    Shapes: query (L, N, E) or (L, E), key (S, N, Ek), value (S, N, Ev); key_padding_mask (N, S), attn_mask (L, S) or
    (N num_heads, L, S), each boolean, True where a key is *not* seen, or added to the scores. Returns (L, N, E) and,
    if ``need_weights``, the probabilities, (N, L, S) averaged over the heads or (N, num_heads, L, S).
    in_proj_weight is (3 E, E), of query, key and value one below the other, or with ``use_separate_proj_weight``
    q_proj_weight (E, E), k_proj_weight (E, Ek) and v_proj_weight (E, Ev); in_proj_bias (3 E). bias_k and bias_v
    (1, 1, E) are one more key and value, ``add_zero_attn`` adds one of zeros; static_k and static_v
    (N num_heads, S, E / num_heads) stand for the projected ones.

    Without ``need_weights`` memory is linear in L and S, and a row that sees no key is the projection of 0; with them
    it is NaN. ``is_causal`` then says that ``attn_mask`` is the causal one, so that it need not be read.

    Raises:
        AssertionError: if shapes do not fit, as the built-in does.
        RuntimeError: if ``attn_mask`` has a wrong shape, or is missing though ``is_causal``.

    (Vaswani et al., "Attention is all you need", 2017.)
    """
    batched = builtin._mha_shape_check(  # type: ignore[attr-defined]
        query, key, value, key_padding_mask, attn_mask, num_heads
    )
    same_keys, same = key is value, query is key and key is value
    if not batched:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    length, batch, embed_dim = query.shape
    if is_causal and attn_mask is None:
        raise RuntimeError("multi_head_attention_forward(): is_causal needs attn_mask, got None")
    is_causal = is_causal and key_padding_mask is None and not need_weights
    if is_causal:
        attn_mask = None
    head_dim = embed_dim // num_heads
    if embed_dim != embed_dim_to_check or head_dim * num_heads != embed_dim:
        raise AssertionError(
            f"multi_head_attention_forward(): query must have {embed_dim_to_check} features, a multiple of "
            f"num_heads = {num_heads}, got shape {tuple(query.shape)}"
        )
    fitting = key.shape[:2] == value.shape[:2] if use_separate_proj_weight else key.shape == value.shape
    if not fitting:
        raise AssertionError(
            f"multi_head_attention_forward(): key and value do not fit, got shapes {tuple(key.shape)} and "
            f"{tuple(value.shape)}"
        )
    weights: tuple[Tensor | None, ...]
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        for name, weight, tensor in zip("qkv", weights, (query, key, value), strict=True):
            if weight is None or weight.shape != (embed_dim, tensor.shape[-1]):
                raise AssertionError(
                    f"multi_head_attention_forward(): {name}_proj_weight must have shape "
                    f"{(embed_dim, tensor.shape[-1])}, got {None if weight is None else tuple(weight.shape)}"
                )
        q, k, v = _projected(weights, in_proj_bias, query, key, value)
    elif in_proj_weight is None:
        raise AssertionError("multi_head_attention_forward(): in_proj_weight must be a Tensor, got None")
    elif same:
        q, k, v = _project(query, in_proj_weight, in_proj_bias).unflatten(-1, (3, embed_dim)).unbind(2)
    elif same_keys:
        sizes = (embed_dim, 2 * embed_dim)
        biases = (None, None) if in_proj_bias is None else in_proj_bias.split(sizes)
        first, others = in_proj_weight.split(sizes)
        q = _project(query, first, biases[0])
        k, v = _project(key, others, biases[1]).unflatten(-1, (2, embed_dim)).unbind(2)
    else:
        q, k, v = _projected(in_proj_weight.chunk(3), in_proj_bias, query, key, value)
    if (bias_k is None) != (bias_v is None):
        raise AssertionError("multi_head_attention_forward(): bias_k and bias_v must both be given, or neither")
    further = int(bias_k is not None) + int(add_zero_attn)
    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise AssertionError("multi_head_attention_forward(): bias_k cannot be added to static_k or static_v")
        k, v = (torch.cat([t, b.expand(1, batch, embed_dim)]) for t, b in ((k, bias_k), (v, bias_v)))
    if key.shape[1] != batch and (static_k is None or static_v is None):
        raise RuntimeError(
            f"multi_head_attention_forward(): query and key must have one batch, got shapes {tuple(query.shape)} and "
            f"{tuple(key.shape)}"
        )
    q, k, v = (t.unflatten(-1, (num_heads, head_dim)).permute(1, 2, 0, 3) for t in (q, k, v))
    k, v = (
        own if static is None else _static(name, static, batch, num_heads, head_dim)
        for name, static, own in (("static_k", static_k, k), ("static_v", static_v, v))
    )
    if add_zero_attn:
        k, v = pad(k, (0, 0, 0, 1)), pad(v, (0, 0, 0, 1))
    mask = _merged(attn_mask, key_padding_mask, (batch, num_heads, length, k.shape[2]), further, query.dtype)
    p = dropout_p if training else 0.0
    shares = None
    if need_weights:
        output, shares = _attention_with_weights(q, k, v, mask, p)
    else:
        output = scaled_dot_product_attention(q, k, v, mask, p, is_causal)
    output = _project(output.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    if shares is not None and average_attn_weights:
        shares = shares.mean(1)
    if batched:
        return output, shares
    return output.squeeze(1), None if shares is None else shares.squeeze(0)


def _project(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the linear map of (L, N, E), in the order in which it stands in memory."""
    if not input.is_contiguous() and input.transpose(0, 1).is_contiguous():
        return linear(input.transpose(0, 1), weight, bias).transpose(0, 1)
    return linear(input, weight, bias)


def _projected(weights: Sequence[Tensor | None], bias: Tensor | None, *tensors: Tensor) -> Sequence[Tensor]:
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    return [_project(t, w, b) for t, w, b in zip(tensors, weights, biases, strict=True)]  # type: ignore[arg-type]


def _static(name: str, tensor: Tensor, batch: int, heads: int, size: int) -> Tensor:
    if tensor.shape[0] != batch * heads or tensor.shape[2] != size:
        raise AssertionError(
            f"multi_head_attention_forward(): {name} must have shape ({batch * heads}, S, {size}), "
            f"got {tuple(tensor.shape)}"
        )
    return tensor.unflatten(0, (batch, heads))


def _merged(
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    shape: tuple[int, int, int, int],
    further: int,
    dtype: torch.dtype,
) -> Tensor | None:
    """Return what scaled_dot_product_attention takes for the two masks; ``further`` keys are always seen."""
    op = "multi_head_attention_forward"
    batch, heads, length, keys = shape
    masks = []
    if attn_mask is not None:
        wanted = (length, keys - further) if attn_mask.dim() == 2 else (batch * heads, length, keys - further)
        if attn_mask.shape != wanted:
            raise RuntimeError(f"{op}(): attn_mask must have shape {wanted}, got {tuple(attn_mask.shape)}")
        masks.append(attn_mask[None, None] if attn_mask.dim() == 2 else attn_mask.unflatten(0, (batch, heads)))
    if key_padding_mask is not None:
        if key_padding_mask.shape != (batch, keys - further):
            raise AssertionError(
                f"{op}(): key_padding_mask must have shape {(batch, keys - further)}, "
                f"got {tuple(key_padding_mask.shape)}"
            )
        masks.append(key_padding_mask[:, None, None])
    if not masks:
        return None
    if all(mask.dtype == torch.bool for mask in masks):
        hidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
        return pad(hidden, (0, further)).logical_not() if further else hidden.logical_not()
    given = {"attn_mask": attn_mask, "key_padding_mask": key_padding_mask}
    other = builtin._none_or_dtype(attn_mask)  # of which the built-in warns if the two differ
    total: Tensor | None = None
    for name, mask in zip([name for name in given if given[name] is not None], masks, strict=True):
        term = builtin._canonical_mask(mask, name, other, "attn_mask", dtype, check_other=name != "attn_mask")
        total = term if total is None or term is None else total + term
    return pad(total, (0, further)) if further and total is not None else total
