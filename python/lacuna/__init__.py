"""lacuna: CUDA kernels for dynamic inference of language models, bit-exact against CPU references.

Every call takes a queue on a stream that the caller names, plans, and tensors of PyTorch, CuPy or NumPy by DLPack: no copy, no
allocation, no synchronisation. Names, shapes and errors are those of the C interface.

    queue = lacuna.torch_queue()
    plan = lacuna.TopkRowsPlan(n_rows=32, n=4096, k=512, dtype=lacuna.Dtype.BF16)
    indices = torch.empty(32, 512, dtype=torch.int32, device="cuda")
    counts = torch.empty(32, dtype=torch.uint32, device="cuda")
    lacuna.topk_rows(queue, plan, scores=scores, indices=indices, counts=counts)
"""

from ._base import Device, Error, Handle, Queue, Status, Tensor, Typed, torch_queue
from ._calls import *  # noqa: F403
from ._lacuna import __version__, has_simt

__all__ = [name for name in dir() if not name.startswith("_")]
