"""Which cuts an epoch takes: all transcribed ones, and of the untranscribed ones those whose turn it is."""

from __future__ import annotations

from typing import Any

import pytest

from mvqkd.data.batches import BatchSource, is_transcribed
from mvqkd.data.tokens import Tokens
from mvqkd.torchaudio_compat import import_torchaudio

import_torchaudio()

from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment  # noqa: E402 # the shim comes first


def cut(name: str, duration_s: float, text: str | None) -> Any:
    recording = Recording(
        id=name,
        sources=[AudioSource(type="file", channels=[0], source="/nowhere.wav")],
        sampling_rate=16_000,
        num_samples=int(16_000 * duration_s),
        duration=duration_s,
    )
    segment = SupervisionSegment(name, name, 0.0, duration_s, channel=0, text=text)
    return MonoCut(id=name, start=0, duration=duration_s, channel=0, recording=recording, supervisions=[segment])


def source(ratio: float, *, untranscribed: int = 10) -> BatchSource:
    return BatchSource(
        CutSet.from_cuts(cut(f"read-{i}", 2.0, "YES") for i in range(10)),
        Tokens.train(["YES"], "char", 10),
        batch_duration_s=8.0,
        seed=1,
        untranscribed=[cut(f"heard-{i}", 4.0, None) for i in range(untranscribed)],
        untranscribed_ratio=ratio,
    )


def planned(batches: BatchSource, epoch: int) -> list[str]:
    return sorted(str(item.id) for group in batches.plan(epoch) for item in group)


def test_an_epoch_takes_the_share_asked_for_and_each_epoch_others() -> None:
    batches = source(0.8)  # 16 s of 20 s: four cuts of 4 s
    heard = [{name for name in planned(batches, epoch) if name.startswith("heard")} for epoch in range(5)]
    assert [len(names) for names in heard] == [4] * 5
    assert heard[0] | heard[1] | heard[2] == {f"heard-{i}" for i in range(10)}
    assert heard[0].isdisjoint(heard[1])
    assert batches.total_duration_s == pytest.approx(36.0)
    assert all(f"read-{i}" in planned(batches, 3) for i in range(10))


def test_there_is_no_more_than_all_of_it() -> None:
    batches = source(100.0)
    assert len(planned(batches, 0)) == 20
    assert batches.total_duration_s == pytest.approx(60.0)


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 10), (1.0, 0)])
def test_none_asked_for_or_none_there(ratio: float, count: int) -> None:
    batches = source(ratio, untranscribed=count)
    assert planned(batches, 0) == sorted(f"read-{i}" for i in range(10))
    assert batches.total_duration_s == pytest.approx(20.0)


def test_an_empty_transcript_is_a_transcript() -> None:
    assert is_transcribed(cut("silence", 1.0, ""))
    assert not is_transcribed(cut("unknown", 1.0, None))
