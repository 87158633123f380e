"""A Llama-3-8B-shaped decoder in PyTorch: linear layers of cuBLAS, attention of cuDNN, bf16."""

import torch
from torch.nn.functional import linear, rms_norm, silu

from .dense import HEAD_DIM, cudnn_attention
from .timing import milliseconds, summary

HIDDEN, HEADS, KV_HEADS, FEED_FORWARD, LAYERS, VOCABULARY = 4096, 32, 8, 14336, 32, 128256
GROUP = HEADS // KV_HEADS
ROPE_BASE = 500000.0
# Rows of the feed-forward's wide activations held at once.
CHUNK = 32768
# From here on, attention is timed on one of the groups of query heads that share a key head.
GROUP_FROM = 1 << 20


def weight(rows, columns):
    return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) * columns**-0.5


class Layer:
    """One decoder layer with random weights."""

    def __init__(self):
        self.norms = torch.ones(2, HIDDEN, device="cuda", dtype=torch.bfloat16)
        self.qkv = weight((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN)
        self.output = weight(HIDDEN, HEADS * HEAD_DIM)
        self.gate_up = weight(2 * FEED_FORWARD, HIDDEN)
        self.down = weight(HIDDEN, FEED_FORWARD)

    def qkv_rows(self, x, cos, sin):
        """Norm, projection and rotation of a chunk of rows: [rows, heads, 128] each."""
        rows = linear(rms_norm(x, (HIDDEN,), self.norms[0], 1e-5), self.qkv)
        q, k, v = rows.view(-1, HEADS + 2 * KV_HEADS, HEAD_DIM).split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def rest_rows(self, x, attended):
        """Output projection, residual and feed-forward of a chunk of rows, in place."""
        x += linear(attended, self.output)
        gate, up = linear(rms_norm(x, (HIDDEN,), self.norms[1], 1e-5), self.gate_up).chunk(2, dim=-1)
        x += linear(silu(gate) * up, self.down)

    def qkv_buffers(self, tokens):
        """Queries, keys and values of a sequence, [tokens, heads, 128]."""
        return [
            torch.empty(tokens, count, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
            for count in (HEADS, KV_HEADS, KV_HEADS)
        ]

    def run(self, x, angles, buffers):
        """The whole layer, in place."""
        project(self, x, angles, buffers)
        q, k, v = (buffer.transpose(0, 1).unsqueeze(0) for buffer in buffers)
        finish(self, x, cudnn_attention(q, k, v).squeeze(0).transpose(0, 1))


def rotate(x, cos, sin):
    half = HEAD_DIM // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rope_angles(tokens):
    """cos and sin, bf16 [tokens, 1, 64]."""
    inverse = ROPE_BASE ** -(torch.arange(0, HEAD_DIM, 2, device="cuda", dtype=torch.float32) / HEAD_DIM)
    angle = torch.arange(tokens, device="cuda", dtype=torch.float32)[:, None, None] * inverse
    return angle.cos().to(torch.bfloat16), angle.sin().to(torch.bfloat16)


def project(layer, x, angles, buffers):
    for first in range(0, len(x), CHUNK):
        rows = slice(first, first + CHUNK)
        for buffer, value in zip(buffers, layer.qkv_rows(x[rows], angles[0][rows], angles[1][rows])):
            buffer[rows] = value


def finish(layer, x, attended):
    for first in range(0, len(x), CHUNK):
        rows = slice(first, first + CHUNK)
        layer.rest_rows(x[rows], attended[rows].reshape(-1, HEADS * HEAD_DIM))


def linear_rates(layer, rows=CHUNK):
    """Time of the bare matrix products of a layer for a chunk of rows, and their rate."""
    shapes = [layer.qkv, layer.output, layer.gate_up, layer.down]
    inputs = [torch.randn(rows, w.shape[1], device="cuda", dtype=torch.bfloat16) for w in shapes]

    def products():
        for x, w in zip(inputs, shapes):
            linear(x, w)

    flop = sum(2 * rows * w.shape[0] * w.shape[1] for w in shapes)
    return {"rows": rows, **summary(milliseconds(products), flop)}


def measure(lengths):
    """Time to first token: a whole run where it is short, else one layer times the layers."""
    layer = Layer()
    head = weight(VOCABULARY, HIDDEN)
    linear_rate = linear_rates(layer)
    print(f"decoder, bare products of {CHUNK} rows: {linear_rate['tflops']:.0f} TFLOP/s")
    rows = []
    for tokens in lengths:
        torch.cuda.reset_peak_memory_stats()
        x = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
        angles = rope_angles(tokens)
        buffers = layer.qkv_buffers(tokens)
        whole = tokens <= 32768
        grouped = tokens >= GROUP_FROM
        row = {
            "tokens": tokens,
            "layers": LAYERS,
            "extrapolated": not whole,
            "attention_groups": 1 if grouped else KV_HEADS,
        }

        def run():
            for _ in range(LAYERS):
                layer.run(x, angles, buffers)
                x.mul_(0.5)  # the same layer over and over must not overflow
            linear(x[-1:], head).argmax()

        def attention():
            q, k, v = (buffer.transpose(0, 1).unsqueeze(0) for buffer in buffers)
            if grouped:
                q, k, v = q[:, :GROUP], k[:, :1], v[:, :1]
            return cudnn_attention(q, k, v)

        project(layer, x, angles, buffers)
        attend = summary(milliseconds(attention, most=5, warm_up=1))
        groups = KV_HEADS if grouped else 1
        before = summary(milliseconds(lambda: project(layer, x, angles, buffers), most=5, warm_up=1))
        after = summary(milliseconds(lambda: finish(layer, x, buffers[0]), most=5, warm_up=1))
        layer_ms = before["ms"] + groups * attend["ms"] + after["ms"]
        row.update(
            attention_ms=LAYERS * groups * attend["ms"],
            other_ms=LAYERS * (before["ms"] + after["ms"]),
            linear_ms=LAYERS * linear_rate["ms"] * tokens / CHUNK,
            ttft_ms=summary(milliseconds(run, most=5, warm_up=1))["ms"] if whole else LAYERS * layer_ms,
        )
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
        rows.append(row)
        print(
            f"decoder {tokens}: {row['ttft_ms'] / 1000:.3f} s to the first token"
            f"{' (one layer x 32)' if not whole else ''}, attention {row['attention_ms'] / 1000:.3f} s, "
            f"products {row['linear_ms'] / 1000:.3f} s"
        )
        del x, angles, buffers
        torch.cuda.empty_cache()
    return {"linear": linear_rate, "lengths": rows}
