"""Transformers directories: tiny models with random weights, saved as users save theirs."""

from __future__ import annotations

import builtins
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from mvqkd.errors import MissingDependencyError, TeacherError
from mvqkd.frames import expected_teacher_frames
from mvqkd.teacher.base import Teacher, TeacherSpec, load_teacher
from mvqkd.torchaudio_compat import import_torchaudio

import_torchaudio()
transformers = pytest.importorskip("transformers", reason="extra transformers")

WAVEFORM_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
KINDS = {
    "hubert-base": ("HubertModel", "HubertConfig", {}),
    "hubert-large": ("HubertModel", "HubertConfig", LARGE),
    "wav2vec2-large": ("Wav2Vec2Model", "Wav2Vec2Config", LARGE),
    "wavlm-base": ("WavLMModel", "WavLMConfig", {}),
}
WHISPER_SIZES = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 100,
    "num_mel_bins": 80,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    for name, (model, config, extra) in KINDS.items():
        getattr(transformers, model)(getattr(transformers, config)(**WAVEFORM_SIZES, **extra)).save_pretrained(
            folder / name
        )
        transformers.Wav2Vec2FeatureExtractor(do_normalize=name.endswith("large")).save_pretrained(folder / name)
    whisper = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER_SIZES))
    # Small shards, as big checkpoints come in.
    whisper.save_pretrained(folder / "whisper", max_shard_size="100KB")
    assert len(list((folder / "whisper").glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def audio() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(size) + 0.02).astype(np.float32) for size in (16_000, 7000, 15_000)]


def load(path: Path, layer: int = 2) -> Teacher:
    return load_teacher(TeacherSpec(f"hf:{path}", layer, device="cpu"))


@pytest.mark.parametrize("name", [*KINDS, "whisper"])
def test_independent_of_batch_mates(name: str, directory: Path, audio: list[NDArray[np.float32]]) -> None:
    teacher = load(directory / name)
    together, lengths = teacher.embed(audio)
    assert (teacher.layer, teacher.num_layers, teacher.dim, teacher.rate_hz) == (2, 3, 32, Fraction(50))
    for row, length, samples in zip(together, lengths, audio, strict=True):
        assert torch.equal(teacher.embed([samples])[0][0], row[:length])
        assert not row[length:].any()
        assert abs(length.item() - expected_teacher_frames(samples.size, teacher.rate_hz)) <= 1
    assert teacher.transcribe(audio) is None


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_layers_are_those_of_transformers(
    name: str, layer: int, directory: Path, audio: list[NDArray[np.float32]]
) -> None:
    extractor = transformers.AutoFeatureExtractor.from_pretrained(directory / name)
    model = transformers.AutoModel.from_pretrained(directory / name).eval()
    with torch.inference_mode():
        inputs = extractor(audio[0], sampling_rate=16_000, return_tensors="pt")["input_values"]
        reference = model(inputs, output_hidden_states=True)
        ours, _ = load(directory / name, layer).embed(audio[:1])
        if layer < 3:
            torch.testing.assert_close(ours, reference.hidden_states[layer], atol=1e-5, rtol=0)
        else:
            # Whether hidden_states[3] is what comes before or behind the final norm depends on the version.
            final = model.encoder.layer_norm(ours) if name.endswith("large") else ours
            torch.testing.assert_close(final, reference.last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [1, 3])
def test_whisper_equals_transformers_on_a_full_window(layer: int, directory: Path) -> None:
    window = (0.1 * np.random.default_rng(1).standard_normal(30 * 16_000)).astype(np.float32)
    model = transformers.WhisperModel.from_pretrained(directory / "whisper").eval()
    mel = transformers.WhisperFeatureExtractor()(window, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.inference_mode():
        reference = model.encoder(mel, output_hidden_states=True).hidden_states[layer]
    torch.testing.assert_close(load(directory / "whisper", layer).embed([window])[0], reference, atol=1e-4, rtol=0)


def test_the_id_tells_content_not_place(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "hubert-base"
    copy.mkdir(parents=True)
    for file in (directory / "hubert-base").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    before = load(directory / "hubert-base").id
    assert load(copy).id == before
    assert before.startswith("hf:hubert-base-")
    preprocessor = copy / "preprocessor_config.json"
    preprocessor.write_text(preprocessor.read_text().replace("false", "true"))
    assert load(copy).id != before


@pytest.mark.parametrize("name", ["hubert-base", "whisper"])
def test_a_layer_out_of_range_is_refused(name: str, directory: Path) -> None:
    with pytest.raises(TeacherError, match=f"teacher hf:{name}, layer 4: expected a layer from 1 to 3"):
        load(directory / name, 4)


def test_pickled_weights_are_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((directory / "hubert-base" / "config.json").read_text())
    with pytest.raises(TeacherError, match="got none"):
        load(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(TeacherError, match=r"pickled weights \(pytorch_model.bin\), which can run code"):
        load(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(missing: str, directory: Path, tmp_path: Path) -> None:
    for file in (directory / "hubert-base").iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TeacherError, match=f"a directory with {missing}.*No such file"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["hubert-base", "whisper"])
def test_truncated_weights_are_refused(name: str, directory: Path, tmp_path: Path) -> None:
    for file in (directory / name).iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    with pytest.raises(TeacherError, match="teacher "):
        load(tmp_path)


def test_weights_that_would_be_random_are_refused(directory: Path, tmp_path: Path) -> None:
    for file in (directory / "hubert-base").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layers.1.feed_forward.output_dense.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=r"1 missing or of another shape \(encoder\.layers\.1\.feed_forward"):
        load(tmp_path)


def test_another_kind_of_model_is_refused(directory: Path, tmp_path: Path) -> None:
    for file in (directory / "hubert-base").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(TeacherError, match=r"expected model_type whisper, hubert, .*got model_type bert"):
        load(tmp_path)


def test_without_transformers_the_extra_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_import = builtins.__import__

    def import_without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "transformers":
            raise ImportError("No module named 'transformers'")
        return plain_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mvqkd\[teacher\]'"):
        load(directory / "hubert-base")
