#!/usr/bin/env python3
"""Times PyTorch's linear layers of bf16 on a GPU, as house.py does.

usage: linear.py torch SIZES N_SETS ARRAYS

SIZES is JSON: {"n_rows": [of each matrix], "n_columns", "n_inputs", "is_gated"}. ARRAYS is a file of one array after the other,
all bf16:

    weights     [n_rows, n_columns] of each matrix
    x           [n_inputs, n_columns]
    outputs     [n_inputs, n_rows] of each matrix, of gated ones of the first: what must come of them, within 2 % (root of the mean square)

There are N_SETS copies of the weights, in turn, so that none is in a cache. Matrices are one of all their rows; gated ones
are silu of the first part of the product times the second.
"""

import json
import math

import house


def measure(library, sizes, n_sets, path):
    import torch
    from torch.nn import functional

    of = json.loads(sizes)
    n_rows, n_columns, n_inputs = of["n_rows"], of["n_columns"], of["n_inputs"]
    with open(path, "rb") as file:

        def read(*shape):
            n_bytes = 2 * math.prod(shape)
            data = bytearray(file.read(n_bytes))
            if len(data) != n_bytes:
                raise ValueError(f"{path} ends early")
            return torch.frombuffer(data, dtype=torch.bfloat16).reshape(shape).cuda()

        weights = torch.cat([read(n, n_columns) for n in n_rows])
        x = read(n_inputs, n_columns)
        outputs = [read(n_inputs, n) for n in (n_rows[:1] if of["is_gated"] else n_rows)]
    expected = torch.cat(outputs, 1).float()

    def multiply(weights):
        y = functional.linear(x, weights)
        if not of["is_gated"]:
            return y
        gate, up = y.split(n_rows, 1)
        return functional.silu(gate) * up

    error = (multiply(weights).float() - expected).pow(2).mean().sqrt()
    share = float(error / expected.pow(2).mean().sqrt())
    if not share <= 0.02:
        return {"why": f"it differs by {100.0 * share:.1f} %", "version": torch.__version__}
    sets = [weights] + [weights.clone() for _ in range(int(n_sets) - 1)]
    us, how = house.time_calls([lambda one=one: multiply(one) for one in sets])
    return {"us": us, "version": f"{torch.__version__}, {how}"}


house.answer(__doc__, 4, measure)
