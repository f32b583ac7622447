"""Where to compute, and in which precision that is fast."""

from __future__ import annotations

import torch

from mvqkd.errors import ConfigError

# Names of a processor's ability to multiply bfloat16. Where it is missing, bfloat16 is slower than float32.
NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")


def resolve_device(name: str) -> str:
    """Turn ``auto`` into ``cuda`` when there is one, else ``cpu``; refuse a device that is not there.

    Raises:
        ConfigError: torch does not know the device or does not see it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        # torch raises AssertionError for CUDA in a CPU-only build.
        raise ConfigError(
            f"device {name}",
            expected="a device that torch sees here",
            got=str(error).splitlines()[0],
            next_step="use --device auto or cpu",
        ) from error
    return name


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether this is a CPU with instructions for products of bfloat16."""
    return device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in NATIVE_BFLOAT16)


def take_one_torch_thread() -> None:
    """Let the calling thread compute with one torch thread, whatever the others take.

    It also changes the number of the process, which is that of MKL and of threads to come: whoever started this thread
    must set that again.
    """
    torch.get_num_threads()  # from here on this thread has a number of its own
    torch.set_num_threads(1)
