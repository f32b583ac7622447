"""Splitting by a stable hash of the speaker or the prompt: no order, no run and no later addition moves a row."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from mvqkd.data.sources import DEV, TEST, TRAIN, UNTRANSCRIBED
from mvqkd.data.validate import Accepted
from mvqkd.errors import DataError, EmptyCutSetError


def assign_splits(
    recordings: Sequence[Accepted],
    *,
    split_by: Literal["speaker", "prompt"],
    test_share: float,
    dev_share: float,
    seed: int,
) -> dict[str, str]:
    """Give every recording a split.

    A row that names its split keeps it. The others are grouped by speaker or by normalised text, and a group goes
    whole: with a row of it that names a split, else to where its hash falls in [0, 1): test below ``test_share``, then
    dev, then train. Chance is coarse on a small set: if test gets fewer than half its share of groups, those next by
    hash join it until the share is reached; one group always stays in train.

    Returns:
        Recording id -> split.
    Raises:
        DataError: split_by is speaker, and a speaker is missing or named in both train and test.
        EmptyCutSetError: fewer than two groups to split, or no row for train or test.
    """
    groups: dict[str, list[Accepted]] = defaultdict(list)
    for recording in recordings:
        if recording.text is not None and recording.row.split != UNTRANSCRIBED:
            groups[_key(recording, split_by)].append(recording)
    split_of_group = {
        key: _named_split(members) or _hashed_split(_fraction(seed, key), test_share, dev_share)
        for key, members in groups.items()
    }
    free = [key for key, members in groups.items() if _named_split(members) is None]
    _fill_up(split_of_group, free, test_share, seed)
    splits = {r.row.id: UNTRANSCRIBED for r in recordings}
    for key, members in groups.items():
        splits |= {member.row.id: member.row.split or split_of_group[key] for member in members}
    if split_by == "speaker":
        _check_disjoint(recordings, splits)
    _check_filled(splits, len(groups), split_by)
    return splits


def is_test(split: str) -> bool:
    """Whether a split is judged on: ``test`` or a test set with a name of its own (``test-other``)."""
    return split == TEST or split.startswith(f"{TEST}-")


def _key(recording: Accepted, split_by: str) -> str:
    if split_by == "prompt":
        return recording.text or ""
    if recording.row.speaker is None:
        raise DataError(
            f"recording {recording.row.shown_as}",
            expected="a speaker, because split_by is speaker",
            got="none",
            next_step="add a speaker to every row, or set split_by to prompt",
        )
    return recording.row.speaker


def _named_split(members: Sequence[Accepted]) -> str | None:
    return min((member.row.split for member in members if member.row.split is not None), default=None)


def _fraction(seed: int, key: str) -> float:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _hashed_split(fraction: float, test_share: float, dev_share: float) -> str:
    if fraction < test_share:
        return TEST
    return DEV if fraction < test_share + dev_share else TRAIN


def _fill_up(split_of_group: dict[str, str], free: list[str], test_share: float, seed: int) -> None:
    by_hash = sorted(free, key=lambda key: (_fraction(seed, key), key))
    wanted = max(1, round(test_share * len(split_of_group)))
    if len(split_of_group) < 2 or not by_hash:
        return
    if 2 * sum(map(is_test, split_of_group.values())) < wanted:
        for key in by_hash[:wanted]:
            split_of_group[key] = TEST
    if TRAIN not in split_of_group.values():
        split_of_group[by_hash[-1]] = TRAIN


def _check_disjoint(recordings: Sequence[Accepted], splits: dict[str, str]) -> None:
    trained_on = {r.row.speaker for r in recordings if splits[r.row.id] == TRAIN}
    for recording in recordings:
        split = splits[recording.row.id]
        if is_test(split) and recording.row.speaker in trained_on:
            raise DataError(
                f"recording {recording.row.shown_as}, split {split}",
                expected="a speaker who is not in train, because split_by is speaker",
                got=f"speaker {recording.row.speaker}, who is",
                next_step="mend the rows' splits, or set split_by to prompt",
            )


def _check_filled(splits: dict[str, str], num_groups: int, split_by: str) -> None:
    names = set(splits.values())
    missing = [TRAIN] if TRAIN not in names else []
    if not any(map(is_test, names)):
        missing.append(TEST)
    if missing:
        raise EmptyCutSetError(
            f"split {' and '.join(missing)}",
            expected="at least one recording in train and one in test",
            got=f"{len(splits)} usable recordings of {num_groups} distinct {split_by}s",
            next_step="add recordings"
            + (", or set split_by to prompt" if split_by == "speaker" else "")
            + ", or name each row's split",
        )
