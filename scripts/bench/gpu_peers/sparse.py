"""Times of the published kernels: the parts of one head, one launch for many heads, a whole layer."""

import math

import torch

from .inputs import BUDGETS, index_set, structured
from .timing import milliseconds, summary
from .upstream import BLOCK

HEAD_DIM = 128
LAST_Q = 64
FORCED_COLUMNS, FORCED_SLASHES = 30, 100
LAYER_HEADS = 32
TOP_BLOCKS = 100
SCALE = HEAD_DIM**-0.5
# The kernels compute offsets in 32 bits: lists and operands of one launch must stay under 2^31 elements.
MOST_ELEMENTS = 2**31 - 1


def diagonal_sums(p):
    """Sums of the last rows' probabilities over diagonals: entry t is distance tokens - 1 - t."""
    rows, tokens = p.shape[-2:]
    padded = torch.nn.functional.pad(p, (rows, rows))
    width = tokens + 2 * rows
    skewed = padded.as_strided((rows, tokens + rows), (width + 1, 1), padded.storage_offset() + 1)
    return skewed.sum(0)[:tokens]


def estimate(q, k, lower):
    """Column and diagonal sums of the last 64 queries' attention of one head, as upstream takes them."""
    scores = torch.einsum("bhmk,bhnk->bhmn", q[:, :, -LAST_Q:], k) / math.sqrt(HEAD_DIM)
    scores[..., -LAST_Q:] = torch.where(lower, scores[..., -LAST_Q:], -torch.inf)
    p = torch.softmax(scores, dim=-1, dtype=torch.float32)
    vertical = p.sum(-2)
    vertical[..., :FORCED_COLUMNS] = torch.inf
    slash = diagonal_sums(p)
    slash[-FORCED_SLASHES:] = torch.inf
    return vertical, slash


def select(vertical, slash, budget):
    """Top columns, and top slashes as distances, [1, 1, count]."""
    tokens = slash.shape[-1]
    columns = torch.topk(vertical, min(tokens, budget[0]), -1).indices.view(1, 1, -1)
    distances = (tokens - 1) - torch.topk(slash, min(tokens, budget[1]), -1).indices.view(1, 1, -1)
    return columns, distances


def given_sets(tokens, vertical, slash, heads):
    """Index sets of several heads, [1, heads, count], int32 on the device."""
    sets = [index_set(tokens, vertical, slash, seed=h + 1) for h in range(heads)]
    return tuple(
        torch.tensor([one[part] for one in sets], dtype=torch.int32, device="cuda").unsqueeze(0)
        for part in (0, 1)
    )


