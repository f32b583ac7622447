"""Whisper as a teacher, against CTranslate2's own encoder and on a real recording."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from mvqkd.data.text import normalize_text
from mvqkd.errors import TeacherError
from mvqkd.frames import expected_teacher_frames
from mvqkd.teacher.base import TeacherSpec, load_teacher
from mvqkd.teacher.ct2_reader import MODEL_FILES_SHA256, find_embedded_model, read_ct2_model
from mvqkd.teacher.whisper import CONTEXT_FRAMES, WhisperTeacher, encoder_of_ct2, load_ct2_whisper, windows
from mvqkd.teacher.whisper_encoder import SAMPLES_PER_FRAME, LogMel

Samples = NDArray[np.float32]


@pytest.fixture(scope="module")
def speech() -> Samples:
    samples, rate_hz = soundfile.read(Path(__file__).parent / "data" / "27-124992-0026.flac", dtype="float32")
    assert rate_hz == 16_000
    return samples


@pytest.fixture(scope="module")
def teacher() -> WhisperTeacher:
    loaded = load_teacher(TeacherSpec("whisper-tiny.en", 4, device="cpu"))
    assert isinstance(loaded, WhisperTeacher)
    return loaded


@pytest.fixture(scope="module")
def batching_teacher() -> WhisperTeacher:
    """The same weights, with padded batches as on an accelerator."""
    encoder = encoder_of_ct2("t", read_ct2_model(find_embedded_model() / "model.bin"), 3)
    return WhisperTeacher("t", MODEL_FILES_SHA256["model.bin"], encoder, 3, "cpu", batch_frames=100_000)


def ct2_encode(mel: torch.Tensor) -> torch.Tensor:
    import ctranslate2

    model = ctranslate2.models.Whisper(str(find_embedded_model()), compute_type="float32", intra_threads=1)
    encoded = model.encode(ctranslate2.StorageView.from_array(mel[None].contiguous().numpy()))
    return torch.from_numpy(np.array(encoded))[0]


def test_the_card(teacher: WhisperTeacher) -> None:
    assert (teacher.layer, teacher.num_layers, teacher.dim, teacher.rate_hz) == (4, 4, 384, Fraction(50))
    assert teacher.id == "whisper-tiny.en-1a5afae06a4d"


def test_the_last_layer_is_what_ctranslate2_computes(teacher: WhisperTeacher, speech: Samples) -> None:
    # A whole window: CTranslate2 knows no shorter input, and here nothing is padded on either side.
    window = np.tile(speech, 15)[: 30 * 16_000]
    ours, lengths = teacher.embed([window])
    reference = ct2_encode(LogMel(80)(torch.from_numpy(window), 3000))
    assert lengths.tolist() == [1500]
    torch.testing.assert_close(ours[0], reference, atol=5e-4, rtol=0)


def test_features_are_whispers_own(speech: Samples) -> None:
    # Whisper's feature extractor, as another library has it, on the padded 30 s window.
    transformers = pytest.importorskip("transformers", reason="extra transformers")
    reference = transformers.WhisperFeatureExtractor()(speech, sampling_rate=16_000, return_tensors="pt")
    ours = LogMel(80)(torch.from_numpy(speech), 200)
    torch.testing.assert_close(ours, reference["input_features"][0, :, :200], atol=1e-4, rtol=0)


def test_each_layer_is_the_next_ones_input(teacher: WhisperTeacher, speech: Samples) -> None:
    output = None
    for layer in (1, 2, 3):
        one = load_teacher(TeacherSpec("whisper-tiny.en", layer, device="cpu"))
        assert (one.layer, one.num_layers) == (layer, 4)
        embeddings, _ = one.embed([speech])
        if output is not None:
            torch.testing.assert_close(embeddings, output, atol=1e-5, rtol=0)
        with torch.inference_mode():
            output = teacher._encoder.layers[layer](embeddings, None)
    # Only the last layer has the final norm, which the comparison with CTranslate2 covers.
    with torch.inference_mode():
        final = teacher._encoder.final_norm(output)
    torch.testing.assert_close(teacher.embed([speech])[0], final, atol=1e-4, rtol=0)


def test_one_by_one_is_equal_to_the_bit(teacher: WhisperTeacher, speech: Samples) -> None:
    batch = [speech, speech[5000:12_345], speech[:777] * 3]
    together, lengths = teacher.embed(batch)
    for row, length, samples in zip(together, lengths, batch, strict=True):
        alone, _ = teacher.embed([samples])
        assert torch.equal(alone[0], row[:length])
        assert not row[length:].any()


def test_a_padded_batch_gives_the_same(batching_teacher: WhisperTeacher, speech: Samples) -> None:
    # The loud mate would change the others' scale were the mel maximum taken over the batch.
    batch = [speech[9000:], 20 * speech, speech[:3210], speech[:32_700], 0.01 * speech[2000:20_000]]
    together, lengths = batching_teacher.embed(batch)
    for row, length, samples in zip(together, lengths, batch, strict=True):
        alone, alone_length = batching_teacher.embed([samples])
        assert alone_length.item() == length
        torch.testing.assert_close(alone[0], row[:length], atol=1e-4, rtol=0)
        assert not row[length:].any()


@pytest.mark.parametrize("num_samples", [1, 159, 160, 479, 480, 481, 16_000, 30_719])
def test_frames_fit_the_duration(teacher: WhisperTeacher, speech: Samples, num_samples: int) -> None:
    embeddings, lengths = teacher.embed([speech[:num_samples]])
    assert lengths.item() == max(1, expected_teacher_frames(num_samples, Fraction(50)))
    assert embeddings.shape == (1, lengths.item(), 384)
    assert embeddings.isfinite().all()


def test_recordings_beyond_the_window_have_every_frame(teacher: WhisperTeacher, speech: Samples) -> None:
    long = np.tile(speech, 20)
    embeddings, lengths = teacher.embed([long])
    assert lengths.item() == expected_teacher_frames(long.size, Fraction(50)) > 1500
    assert (embeddings[0].std(dim=-1) > 0.1).all()
    # Two windows: what the second one gives is what its own audio gives, a second of context before it included.
    (_, stop, _, cut), (start, _, first, _) = windows(int(lengths), 1500)
    assert (cut, stop - cut, first - start) == (first, CONTEXT_FRAMES, CONTEXT_FRAMES)
    second, _ = teacher.embed([long[start * SAMPLES_PER_FRAME :]])
    assert torch.equal(second[0, first - start :], embeddings[0, first:])


def test_samples_behind_the_last_frames_centre_count(teacher: WhisperTeacher, speech: Samples) -> None:
    end = 50 * SAMPLES_PER_FRAME
    longer, shorter = (teacher.embed([speech[:size]])[0][0] for size in (end + 40, end))
    assert longer.shape == shorter.shape
    assert not torch.equal(longer[-1], shorter[-1])


def test_no_recordings_give_no_rows(teacher: WhisperTeacher) -> None:
    embeddings, lengths = teacher.embed([])
    assert embeddings.shape == (0, 0, 384)
    assert lengths.shape == (0,)


def test_transcribes_speech_in_order(teacher: WhisperTeacher, speech: Samples) -> None:
    texts = teacher.transcribe([speech, speech[: speech.size // 2]])
    assert texts is not None
    # Whisper may well write "30": the normaliser reads it out.
    assert normalize_text(texts[0], "upper-ascii-1").endswith("THERE FOR THIRTY DAYS")
    assert len(texts) == 2
    assert texts[1] != texts[0]


def test_transcribes_what_exceeds_the_window(teacher: WhisperTeacher, speech: Samples) -> None:
    gap = np.zeros(14 * 16_000, np.float32)
    (text,) = teacher.transcribe([np.concatenate([speech, gap, gap, speech])]) or []
    assert normalize_text(text, "upper-ascii-1").count("THERE FOR THIRTY DAYS") == 2


def test_weights_without_a_decoder_do_not_transcribe(batching_teacher: WhisperTeacher, speech: Samples) -> None:
    assert batching_teacher.transcribe([speech]) is None


def test_a_ct2_directory_is_a_teacher(tmp_path: Path, speech: Samples, teacher: WhisperTeacher) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.bin").symlink_to(find_embedded_model() / "model.bin")
    mine = load_teacher(TeacherSpec(f"ct2:{tmp_path / 'mine'}", 4, device="cpu"))
    assert mine.id == f"ct2:mine-{MODEL_FILES_SHA256['model.bin'][:12]}"
    torch.testing.assert_close(mine.embed([speech])[0], teacher.embed([speech])[0])
    assert mine.transcribe([speech]) is None


def test_quantised_ct2_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_ct2_model(find_embedded_model() / "model.bin")
    scale = np.ones(4, np.float32)
    quantised = replace(model, variables={**model.variables, "encoder/layer_0/ffn/linear_0/weight_scale": scale})
    monkeypatch.setattr("mvqkd.teacher.whisper.read_ct2_model", lambda path: quantised)
    with pytest.raises(TeacherError, match=r"expected float32 or float16 weights, got quantised ones"):
        load_ct2_whisper(tmp_path, 4, "cpu")


def test_a_ct2_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"model\.bin"):
        load_teacher(TeacherSpec(f"ct2:{tmp_path}", 4, device="cpu"))
