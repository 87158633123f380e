"""PyTorch's cuDNN attention."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .timing import milliseconds, summary

HEAD_DIM = 128


def causal_flop(tokens, heads):
    """Both products over the lower triangle."""
    return 4 * HEAD_DIM * heads * tokens * (tokens + 1) / 2


def cudnn_attention(q, k, v):
    """Causal, grouped queries, through cuDNN or an error: never another kernel unnoticed."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def operands(tokens, heads, kv_heads, layout):
    """q, k, v as [1, heads, tokens, 128] views of memory in the layout `bhsd` or `bshd`."""

    def make(count):
        if layout == "bhsd":
            return torch.randn(1, count, tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
        packed = torch.randn(1, tokens, count, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
        return packed.transpose(1, 2)

    return make(heads), make(kv_heads), make(kv_heads)


def measure(lengths):
    """Both memory layouts; past 512K tokens one head, from which a layer's time follows."""
    rows = []
    for tokens in lengths:
        heads, kv_heads = (32, 8) if tokens <= 1 << 19 else (1, 1)
        for layout in ["bhsd", "bshd"] if tokens <= 1 << 17 else ["bshd"]:
            q, k, v = operands(tokens, heads, kv_heads, layout)
            times = milliseconds(lambda: cudnn_attention(q, k, v))
            row = {"tokens": tokens, "heads": heads, "kv_heads": kv_heads, "layout": layout}
            row.update(summary(times, causal_flop(tokens, heads)))
            rows.append(row)
            print(
                f"cuDNN {tokens} tokens, {heads} heads, {layout}: {row['ms']:.3f} ms, "
                f"{row['tflops']:.0f} TFLOP/s"
            )
            del q, k, v
    return rows
