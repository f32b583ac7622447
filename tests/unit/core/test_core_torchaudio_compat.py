"""torchaudio imports beside this torch, in a process of its own, whatever state the wheel is in."""

from __future__ import annotations

import subprocess
import sys


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_transforms_work_and_import_is_idempotent() -> None:
    code = """
from mvqkd.torchaudio_compat import import_torchaudio
import torch
torchaudio = import_torchaudio()
assert import_torchaudio() is torchaudio
print(tuple(torchaudio.transforms.Resample(8000, 16000)(torch.zeros(1, 800)).shape))
import torchaudio.pipelines
assert torchaudio.pipelines.HUBERT_BASE.sample_rate == 16000
import lhotse
"""
    assert _python(code) == "(1, 1600)"


def test_importing_the_module_imports_nothing() -> None:
    code = "import sys, mvqkd.torchaudio_compat; print('torchaudio' in sys.modules, 'torch' in sys.modules)"
    assert _python(code) == "False False"
