#!/usr/bin/env python3
"""Times somebody else's top-k of bf16 rows on a GPU, as house.py does.

usage: topk.py torch|flashinfer|flashinfer-deterministic N_ROWS N K N_SETS SCORES

SCORES is a file of N_ROWS x N bf16 numbers, of which there are N_SETS copies in turn, so that none is in a cache.
What does not pick the k largest values, as a sort finds them, has no time.
"""

import house


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

    n_rows, n, k, n_sets = map(int, (n_rows, n, k, n_sets))
    pick, version = pick_by(library, k)
    with open(path, "rb") as file:
        scores = torch.frombuffer(bytearray(file.read()), dtype=torch.bfloat16)
    scores = scores.reshape(n_rows, n).cuda()
    found = pick(scores)[0].float().sort(dim=1, descending=True).values
    if not torch.equal(found, scores.float().sort(dim=1, descending=True).values[:, :k]):
        return {"why": "it does not pick the k largest", "version": version}
    sets = [scores.clone() for _ in range(n_sets)]
    us, how = house.time_calls([lambda one=one: pick(one) for one in sets])
    return {"us": us, "version": f"{version}, {how}"}


house.answer(__doc__, 6, measure)
