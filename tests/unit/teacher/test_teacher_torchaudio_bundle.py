"""torchaudio bundles: small ones of every kind, built and saved as the published ones are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mvqkd.errors import TeacherError
from mvqkd.frames import expected_teacher_frames
from mvqkd.teacher.base import TeacherSpec, load_teacher
from mvqkd.teacher.torchaudio_bundle import BundleTeacher, load_bundle_teacher
from mvqkd.torchaudio_compat import import_torchaudio

torchaudio = import_torchaudio()
CONVOLUTIONS = [(16, 10, 5), (16, 3, 2), (16, 3, 2), (16, 3, 2), (16, 3, 2), (16, 2, 2), (16, 2, 2)]
LABELS = ("|", "A", "B", "C")


def params(*, large: bool, **more: Any) -> dict[str, Any]:
    return {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_layer_config": CONVOLUTIONS,
        "extractor_conv_bias": large,
        "encoder_embed_dim": 32,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": 3,
        "encoder_num_heads": 4,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 64,
        "encoder_ff_interm_dropout": 0.1,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": large,
        "encoder_layer_drop": 0.5,
        "aux_num_out": None,
    } | more


def bundle(kind: str, path: str, own: dict[str, Any], *, normalize: bool = False, labels: Any = None) -> Any:
    impl = torchaudio.pipelines._wav2vec2.impl
    fields = {
        "_path": path,
        "_params": own,
        "_sample_rate": 16_000,
        "_normalize_waveform": normalize,
        "_model_type": kind,
    }
    return impl.Wav2Vec2Bundle(**fields) if labels is None else impl.Wav2Vec2ASRBundle(**fields, _labels=labels)


WAVLM = {"encoder_num_buckets": 20, "encoder_max_distance": 50}
BUNDLES = {
    "HUBERT_SMALL_BASE": bundle("Wav2Vec2", "base.pth", params(large=False)),
    "HUBERT_SMALL_LARGE": bundle("Wav2Vec2", "large.pth", params(large=True), normalize=True),
    "WAVLM_SMALL": bundle("WavLM", "wavlm.pth", params(large=False, **WAVLM)),
    "HUBERT_ASR_SMALL": bundle(
        "Wav2Vec2", "https://example.invalid/asr.pth", params(large=True, aux_num_out=5), normalize=True, labels=LABELS
    ),
}


def build(own: Any) -> Any:
    models = torchaudio.models
    return {"Wav2Vec2": models.wav2vec2_model, "WavLM": models.wavlm_model}[own._model_type](**own._params)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for own in BUNDLES.values():
        state = build(own).state_dict()
        if "aux.weight" in state:
            # As fairseq's: the symbols' outputs with three unused ones behind the blank.
            for key in ("aux.weight", "aux.bias"):
                state[key] = torch.cat([state[key][:1], torch.full_like(state[key][:3], 1e3), state[key][1:]])
        # The published checkpoints name the weight norm as older torch did.
        old = {"weight.original0": "weight_g", "weight.original1": "weight_v"}
        for new_name, old_name in old.items():
            key = f"encoder.transformer.pos_conv_embed.conv.parametrizations.{new_name}"
            state[f"encoder.transformer.pos_conv_embed.conv.{old_name}"] = state.pop(key)
        torch.save(state, folder / own._path.rsplit("/")[-1])
    return folder


@pytest.fixture(autouse=True)
def small_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, own in BUNDLES.items():
        monkeypatch.setattr(torchaudio.pipelines, name, own, raising=False)
    monkeypatch.setattr(torchaudio.pipelines, "__all__", [*torchaudio.pipelines.__all__, *BUNDLES])


@pytest.fixture(scope="module")
def audio() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    # Pairs close enough to share a padded batch, one of equal length, and a loner.
    sizes, levels = (9000, 16_000, 8500, 15_000, 1200, 9010), (0.02, 0.5, 0.1, 0.1, 0.1, 0.2)
    return [
        (level * (rng.standard_normal(size) + 0.3)).astype(np.float32)
        for size, level in zip(sizes, levels, strict=True)
    ]


def load(name: str, checkpoints: Path, layer: int = 2) -> BundleTeacher:
    teacher = load_teacher(TeacherSpec(name, layer, checkpoint_dir=checkpoints, device="cpu"))
    assert isinstance(teacher, BundleTeacher)
    return teacher


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("batch_frames", [0, 100_000])
def test_batch_mates_and_padding_change_nothing(
    name: str, batch_frames: int, checkpoints: Path, audio: list[NDArray[np.float32]]
) -> None:
    teacher = load(name, checkpoints)
    teacher._batch_frames = batch_frames
    together, lengths = teacher.embed(audio)
    for row, length, samples in zip(together, lengths, audio, strict=True):
        alone, alone_length = teacher.embed([samples])
        assert alone_length.item() == length
        torch.testing.assert_close(alone[0], row[:length], atol=1e-5 if batch_frames else 0, rtol=0)
        assert not row[length:].any()
        assert abs(length.item() - expected_teacher_frames(samples.size, teacher.rate_hz)) <= 1
    assert teacher.rate_hz == Fraction(50)


@pytest.mark.parametrize("name", BUNDLES)
def test_embeddings_are_torchaudios_own(name: str, checkpoints: Path, audio: list[NDArray[np.float32]]) -> None:
    own = BUNDLES[name]
    model = own.get_model(dl_kwargs={"model_dir": str(checkpoints)})
    waveform = torch.from_numpy(audio[1])[None]
    for layer in (1, 3):
        with torch.inference_mode():
            reference = model.extract_features(waveform, num_layers=layer)[0][-1]
        teacher = load(name, checkpoints, layer)
        assert (teacher.layer, teacher.num_layers, teacher.dim) == (layer, 3, 32)
        torch.testing.assert_close(teacher.embed([audio[1]])[0], reference, atol=1e-5, rtol=0)


def test_the_id_follows_the_weights(checkpoints: Path, tmp_path: Path) -> None:
    first = load("HUBERT_SMALL_BASE", checkpoints)
    assert first.id.startswith("HUBERT_SMALL_BASE-")
    assert load("HUBERT_SMALL_BASE", checkpoints, layer=1).id == first.id
    state = torch.load(checkpoints / "base.pth", weights_only=True)
    state["encoder.transformer.layers.0.final_layer_norm.bias"] += 1
    torch.save(state, tmp_path / "base.pth")
    assert load("HUBERT_SMALL_BASE", tmp_path).id != first.id


def test_very_short_recordings_give_a_frame(checkpoints: Path) -> None:
    embeddings, lengths = load("HUBERT_SMALL_LARGE", checkpoints).embed([np.full(3, 0.1, np.float32)])
    assert lengths.tolist() == [1]
    assert embeddings.isfinite().all()


def test_only_a_bundle_with_a_head_transcribes(checkpoints: Path, audio: list[NDArray[np.float32]]) -> None:
    assert load("HUBERT_SMALL_BASE", checkpoints).transcribe(audio) is None
    model = BUNDLES["HUBERT_ASR_SMALL"].get_model(dl_kwargs={"model_dir": str(checkpoints)})
    with torch.inference_mode():
        path = model(torch.from_numpy(audio[1])[None])[0][0].argmax(dim=-1).unique_consecutive()
    symbols = "".join(("", " ", "A", "B", "C")[token] for token in path)
    texts = load("HUBERT_ASR_SMALL", checkpoints).transcribe(audio)
    assert texts is not None
    assert texts[1] == " ".join(symbols.split())


def test_a_missing_checkpoint_names_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TeacherError, match=rf"hubert_fairseq_base_ls960\.pth in {tmp_path}, got no such file"):
        load("HUBERT_BASE", tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(TeacherError, match=f"wavlm_base.pth in {tmp_path}/checkpoints"):
        load_teacher(TeacherSpec("WAVLM_BASE", 1, device="cpu"))


def test_another_models_checkpoint_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "base.pth").write_bytes((checkpoints / "wavlm.pth").read_bytes())
    with pytest.raises(TeacherError, match="the state dict that torchaudio publishes"):
        load("HUBERT_SMALL_BASE", tmp_path)
    (tmp_path / "base.pth").write_bytes((checkpoints / "base.pth").read_bytes()[:5000])
    with pytest.raises(TeacherError, match="the state dict that torchaudio publishes"):
        load("HUBERT_SMALL_BASE", tmp_path)


@pytest.mark.parametrize("layer", [0, 4])
def test_a_layer_out_of_range_is_refused(layer: int, checkpoints: Path) -> None:
    with pytest.raises(TeacherError, match="a layer from 1 to 3"):
        load_bundle_teacher("HUBERT_SMALL_BASE", layer, checkpoints, "cpu")
