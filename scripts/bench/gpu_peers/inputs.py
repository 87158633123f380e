"""Index sets and inputs of the GPU benchmark. gpu_inputs.ts makes the same ones for this library."""

import math

import torch

MASK = 0xFFFFFFFF
SINKS = 30  # first keys, forced by upstream
FORCED = 100  # nearest distances, likewise
RUN = 64  # length of a run of slashes outside the local band

# Budgets (columns, slashes) of the published Llama-3-8B-262k pattern file: heads of 1024, and heads of a
# layer of 32 in the same proportion (largest remainders).
BUDGETS = [
    {"vertical": 1000, "slash": 6096, "of1024": 473, "of32": 15},
    {"vertical": 30, "slash": 800, "of1024": 278, "of32": 8},
    {"vertical": 100, "slash": 800, "of1024": 153, "of32": 5},
    {"vertical": 3500, "slash": 100, "of1024": 89, "of32": 3},
    {"vertical": 500, "slash": 700, "of1024": 31, "of32": 1},
]


class Lcg:
    """x' = 1664525 x + 1013904223 mod 2^32 (Numerical Recipes); a draw below n takes the high bits."""

    def __init__(self, seed):
        self.state = seed & MASK

    def below(self, n):
        self.state = (1664525 * self.state + 1013904223) & MASK
        return (self.state * n) >> 32


def index_set(tokens, vertical, slash, seed):
    """Columns (ascending) and distances (descending) of one head.

    Columns: the sinks and random others. Distances: two thirds, and what is forced, are the local band, the
    rest runs of 64.
    """
    random = Lcg(seed)
    columns = set(range(min(SINKS, vertical, tokens)))
    while len(columns) < min(vertical, tokens):
        columns.add(random.below(tokens))
    slash = min(slash, tokens)
    distances = set(range(min(slash, max(FORCED, 2 * slash // 3))))
    while len(distances) < slash:
        start = RUN * random.below(math.ceil(tokens / RUN))
        for distance in range(start, min(start + RUN, tokens)):
            if len(distances) < slash:
                distances.add(distance)
    return sorted(columns), sorted(distances, reverse=True)


def hash_unit(index):
    """Uniform numbers in [-1, 1) of int64 indices below 2^32 (the lowbias32 hash)."""
    x = index & MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK
    x = x ^ (x >> 16)
    return (x.to(torch.float64) / 2**31 - 1).to(torch.float32)


LOCAL = 24  # pairs of low harmonics: a bump at distance 0
COMB = 32  # pairs of harmonics of tokens / 32: peaks at its multiples
LOCAL_SCALE, COMB_SCALE = 1.4, 1.0


def structured_rows(tokens, kind, first, count, device):
    """Rows of q, k or v of one head, f32 [count, 128]: attention with sinks, strong columns, a local band
    and periodic diagonals.

    Pairs of dimensions hold cos and sin of harmonics of the position, so that q.k depends on the distance;
    the last dimensions add mass to columns, the rest is noise.
    """
    position = torch.arange(first, first + count, device=device, dtype=torch.int64)
    salt = {"q": 1, "k": 2, "v": 3}[kind] << 28
    dims = torch.arange(128, device=device, dtype=torch.int64)
    noise = hash_unit((position[:, None] * 128 + dims[None, :] + salt) & MASK)
    if kind == "v":
        return noise
    rows = 0.5 * noise
    period = max(tokens // 32, 64)
    for pair in range(LOCAL + COMB):
        local = pair < LOCAL
        harmonic = pair + 1 if local else pair - LOCAL + 1
        length = 2 * tokens if local else period
        angle = ((position * harmonic) % length).to(torch.float64) * (2 * math.pi / length)
        scale = LOCAL_SCALE if local else COMB_SCALE
        rows[:, 2 * pair] = (scale * torch.cos(angle)).to(torch.float32)
        rows[:, 2 * pair + 1] = (scale * torch.sin(angle)).to(torch.float32)
    if kind == "q":
        rows[:, 126:] = 4.0
    else:
        strong = (hash_unit(position + (4 << 28)) + 1) / 2
        rows[:, 126] = 12.0 * strong**16
        rows[:, 127] = torch.where(position < SINKS, 12.0, 0.0)
    return rows


def structured(tokens, kind, heads, device, dtype):
    """[1, heads, tokens, 128], every head alike."""
    out = torch.empty(1, heads, tokens, 128, device=device, dtype=dtype)
    chunk = 1 << 17
    for first in range(0, tokens, chunk):
        count = min(chunk, tokens - first)
        out[:, :, first : first + count] = structured_rows(tokens, kind, first, count, device).to(dtype)
    return out
