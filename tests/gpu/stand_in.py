"""Makes `torch.cuda` answer for the device of device.cpp, which the processor computes."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class StandIn:
    """What the device says of itself."""

    def __init__(self, library: Path) -> None:
        """Load the device; PyTorch looks for one as it is imported, and must find this."""
        if "torch" in sys.modules:
            raise RuntimeError("the stand-in comes before torch")
        spec = importlib.util.find_spec("torch")
        assert spec is not None
        assert spec.origin is not None
        for name in ("libc10.so", "libtorch_cpu.so"):
            ctypes.CDLL(str(Path(spec.origin).parent / "lib" / name), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        for answer in ("held", "most", "refused"):
            getattr(self._library, f"stand_in_{answer}").restype = ctypes.c_int64
        self._library.stand_in_limit.argtypes = [ctypes.c_int64]

    @property
    def held(self) -> int:
        """Bytes that are allocated."""
        return int(self._library.stand_in_held())

    @property
    def most(self) -> int:
        """The most that were."""
        return int(self._library.stand_in_most())

    @property
    def refused(self) -> int:
        """How often the memory was full."""
        return int(self._library.stand_in_refused())

    def forget_most(self, _device: object = None) -> None:
        """Count the most from here on."""
        self._library.stand_in_forget_most()

    def limit(self, bytes_of_memory: int) -> None:
        """Have no more memory than this."""
        self._library.stand_in_limit(bytes_of_memory)

    def on_wait(self, act: Callable[[], None]) -> None:
        """Call `act` whenever a GPU would be waited for."""
        self._act = ctypes.CFUNCTYPE(None)(act)
        self._library.stand_in_on_wait(self._act)


class _Stream:
    """All is done when it has been asked for."""

    def wait_stream(self, other: _Stream) -> None:
        """Nothing is under way."""


class _Event:
    """Nothing is under way."""


_PROPERTIES = SimpleNamespace(name="stand-in", uuid="stand-in", is_integrated=False, major=9, minor=0)


def answer_for(device: StandIn, total: int) -> None:
    """Let `torch.cuda` be that of a GPU with `total` bytes, an H100 by what it can.

    PyTorch without CUDA leaves these functions there, and each of them refuses.
    """
    import torch  # noqa: PLC0415 - behind the device

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_name": lambda _=None: _PROPERTIES.name,
        "get_device_capability": lambda _=None: (_PROPERTIES.major, _PROPERTIES.minor),
        "get_device_properties": lambda _=None: _PROPERTIES,
        "mem_get_info": lambda _=None: (total - device.held, total),
        "memory_reserved": lambda _=None: device.held,
        "max_memory_reserved": lambda _=None: device.most,
        "reset_peak_memory_stats": device.forget_most,
        "empty_cache": lambda: None,
        "set_per_process_memory_fraction": lambda part, _=None: device.limit(int(part * total)),
        "synchronize": lambda _=None: None,
        "Stream": _Stream,
        "Event": _Event,
        "current_stream": lambda _=None: _Stream(),
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "cudart": lambda: SimpleNamespace(cudaHostRegister=lambda *_: 0, cudaHostUnregister=lambda _: 0),
        "check_error": lambda _: None,
        "get_rng_state": lambda _=None: torch.get_rng_state(),
        "set_rng_state": lambda state, _=None: torch.set_rng_state(state),
        "manual_seed_all": lambda _: None,
        "is_current_stream_capturing": lambda: False,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    torch.Tensor.pin_memory = lambda self, device=None: self.clone()  # type: ignore[method-assign]
