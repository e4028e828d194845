#!/usr/bin/env python3
"""Times somebody else's attention over a paged cache on a GPU, as house.py does: of one query a request, or of its last rows.

usage: attention.py torch|torch-gather|torch-causal|flashinfer[-fp8][-tensor-cores] SIZES N_SETS ARRAYS

SIZES is JSON: {"batch", "n_heads", "group", "head_dim", "n_pages", "page_size", "n_pages_each", "n_tokens", "block_size",
"n_lists", "n_blocks", "element"}, and for torch-causal "n_queries" and "compared", tokens of all requests. ARRAYS is a
file of one array after the other:

    queries     [batch * n_queries, n_heads * group, head_dim]            element: bf16 or f16
    keys        [n_pages, page_size, n_heads, head_dim]
    values      the same
    page_table  [batch, n_pages_each]                         int32
    lists       [batch, n_lists, n_blocks]                    int32; block_size 0: none, and all n_tokens count
    outputs     as queries, or of those that are compared: what must come of them, within 2 % (root of the mean square), and
                of fp8 within 10 %

There are N_SETS copies of what is read, in turn, so that none is in a cache. torch is scaled_dot_product_attention over
keys and values of one request and head one after the other; where tokens are picked, they were gathered before, and
torch-gather gathers them too. torch-causal is the same of many queries under causal_lower_right, over keys and values that
were repeated for each query head before. FlashInfer is BatchDecodeWithPagedKVCacheWrapper: pages are the cache's where all of
their tokens count, and else single tokens, lists of each head being requests of one head. Of fp8, keys and values were rounded
before to e4m3 times a scale of all keys and one of all values, by which the greatest is e4m3's.
"""

import json
from types import SimpleNamespace

import house


def read_arrays(sizes, path):
    """Each on the GPU, by its name."""
    import torch

    of = SimpleNamespace(**{"n_queries": 1, "compared": None, **sizes})
    element = {"bf16": torch.bfloat16, "f16": torch.float16}[of.element]
    n_tokens = of.batch * of.n_queries
    tokens = (n_tokens, of.n_heads * of.group, of.head_dim)
    compared = (n_tokens if of.compared is None else len(of.compared), *tokens[1:])
    pool = (of.n_pages, of.page_size, of.n_heads, of.head_dim)
    shapes = {
        "queries": (element, tokens),
        "keys": (element, pool),
        "values": (element, pool),
        "page_table": (torch.int32, (of.batch, of.n_pages_each)),
        "lists": (torch.int32, (of.batch, of.n_lists, of.n_blocks if of.block_size else 0)),
        "outputs": (element, compared),
    }
    with open(path, "rb") as file:
        for name, (dtype, shape) in shapes.items():
            n = 1
            for size in shape:
                n *= size
            n_bytes = n * torch.empty((), dtype=dtype).element_size()
            data = bytearray(file.read(n_bytes))
            if len(data) != n_bytes:
                raise ValueError(f"{path} ends in {name}")
            array = torch.frombuffer(data, dtype=dtype) if n else torch.empty(0, dtype=dtype)
            setattr(of, name, array.reshape(shape).cuda())
    return of


