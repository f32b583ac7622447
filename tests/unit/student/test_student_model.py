"""The student's losses, predictor and checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mvqkd.artifacts import PartialArtifact
from mvqkd.config import ModelConfig
from mvqkd.errors import ArtifactCorruptError
from mvqkd.student.checkpoint import WEIGHTS_FILE, load_student, save_student, student_facts
from mvqkd.student.model import Student

SMALL = ModelConfig(
    encoder_dim=32, num_heads=2, num_encoder_layers=2, feedforward_dim=64, conv_kernel=5, decoder_dim=32, joiner_dim=32
)


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    return Student(SMALL, vocab_size=9)


def test_training_on_one_batch_brings_all_losses_down(student: Student) -> None:
    features, lengths = torch.randn(3, 120, 80), torch.tensor([120, 90, 100])
    symbols, num_symbols = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 7, 0]]), torch.tensor([4, 2, 3])
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    seen = []
    for _ in range(40):
        encoded, frames, _ = student(features, lengths)
        losses = student.asr_losses(encoded, frames, symbols, num_symbols, prune_range=3)
        assert losses.usable.all()
        optimizer.zero_grad()
        (losses.simple + losses.pruned + losses.ctc).backward()
        optimizer.step()
        seen.append((losses.simple.item(), losses.pruned.item(), losses.ctc.item()))
    assert all(last < 0.3 * first for first, last in zip(seen[0], seen[-1], strict=True))


def test_an_item_with_more_symbols_than_frames_is_left_out(student: Student) -> None:
    student.eval()  # no dropout: the comparison is exact
    features, lengths = torch.randn(2, 40, 80), torch.tensor([40, 11])  # 9 and 2 student frames
    symbols, num_symbols = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([4, 4])
    encoded, frames, _ = student(features, lengths)
    losses = student.asr_losses(encoded, frames, symbols, num_symbols, prune_range=3)
    alone = student.asr_losses(encoded[:1], frames[:1], symbols[:1], num_symbols[:1], prune_range=3)
    assert losses.usable.tolist() == [True, False]
    torch.testing.assert_close(losses.pruned, alone.pruned)
    torch.testing.assert_close(losses.ctc, alone.ctc)


def test_start_context_embeds_to_zero_but_blank(student: Student) -> None:
    contexts = student.decoder.contexts(torch.tensor([[3, 4]]))
    assert contexts.tolist() == [[-1, 0, 3, 4]]
    assert student.decoder(contexts).shape == (1, 3, SMALL.decoder_dim)


def test_checkpoint_round_trip_and_refusal_of_other_weights(student: Student, tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "student", "student-checkpoint", stage="train-student", config={})
    save_student(student, partial.path)
    assert (partial.path / WEIGHTS_FILE).stat().st_mode & 0o044 == 0o044, "the next stage may be another user"
    partial.commit(facts=student_facts(student))
    loaded, _ = load_student(tmp_path / "student")
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])

    partial = PartialArtifact(tmp_path / "other", "student-checkpoint", stage="train-student", config={})
    save_file({"encoder.feature_mean": torch.zeros(3)}, partial.path / WEIGHTS_FILE)
    partial.commit(facts=student_facts(student))
    with pytest.raises(ArtifactCorruptError, match="re-run train-student"):
        load_student(tmp_path / "other")


def test_parameters_of_the_pruning_bound_do_not_ship(student: Student) -> None:
    everything = sum(parameter.numel() for parameter in student.parameters())
    bound = (32 + 1) * 9 * 2
    assert student.num_parameters() == everything - bound


@pytest.mark.parametrize("transcribed", [[True, False, True], [False, True, False]])
def test_items_without_transcript_cost_nothing(student: Student, transcribed: list[bool]) -> None:
    encoded, frames = torch.randn(3, 30, 32), torch.tensor([30, 22, 26])
    symbols, num_symbols = torch.tensor([[1, 2, 3], [5, 6, 0], [7, 8, 7]]), torch.tensor([3, 2, 3])
    some = torch.tensor(transcribed)
    student.eval()  # without dropout, which is drawn anew
    masked = student.asr_losses(encoded, frames, symbols, num_symbols, 3, some)
    alone = student.asr_losses(encoded[some], frames[some], symbols[some], num_symbols[some], 3)
    assert masked.usable.tolist() == transcribed
    for name in ("simple", "pruned", "ctc"):
        torch.testing.assert_close(getattr(masked, name), getattr(alone, name))


def test_a_batch_without_any_transcript_still_has_every_gradient(student: Student) -> None:
    encoded, frames, _ = student(torch.randn(2, 120, 80), torch.tensor([120, 90]))
    nothing, none = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    losses = student.asr_losses(encoded, frames, nothing, none, 3, torch.tensor([False, False]))
    assert not losses.usable.any()
    (losses.simple + losses.pruned + losses.ctc).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad.abs().sum() == 0 for parameter in student.parameters() if parameter.grad is not None)
