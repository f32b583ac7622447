"""Any payload makes the round trip, and any single changed byte is noticed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.artifacts import PartialArtifact, content_hash, load_artifact
from mvqkd.errors import ArtifactCorruptError

NAMES = st.text("abcdefgh0123_-é", min_size=1, max_size=12)
PAYLOADS = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=200), min_size=1, max_size=5
).filter(
    lambda payload: (
        not any(f"{other}/".startswith(f"{name}/") for name in payload for other in payload if name != other)
    )
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=15, deadline=None)
@given(PAYLOADS, st.dictionaries(st.text(), VALUES, max_size=3), st.randoms(use_true_random=False))
def test_round_trip_and_flipped_byte(payload: dict[str, bytes], facts: dict[str, object], random: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ids = []
        for out in (Path(folder) / "first", Path(folder) / "second"):
            partial = PartialArtifact(out, "quantizer", stage="s", config={"x": 1})
            for name, content in sorted(payload.items(), key=lambda _: random.random()):
                (partial.path / name).parent.mkdir(parents=True, exist_ok=True)
                (partial.path / name).write_bytes(content)
            artifact = partial.commit(facts=facts)
            loaded = load_artifact(out, "quantizer")
            assert loaded == artifact
            assert loaded.facts == facts
            assert {name: (out / name).read_bytes() for name in loaded.files} == payload
            ids.append(loaded.id)
        assert ids[0] == ids[1], "the order of writing and the place must not matter"

        name = next((name for name, content in payload.items() if content), None)
        if name is not None:
            content = bytearray(payload[name])
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
            (Path(folder) / "first" / name).write_bytes(content)
            with pytest.raises(ArtifactCorruptError):
                load_artifact(Path(folder) / "first")


@given(VALUES)
def test_content_hash_is_a_function_of_the_value(value: object) -> None:
    assert content_hash(value) == content_hash(value)
    assert content_hash([value]) != content_hash([value, value])
