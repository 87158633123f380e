"""Device time."""

import statistics

import torch


def milliseconds(body, most=30, budget_ms=400.0, warm_up=2):
    """Times of single calls of body, by device events, after a warm-up.

    As many calls as fit the budget, at least two and at most `most`; a body that takes longer than two
    seconds is not warmed up twice.
    """
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def once():
        start.record()
        body()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    first = once()
    for _ in range(0 if first > 2000 else warm_up):
        first = once()
    return [once() for _ in range(max(2, min(most, int(budget_ms / max(first, 1e-3)))))]


def summary(times, flop=None):
    """Median, range and, with the work, the rate."""
    median = statistics.median(times)
    result = {"ms": median, "min": min(times), "max": max(times), "readings": len(times)}
    if flop is not None:
        result["tflops"] = flop / median * 1e-9
    return result
