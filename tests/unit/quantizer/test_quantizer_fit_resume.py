from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mvqkd.config import FitQuantizerConfig
from mvqkd.quantizer import fit_phase
from mvqkd.quantizer.embedding_source import EmbeddingStream
from mvqkd.quantizer.fit import Fit, fit
from mvqkd.quantizer.fit_state import STATE_FILE

CONFIG = FitQuantizerConfig(
    num_codebooks=2,
    phase_1_steps=14,
    phase_2_steps=14,
    batch_size=64,
    evaluate_every=3,
    checkpoint_every_s=0,
    device="cpu",
)
STEPS = CONFIG.phase_1_steps + CONFIG.phase_2_steps


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def frames(count: int = 700, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator) @ torch.randn(4, 10, generator=torch.Generator().manual_seed(9))


HELD_OUT = frames(100, seed=1)


class Killed(BaseException):
    """Not an Exception: nothing may catch it on the way."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Let the step of this number (from 1 on, over both phases) not end; the steps begun are counted in the list."""
    begun = [0]
    real = fit_phase.step_losses

    def losses(*arguments: Any, **options: Any) -> Any:
        begun[0] += 1
        if begun[0] == step:
            raise Killed
        return real(*arguments, **options)

    monkeypatch.setattr(fit_phase, "step_losses", losses)
    return begun


def bits(fitted: Fit) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in fitted.quantizer.state_dict().items()}


def curve(fitted: Fit) -> list[tuple[int, int, float]]:
    return [(point.phase, point.step, point.relative_error) for point in fitted.error_curve]


def stream() -> EmbeddingStream:
    return EmbeddingStream(lambda: iter(torch.split(frames(), 150)), buffer_frames=200)


@pytest.mark.parametrize("step", [2, 7, 13, 15, 16, 25, 28])
@pytest.mark.parametrize("source", [frames, stream])
def test_a_killed_fit_ends_with_the_bits_of_an_undisturbed_one(
    step: int, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fit(source(), CONFIG, held_out=HELD_OUT)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            fit(source(), CONFIG, held_out=HELD_OUT, resume_dir=tmp_path)
    begun = kill_at(monkeypatch, 0)
    resumed = fit(source(), CONFIG, held_out=HELD_OUT, resume_dir=tmp_path)
    # Checkpoints are made where new tables are due, and between the phases.
    assert STEPS - step + 1 <= begun[0] < STEPS - step + 1 + fit_phase.TABLES_LIFETIME_STEPS
    assert bits(resumed) == bits(undisturbed)
    assert resumed.quantizer.id == undisturbed.quantizer.id
    assert curve(resumed) == curve(undisturbed)
    assert resumed.steps == undisturbed.steps == [14, 14]


def test_a_fit_that_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = fit(frames(), CONFIG, held_out=HELD_OUT, resume_dir=tmp_path)
    begun = kill_at(monkeypatch, 0)
    again = fit(frames(), CONFIG, held_out=HELD_OUT, resume_dir=tmp_path)
    assert begun == [0]
    assert bits(again) == bits(done)
    assert again.error_curve == done.error_curve
    assert again.wall_s >= done.error_curve[-1].wall_s > 0


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update={"codebook_size": 16, "num_codebooks": 3})
    undisturbed = fit(frames(), config)
    for _ in range(10):
        with monkeypatch.context() as patch:
            kill_at(patch, 6)
            try:
                resumed = fit(frames(), config, resume_dir=tmp_path)
                break
            except Killed:
                continue
    assert bits(resumed) == bits(undisturbed)


@pytest.mark.parametrize("what", ["frames", "held-out frames", "config"])
def test_the_state_of_another_fit_is_left_alone(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 10)
        with pytest.raises(Killed):
            fit(frames(), CONFIG, held_out=HELD_OUT, resume_dir=tmp_path)
    x = frames(seed=5) if what == "frames" else frames()
    held_out = HELD_OUT.flip(0) if what == "held-out frames" else HELD_OUT
    config = CONFIG.model_copy(update={"entropy_scale": 0.02}) if what == "config" else CONFIG
    begun = kill_at(monkeypatch, 0)
    fitted = fit(x, config, held_out=held_out, resume_dir=tmp_path)
    assert begun == [STEPS]
    assert "another config or other data" in caplog.text
    assert bits(fitted) == bits(fit(x, config, held_out=held_out))


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x10\0\0\0\0\0\0\0" + b'{"a": 1}        '])
def test_a_state_that_cannot_be_read_is_no_state(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    assert fit(frames(), CONFIG, resume_dir=tmp_path).steps == [14, 14]
    assert "cannot be read" in caplog.text


def test_checkpoints_follow_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rarely = CONFIG.model_copy(update={"checkpoint_every_s": 3600})
    with monkeypatch.context() as patch:
        kill_at(patch, 14)
        with pytest.raises(Killed):
            fit(frames(), rarely, resume_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    fit(frames(), rarely, resume_dir=tmp_path)
    # Between the phases and at the end there is one in any case.
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_early_stop_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing but a halved error counts, so a phase ends after its third evaluation, with the weights of the first.
    config = CONFIG.model_copy(update={"patience": 2, "min_improvement": 0.5, "evaluate_every": 4, "phase_1_steps": 30})
    undisturbed = fit(frames(), config, held_out=HELD_OUT)
    assert undisturbed.stopped_early
    assert undisturbed.steps == [12, 12]
    for step in (9, 13, 20):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Killed):
                fit(frames(), config, held_out=HELD_OUT, resume_dir=tmp_path / str(step))
        resumed = fit(frames(), config, held_out=HELD_OUT, resume_dir=tmp_path / str(step))
        assert bits(resumed) == bits(undisturbed)
        assert (resumed.steps, resumed.stopped_early) == ([12, 12], True)


def test_the_state_is_plain_tensors_and_json(tmp_path: Path) -> None:
    fit(frames(), CONFIG, held_out=HELD_OUT, resume_dir=tmp_path)
    raw = (tmp_path / STATE_FILE).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    state = json.loads(header["__metadata__"]["mvqkd.fit_state"])
    assert state["position"]["steps_taken"] == [14, 14]
    assert "quantizer.centers" in header
