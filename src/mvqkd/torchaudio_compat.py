"""Import torchaudio beside a torch build that its compiled extension does not fit.

The published torchaudio wheel is a CUDA build; beside a CPU-only torch its extension fails to load and takes
``import torchaudio`` with it. What this project uses (transforms, models, pipelines) is plain Python, so the
extension is declared absent, and only when the normal import fails: a half-imported torchaudio would also
break lhotse. Every module that needs torchaudio, directly or through lhotse, calls ``import_torchaudio`` first.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


def import_torchaudio() -> Any:
    """Return the torchaudio module, without its compiled extension where that cannot be loaded."""
    if "torchaudio" in sys.modules:
        return sys.modules["torchaudio"]
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError):
        for name in [name for name in sys.modules if name == "torchaudio" or name.startswith("torchaudio.")]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = _absent_extension()
        return importlib.import_module("torchaudio")


def _absent_extension() -> types.ModuleType:
    def fail_if_no_align(function: Any) -> Any:
        def unavailable(*_args: Any, **_kwargs: Any) -> Any:
            raise RuntimeError(f"{function.__name__} needs torchaudio's compiled extension, which does not load here")

        return unavailable

    module = types.ModuleType("torchaudio._extension")
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]  # names torchaudio looks up
    module._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined] # likewise
    module.fail_if_no_align = fail_if_no_align  # type: ignore[attr-defined] # likewise
    module._check_cuda_version = lambda: None  # type: ignore[attr-defined] # likewise
    return module
