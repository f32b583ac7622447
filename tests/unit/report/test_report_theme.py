"""Every text can be read on every background it may stand on, in both themes."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from mvqkd.report.theme import COLOURS, MARK_CONTRAST, MARKS_ON, TEXT_CONTRAST, TEXT_ON, contrast, variables


def test_contrast_of_known_colours() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#ffffff", "#ffffff") == 1.0
    # WCAG's own example of a grey that just fails and one that just passes on white.
    assert contrast("#777777", "#ffffff") < 4.5 < contrast("#767676", "#ffffff")


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_stand_out(scheme: int) -> None:
    for wanted, pairs in ((TEXT_CONTRAST, TEXT_ON), (MARK_CONTRAST, MARKS_ON)):
        for background, names in pairs.items():
            for name in names:
                ratio = contrast(COLOURS[name][scheme], COLOURS[background][scheme])
                assert ratio >= wanted, f"{name} on {background}: {ratio:.2f}"


def test_the_style_sheet_uses_no_other_colours() -> None:
    style = files("mvqkd.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsl", style)
    used = set(re.findall(r"var\(--([a-z-]+)\)", style))
    assert used == set(COLOURS), used ^ set(COLOURS)
    assert len(variables(1).split(";")) == len(COLOURS) + 1
