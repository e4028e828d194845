"""What the scripts of peers share: timing as benches/house/measure.rs times ours, and the answer, one line of JSON:
{"us", "version"}, or {"why"} there is no time.
"""

import json
import sys


def time_calls(calls):
    """Microseconds of one of these calls, each of which is on data of its own, and how they were timed.

    In one CUDA graph: the median of 40 samples of at least 2 ms by the device's events.
    """
    import torch

    run_all = lambda: [call() for call in calls]
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
    return samples[19] / (n_runs * len(calls)), how


def answer(usage, n_arguments, measure):
    """Prints what `measure` gives for the command line: {"us", "version"}, or {"why"}."""
    if len(sys.argv) != 1 + n_arguments:
        sys.exit(usage)
    try:
        import torch

        if torch.cuda.is_available():
            result = measure(*sys.argv[1:])
        else:
            result = {"why": "torch sees no GPU"}
    except Exception as error:  # An absent library, an old one, one that fails: said in the row.
        result = {"why": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(result))
