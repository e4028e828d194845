from collections.abc import Sequence
from typing import Any

__version__: str
has_simt: bool

class RawHandle: ...

class Device:
    """A CUDA device in its primary context, which PyTorch and CuPy share."""

    def __init__(self, ordinal: int = 0) -> None: ...
    @property
    def ordinal(self) -> int: ...
    @property
    def name(self) -> str: ...
    def warm_up(self) -> None:
        """Loads every kernel that the device can run: before the first capture of a graph, and for quick first calls."""

    def queue(self, stream: int) -> Queue:
        """A queue on a stream by its handle, as `torch.cuda.current_stream().cuda_stream` and `cupy.cuda.get_current_stream().ptr` are; the stream
        must outlive it."""

class Queue:
    """Where calls launch: a stream of the caller's."""

    @property
    def ordinal(self) -> int | None:
        """The CUDA device whose memory it works on; none of the executor."""

    @staticmethod
    def simt() -> Queue:
        """A queue that runs kernels on the CPU with every access checked, on NumPy's arrays: for tests, in a package that was built with the
        feature `simt`."""

def call(name: str, values: Sequence[Any]) -> Any: ...
