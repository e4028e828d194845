"""What all calls need: tensors, queues on a stream, handles, errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, Union

from . import _lacuna
from ._lacuna import Device, Queue

__all__ = ["Buffer", "Device", "Error", "Handle", "Queue", "Status", "Tensor", "Typed", "call", "torch_queue"]


class SupportsDlpack(Protocol):
    """A tensor of PyTorch, CuPy, NumPy or any other library that exports DLPack."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Typed:
    """A tensor's memory as elements of another type of the same size: of bf16 and fp8 where a library has no such type or does not export it,
    `Typed(array_of_uint16, Dtype.BF16)`."""

    tensor: SupportsDlpack
    lacuna_dtype: int


Tensor = Union[SupportsDlpack, Typed]
Buffer = Union[bytes, bytearray, memoryview]


class Status(IntEnum):
    """Why a call did not do what it is for."""

    NULL = 1
    ABI = 2
    DTYPE = 3
    SHAPE = 4
    RANGE = 5
    WRONG_QUEUE = 6
    NO_DRIVER = 7
    STUB_DRIVER = 8
    DRIVER_TOO_OLD = 9
    NO_DEVICE = 10
    UNSUPPORTED_DEVICE = 11
    DRIVER = 12
    IMAGE = 13
    MALFORMED = 14
    CORRUPT = 15
    IO = 16
    OUT_OF_MEMORY = 17
    SIMT_FAULT = 18
    PANIC = 19
    OTHER = 20


class Error(RuntimeError):
    """A call was refused, or failed: its message says what, where, why and what to do. `driver_code` is the driver's, where
    `status` is `Status.DRIVER`."""

    def __init__(self, status: int, message: str, driver_code: int) -> None:
        super().__init__(message)
        self.status = Status(status)
        self.driver_code = driver_code


class Handle:
    """What the library keeps until this object ends, and with it what it was made of."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw


def call(name: str, values: Sequence[Any]) -> Any:
    return _lacuna.call(name, values)


def torch_queue(device: Any = None) -> Queue:
    """A queue on PyTorch's current stream of a device, as it is now: a `with torch.cuda.stream(...)` after it does not move it."""
    import torch  # type: ignore[import-not-found, unused-ignore]

    stream = torch.cuda.current_stream(device)
    return Device(stream.device.index).queue(stream.cuda_stream)
