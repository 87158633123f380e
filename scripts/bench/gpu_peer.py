"""Times what this library is measured against on a GPU, and writes the figures as JSON.

    python3 -B scripts/bench/gpu_peer.py --out gpu-peer.json [--upstream .peers/MInference] [--only dense,...]

Sections: `dense` (PyTorch's cuDNN attention), `parts`, `launch`, `layer`, `blocks` (the published MInference
kernels, from a checkout: git clone https://github.com/microsoft/MInference .peers/MInference), `decoder`
(a Llama-3-8B-shaped decoder in PyTorch). Needs PyTorch with CUDA, Triton and nvcc. A section that fails says
so in the file and the others run.
"""

import argparse
import functools
import json
import subprocess
import time
import traceback

import torch
from gpu_peers import decoder, dense, sparse, upstream

DENSE_LENGTHS = [8192, 32768, 131072, 262144, 1048576]
SPARSE_LENGTHS = [8192, 32768, 131072, 1048576]
LONG_LENGTHS = [131072, 1048576]
DECODER_LENGTHS = [8192, 32768, 131072, 262144, 524288, 1048576]


def machine():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
    return {
        "gpu": torch.cuda.get_device_name(),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "nvidia_smi": subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", required=True)
    parser.add_argument("--upstream", help="checkout of microsoft/MInference")
    parser.add_argument("--only", default="dense,parts,launch,layer,blocks,decoder")
    parser.add_argument("--most-tokens", type=int, default=1 << 20)
    arguments = parser.parse_args()
    wanted = set(arguments.only.split(","))

    def lengths(all_lengths):
        return [tokens for tokens in all_lengths if tokens <= arguments.most_tokens]

    torch.manual_seed(0)
    results = {"schema": 1, "machine": machine()}
    sections = {
        "dense": lambda: dense.measure(lengths(DENSE_LENGTHS)),
        "decoder": lambda: decoder.measure(lengths(DECODER_LENGTHS)),
    }
    if arguments.upstream:
        modules = functools.cache(lambda: upstream.load(arguments.upstream))
        sections |= {
            "parts": lambda: sparse.measure_parts(modules()[0], lengths(SPARSE_LENGTHS)),
            "launch": lambda: sparse.measure_one_launch(modules()[0], lengths(LONG_LENGTHS)),
            "layer": lambda: sparse.measure_layer(modules()[0], lengths(SPARSE_LENGTHS)),
            "blocks": lambda: sparse.measure_block_sparse(modules()[1], lengths(LONG_LENGTHS)),
        }

    with torch.inference_mode():
        for name, measure in sections.items():
            if name not in wanted:
                continue
            start = time.monotonic()
            try:
                results[name] = measure()
            except Exception as error:  # one peer's failure must not cost the others' figures
                traceback.print_exc()
                results[name] = {"error": repr(error)}
            torch.cuda.empty_cache()
            print(f"-- {name}: {time.monotonic() - start:.1f} s", flush=True)
            with open(arguments.out, "w", encoding="utf-8") as file:
                json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
