#!/usr/bin/env python3
"""Times somebody else's top-k of bf16 rows on a GPU, as benches/house/measure.rs times ours.

usage: topk.py torch|flashinfer|flashinfer-deterministic N_ROWS N K N_SETS SCORES

SCORES is a file of N_ROWS x N bf16 numbers. On N_SETS copies of them in turn, so that none is in a cache, in one CUDA
graph: the median of 40 samples of at least 2 ms by the device's events. Prints one line of JSON: {"us", "version"}, or
{"why"} there is no time. What does not pick the k largest values, as a sort finds them, has none.
"""

import json
import sys


def pick_by(library, k):
    """The call, and the library's version."""
    if library == "torch":
        import torch

        return (lambda scores: torch.topk(scores, k, sorted=False)), torch.__version__
    import flashinfer

    options = {"deterministic": True} if library == "flashinfer-deterministic" else {}
    return (lambda scores: flashinfer.top_k(scores, k, **options)), flashinfer.__version__


def measure(library, n_rows, n, k, n_sets, path):
    import torch

    if not torch.cuda.is_available():
        return {"why": "torch sees no GPU"}
    pick, version = pick_by(library, k)
    with open(path, "rb") as file:
        scores = torch.frombuffer(bytearray(file.read()), dtype=torch.bfloat16)
    scores = scores.reshape(n_rows, n).cuda()
    found = pick(scores)[0].float().sort(dim=1, descending=True).values
    if not torch.equal(found, scores.float().sort(dim=1, descending=True).values[:, :k]):
        return {"why": "it does not pick the k largest", "version": version}

    sets = [scores.clone() for _ in range(n_sets)]
    run_all = lambda: [pick(one) for one in sets]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run_all()
        run_all()
    stream.synchronize()
    how = "graph replays"
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = run_all()
        run = graph.replay
    except RuntimeError:
        # What cannot be captured is launched; its launches are in the time.
        run, how = run_all, "launches"
        torch.cuda.synchronize()

    def sample(n_runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(n_runs):
            run()
        end.record()
        end.synchronize()
        return 1000.0 * start.elapsed_time(end)

    n_runs = min(max(int(2000.0 / max(sample(1), 0.1)) + 1, 1), 10_000)
    samples = sorted(sample(n_runs) for _ in range(40))
    return {"us": samples[19] / (n_runs * n_sets), "version": f"{version}, {how}"}


def main():
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    library, *sizes, path = sys.argv[1:]
    try:
        result = measure(library, *map(int, sizes), path)
    except Exception as error:  # An absent library, an old one, one that fails: said in the row.
        result = {"why": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(result))


main()