class VerticalSlash:
    """Upstream's vertical-slash operation in steps."""

    def __init__(self, module, tokens):
        self.module = module
        self.tokens = tokens
        self.seqlens = torch.tensor([tokens], dtype=torch.int32, device="cuda")

    def index(self, columns, distances):
        """Sort and conversion into block and column lists."""
        columns = columns.to(torch.int32).sort(dim=-1).values
        distances = distances.to(torch.int32).sort(dim=-1, descending=True).values
        convert = self.module.convert_vertical_slash_indexes
        return convert(self.seqlens, columns, distances, self.tokens, BLOCK, BLOCK)

    def attend(self, q, k, v, lists):
        """The Triton kernel."""
        kernel = self.module._triton_mixed_sparse_attention
        return kernel(q, k, v, self.seqlens, *lists, SCALE, BLOCK, BLOCK)

    def work(self, lists):
        """Floating-point operations on the tiles computed, and the computed fraction of the causal cells."""
        blocks, _, columns, _ = lists
        tiles = blocks.sum().item() + ((columns + BLOCK - 1) // BLOCK).sum().item()
        cells = BLOCK * (BLOCK * blocks.sum().item() + columns.sum().item())
        heads = blocks.shape[1]
        density = cells / (heads * self.tokens * (self.tokens + 1) / 2)
        return 4 * HEAD_DIM * BLOCK * BLOCK * tiles, density


def heads_per_launch(tokens, listed):
    """Most heads (a power of two, at most a layer) that 32-bit offsets reach at `listed` entries a row."""
    rows = tokens // BLOCK
    most = min(MOST_ELEMENTS // (rows * listed), (MOST_ELEMENTS + 1) // (tokens * HEAD_DIM))
    return min(LAYER_HEADS, 1 << (most.bit_length() - 1))


def measure_parts(module, lengths):
    """Each budget, one head a call, as upstream calls it: estimate, selection, index, kernel."""
    lower = torch.ones(LAST_Q, LAST_Q, dtype=torch.bool, device="cuda").tril()
    rows = []
    for tokens in lengths:
        q, k, v = (structured(tokens, kind, 1, "cuda", torch.bfloat16) for kind in "qkv")
        op = VerticalSlash(module, tokens)
        vertical, slash = estimate(q, k, lower)
        for budget in BUDGETS:
            size = budget["vertical"], budget["slash"]
            columns, distances = given_sets(tokens, *size, heads=1)
            lists = op.index(columns, distances)
            flop, density = op.work(lists)
            row = {
                "tokens": tokens,
                "vertical": size[0],
                "slash": size[1],
                "density": density,
                "estimate": summary(milliseconds(lambda: estimate(q, k, lower), most=10)),
                "select": summary(milliseconds(lambda: select(vertical, slash, size), most=10)),
                "index": summary(milliseconds(lambda: op.index(columns, distances), most=10)),
                "kernel": summary(milliseconds(lambda: op.attend(q, k, v, lists), most=10), flop),
            }
            rows.append(row)
            print(
                f"upstream {tokens} {size}: density {density:.4f}, estimate {row['estimate']['ms']:.2f}, "
                f"select {row['select']['ms']:.2f}, index {row['index']['ms']:.2f}, "
                f"kernel {row['kernel']['ms']:.3f} ms, {row['kernel']['tflops']:.0f} TFLOP/s"
            )
    return rows


def measure_one_launch(module, lengths, budgets=((1000, 6096), (3500, 100))):
    """The kernel alone for the heads of a layer, in as few launches as its 32-bit offsets allow."""
    rows = []
    for tokens in lengths:
        for size in budgets:
            heads = heads_per_launch(tokens, max(size))
            q, k, v = (
                torch.randn(1, heads, tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
                for _ in range(3)
            )
            op = VerticalSlash(module, tokens)
            lists = op.index(*given_sets(tokens, *size, heads))
            flop, density = op.work(lists)
            times = milliseconds(lambda: op.attend(q, k, v, lists), most=10)
            launches = LAYER_HEADS // heads
            row = {"tokens": tokens, "vertical": size[0], "slash": size[1], "heads": heads}
            row.update(summary(times, flop), density=density)
            row["layer_ms"] = row["ms"] * launches
            rows.append(row)
            print(
                f"upstream one launch {tokens} {size}, {heads} heads: {row['ms']:.2f} ms, "
                f"{row['tflops']:.0f} TFLOP/s; {LAYER_HEADS} heads {row['layer_ms']:.1f} ms"
            )
            del q, k, v, lists
    return rows


def measure_layer(module, lengths):
    """All heads of a layer with the published mix of budgets, head by head as upstream runs them.

    Twice: with the columns and slashes that the structured inputs select, and with the given sets in their
    place (estimate and selection run as well, their result is not used).
    """
    lower = torch.ones(LAST_Q, LAST_Q, dtype=torch.bool, device="cuda").tril()
    budgets = [(b["vertical"], b["slash"]) for b in BUDGETS for _ in range(b["of32"])]
    rows = []
    for tokens in lengths:
        q, k, v = (structured(tokens, kind, 1, "cuda", torch.bfloat16) for kind in "qkv")
        out = torch.empty(1, LAYER_HEADS, tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
        op = VerticalSlash(module, tokens)
        given = {size: given_sets(tokens, *size, heads=1) for size in set(budgets)}

        def layer(use_given):
            for head, size in enumerate(budgets):
                chosen = select(*estimate(q, k, lower), size)
                lists = op.index(*(given[size] if use_given else chosen))
                out[:, head : head + 1] = op.attend(q, k, v, lists)

        selected = {size: op.work(op.index(*select(*estimate(q, k, lower), size)))[1] for size in given}
        planned = {size: op.work(op.index(*sets))[1] for size, sets in given.items()}
        row = {"tokens": tokens, "heads": LAYER_HEADS}
        for name, use_given, density in [("selected", False, selected), ("given", True, planned)]:
            times = milliseconds(lambda: layer(use_given), most=5, warm_up=1)
            row[name] = summary(times)
            row[name]["density"] = sum(density[size] for size in budgets) / LAYER_HEADS
            print(
                f"upstream layer {tokens}, {name} sets: {row[name]['ms']:.1f} ms, "
                f"density {row[name]['density']:.4f}"
            )
        rows.append(row)
        del q, k, v, out
    return rows


def measure_block_sparse(module, lengths):
    """The top 100 of 64-blocks: index and kernel of one head, and one launch for many."""
    rows = []
    for tokens in lengths:
        seqlens = torch.tensor([tokens], dtype=torch.int32, device="cuda")
        heads = heads_per_launch(tokens, TOP_BLOCKS)
        q, k, v = (structured(tokens, kind, heads, "cuda", torch.bfloat16) for kind in "qkv")
        one = [x[:, :1] for x in (q, k, v)]

        def build():
            return module._build_block_index(one[0], one[1], TOP_BLOCKS, BLOCK, BLOCK)

        index = build()
        many = index.expand(1, heads, -1, -1).contiguous()
        counts = torch.arange(1, tokens // BLOCK + 1).clamp(max=index.shape[-1]).sum().item()
        flop = 4 * HEAD_DIM * BLOCK * BLOCK * counts
        attend = module._triton_block_sparse_attention
        one_head = milliseconds(lambda: attend(*one, seqlens, index, SCALE), most=10)
        all_heads = milliseconds(lambda: attend(q, k, v, seqlens, many, SCALE), most=10)
        row = {
            "tokens": tokens,
            "top": TOP_BLOCKS,
            "heads": heads,
            "index_one_head": summary(milliseconds(build, most=10)),
            "kernel_one_head": summary(one_head, flop),
            "kernel": summary(all_heads, flop * heads),
        }
        rows.append(row)
        print(
            f"upstream block-sparse {tokens}: index {row['index_one_head']['ms']:.2f} ms a head, kernel "
            f"{row['kernel_one_head']['ms']:.2f} ms a head; {heads} heads {row['kernel']['ms']:.2f} ms, "
            f"{row['kernel']['tflops']:.0f} TFLOP/s"
        )
        del q, k, v, one, index, many
    return rows
