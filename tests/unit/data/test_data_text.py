from __future__ import annotations

import pytest

from mvqkd.data.text import ambiguous_number, normalize_text
from mvqkd.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  world!", "HELLO WORLD"),
        ("MISTER QUILTER'S MANNER", "MISTER QUILTER'S MANNER"),
        ("Café naïve Æsop Łódź straße", "CAFE NAIVE AESOP LODZ STRASSE"),
        ("don’t ‘tis", "DON'T 'TIS"),
        ("it ' is '' so, o''clock", "IT IS SO O'CLOCK"),
        ("A.M. and re-record...", "A M AND RE RECORD"),
        ("Mr. and Mrs. O'Brien saw Dr. No", "MISTER AND MISSUS O'BRIEN SAW DOCTOR NO"),
        ("press 1, then 0", "PRESS ONE THEN ZERO"),
        ("21 days, 3rd try, the 20th and 45th", "TWENTY ONE DAYS THIRD TRY THE TWENTIETH AND FORTY FIFTH"),
        ("100 or 512 or 2,000", "ONE HUNDRED OR FIVE HUNDRED TWELVE OR TWO THOUSAND"),
        ("in 1984 agent 007", "IN ONE NINE EIGHT FOUR AGENT ZERO ZERO SEVEN"),
        ("28.8 and 3D & 50%", "TWENTY EIGHT POINT EIGHT AND THREE D AND FIFTY PERCENT"),
        ("东京", ""),
        (" \t\n", ""),
        ("ＦＵＬＬ ① ²", "FULL ONE TWO"),
    ],
)
def test_rules(text: str, expected: str) -> None:
    assert normalize_text(text, "upper-ascii-1") == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("dial 1234 now", "1234"),
        ("H.323", "323"),
        ("only $5", "$5"),
        ("agent 07", "07"),
        ("press 1, 20 or 500", None),
        ("no digits", None),
        ("28.8 kilobit", None),
    ],
)
def test_ambiguous_numbers_are_found(text: str, found: str | None) -> None:
    assert ambiguous_number(text) == found


def test_unknown_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected upper-ascii-1, got lower-1"):
        normalize_text("x", "lower-1")