def slots_of(of):
    """Which rows of the pool count: [batch, n_lists, n], each page_size times a page and more."""
    import torch

    if of.block_size:
        within = torch.arange(of.block_size, device=of.lists.device)
        tokens = (of.lists.long()[..., None] * of.block_size + within).flatten(2)
    else:
        tokens = torch.arange(of.n_tokens, device=of.lists.device).expand(of.batch, 1, -1)
    table = of.page_table.long()[:, None].expand(-1, tokens.shape[1], -1)
    return table.gather(2, tokens // of.page_size) * of.page_size + tokens % of.page_size


def by_torch(of, gathers):
    """The call, and what a set of it reads, of which the first two are copied."""
    import torch

    slots = slots_of(of)

    def gather(pool):
        rows = pool.flatten(0, 1)
        if slots.shape[1] == 1:
            return rows[slots[:, 0]].transpose(1, 2)
        heads = torch.arange(of.n_heads, device=slots.device)[:, None]
        return rows[slots, heads]

    queries = of.queries[:, :, None]

    def attend(keys, values):
        if gathers:
            keys, values = gather(keys), gather(values)
        attend_to = torch.nn.functional.scaled_dot_product_attention
        return attend_to(queries, keys, values, enable_gqa=True)[:, :, 0]

    if gathers:
        return attend, of.keys, of.values, torch.__version__
    keys, values = gather(of.keys).contiguous(), gather(of.values).contiguous()
    return attend, keys, values, torch.__version__


def by_torch_causal(of):
    import torch
    from torch.nn.attention.bias import causal_lower_right

    slots = slots_of(of)[:, 0]
    pools = (pool.flatten(0, 1)[slots].transpose(1, 2) for pool in (of.keys, of.values))
    keys, values = (pool.repeat_interleave(of.group, 1) for pool in pools)
    queries = of.queries.unflatten(0, (of.batch, of.n_queries)).transpose(1, 2).contiguous()
    mask = causal_lower_right(of.n_queries, of.n_tokens)

    def attend(keys, values):
        attend_to = torch.nn.functional.scaled_dot_product_attention
        return attend_to(queries, keys, values, attn_mask=mask).transpose(1, 2).flatten(0, 1)

    return attend, keys, values, torch.__version__


def to_fp8(pool):
    """The pool divided by a scale, and that."""
    import torch

    scale = float(pool.abs().max()) / torch.finfo(torch.float8_e4m3fn).max
    # By parts: all of it in f32 may be too much.
    rounded = torch.empty_like(pool, dtype=torch.float8_e4m3fn)
    for to, part in zip(rounded.split(4096), pool.split(4096)):
        to.copy_(part.float() / scale)
    return rounded, scale


def by_flashinfer(of, is_fp8, options):
    import flashinfer
    import torch

    n_heads, queries, keys, values = of.n_heads, of.queries, of.keys, of.values
    if of.block_size in (0, of.page_size) and of.n_lists == 1:
        page_size = of.page_size
        pages = of.page_table
        if of.block_size:
            pages = pages.long().gather(1, of.lists[:, 0].long())
        n_tokens = of.n_blocks * page_size if of.block_size else of.n_tokens
    else:
        page_size = 1
        pages = slots_of(of)
        if of.n_lists > 1:
            # A request of one head for each head; its rows are of that head alone.
            pages = pages * n_heads + torch.arange(n_heads, device=pages.device)[:, None]
            queries = queries.reshape(of.batch * n_heads, of.group, of.head_dim)
            n_heads = 1
        pages = pages.flatten(0, 1)
        keys, values = (pool.reshape(-1, 1, n_heads, of.head_dim) for pool in (keys, values))
        n_tokens = pages.shape[1]
    scales = {}
    if is_fp8:
        keys, scales["k_scale"] = to_fp8(keys)
        values, scales["v_scale"] = to_fp8(values)
    n_each = -(-n_tokens // page_size)
    pages = pages[:, :n_each].int().flatten().contiguous()
    n_requests = queries.shape[0]
    starts = torch.arange(n_requests + 1, dtype=torch.int32, device=pages.device) * n_each
    n_of_last = torch.full((n_requests,), n_tokens - (n_each - 1) * page_size, dtype=torch.int32)
    workspace = torch.empty(512 << 20, dtype=torch.uint8, device=pages.device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", **options)
    wrapper.plan(
        starts,
        pages,
        n_of_last.to(pages.device),
        of.group * n_heads,
        n_heads,
        of.head_dim,
        page_size,
        q_data_type=queries.dtype,
        kv_data_type=keys.dtype,
    )

    def attend(keys, values):
        return wrapper.run(queries, (keys, values), **scales).reshape(of.outputs.shape)

    return attend, keys, values, flashinfer.__version__


def measure(library, sizes, n_sets, path):
    of = read_arrays(json.loads(sizes), path)
    if library == "torch-causal":
        attend, keys, values, version = by_torch_causal(of)
    elif library.startswith("torch"):
        attend, keys, values, version = by_torch(of, library == "torch-gather")
    else:
        options = {"use_tensor_cores": True} if library.endswith("tensor-cores") else {}
        attend, keys, values, version = by_flashinfer(of, "fp8" in library, options)
    expected = of.outputs.float()
    found = attend(keys, values)
    if of.compared is not None:
        found = found[of.compared]
    error = (found.float() - expected).pow(2).mean().sqrt()
    share = float(error / expected.pow(2).mean().sqrt())
    if not share <= (0.1 if "fp8" in library else 0.02):
        return {"why": f"it differs by {100.0 * share:.1f} %", "version": version}
    sets = [(keys, values)] + [(keys.clone(), values.clone()) for _ in range(int(n_sets) - 1)]
    us, how = house.time_calls([lambda one=one: attend(*one) for one in sets])
    return {"us": us, "version": f"{version}, {how}"}


house.answer(__doc__, 4, measure)
