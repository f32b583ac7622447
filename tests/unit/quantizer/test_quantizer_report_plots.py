"""The picture of a report: what it shows, that equal reports give equal bytes, that drawing leaves no trace."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pytest
import torch

from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.report import CurvePoint, QuantizerReport, report
from mvqkd.quantizer.report_errors import OTHER_DOMAINS, DomainError
from mvqkd.quantizer.report_plots import draw, headline, panels_of, write_plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE = [
    *(CurvePoint(1, 10, 0.9, 1.0), CurvePoint(1, 20, 0.5, 2.0)),
    *(CurvePoint(2, 5, 0.4, 3.0), CurvePoint(2, 9, 0.3, 4.0)),
]


def measure(num_codebooks: int, *, domains: bool = True, curve: bool = True, frames: int = 300) -> QuantizerReport:
    generator = torch.Generator().manual_seed(0)
    quantizer = Quantizer(12, num_codebooks, 16, generator=generator).requires_grad_(False)
    x = torch.randn(2 * frames, 12, generator=generator)
    names = [f"speaker-{row % 5}" for row in range(frames)]
    return report(
        quantizer, x[:frames], x[frames:], 2, domains=names if domains else None, error_curve=CURVE if curve else ()
    )


@pytest.fixture(scope="module")
def full() -> QuantizerReport:
    return measure(4)


def panel(measured: QuantizerReport, title: str) -> Axes:
    (found,) = [axes for axes in draw(measured, "a quantizer").axes if axes.get_title("left").startswith(title)]
    return found


def titles(measured: QuantizerReport) -> list[str]:
    return [axes.get_title("left") for axes in draw(measured, "a quantizer").axes if axes.get_title("left")]


def test_equal_reports_give_equal_bytes(full: QuantizerReport, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("first", "second")]
    write_plots(full, paths[0], "a quantizer")
    write_plots(measure(4), paths[1], "a quantizer")
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(b"\x89PNG")
    assert first == second


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_no_date_and_no_version_in_the_file(full: QuantizerReport, tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"report.{suffix}"
    write_plots(full, path, "a quantizer")
    written = path.read_bytes()
    assert written.startswith(magic)
    assert matplotlib.__version__.encode() not in written
    assert b"dc:date" not in written


def test_the_users_settings_do_not_show_and_are_left_alone(full: QuantizerReport, tmp_path: Path) -> None:
    write_plots(full, tmp_path / "usual.png", "a quantizer")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "text.usetex": True}):
        mine = matplotlib.rcParams.copy()
        write_plots(full, tmp_path / "under-other-settings.png", "a quantizer")
        assert matplotlib.rcParams.copy() == mine
    assert (tmp_path / "under-other-settings.png").read_bytes() == (tmp_path / "usual.png").read_bytes()


def test_matplotlib_is_loaded_by_drawing_only_and_pyplot_never(full: QuantizerReport, tmp_path: Path) -> None:
    (tmp_path / "report.pickle").write_bytes(pickle.dumps(full))
    code = (
        "import pathlib, pickle, sys\n"
        "from mvqkd.quantizer.report_plots import write_plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "write_plots(pickle.loads(pathlib.Path('report.pickle').read_bytes()), pathlib.Path('report.png'), 'x')\n"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True False"


def test_all_panels(full: QuantizerReport) -> None:
    assert titles(full) == [
        "Held-out error while fitting",
        "Error after each refine pass (mode exact)",
        "Error by domain",
        "Error by channel",
        "Entropy of each codebook",
        "Use of entries, most used first",
        "Information that codebooks share",
        "Findings",
    ]


def test_absent_parts_have_no_panel(tmp_path: Path) -> None:
    bare = measure(1, domains=False, curve=False, frames=1)
    assert len(panels_of(bare)) == 5
    assert titles(bare) == [
        "Error after each refine pass (mode exact)",
        "Error by channel",
        "Entropy of each codebook",
        "Use of entries, most used first",
        "Findings",
    ]
    write_plots(bare, tmp_path / "bare.png", "a quantizer")
    constant = dataclasses.replace(bare, channels=dataclasses.replace(bare.channels, quantiles={}, worst=[]))
    assert len(panels_of(constant)) == 4
    one_domain = dataclasses.replace(bare, domains=[DomainError("a", 100, 0.3, 1.0)])
    assert len(panels_of(one_domain)) == 5


def test_the_steps_of_phase_2_follow_those_of_phase_1(full: QuantizerReport) -> None:
    curve, boundary = panel(full, "Held-out error").get_lines()
    assert list(curve.get_xdata()) == [10, 20, 25, 29]
    assert list(curve.get_ydata()) == [0.9, 0.5, 0.4, 0.3]
    assert list(boundary.get_xdata()) == [20, 20]


def test_panels_show_the_figures_of_the_report(full: QuantizerReport) -> None:
    assert list(panel(full, "Error after").get_lines()[0].get_ydata()) == full.relative_error_by_iteration
    entropy = panel(full, "Entropy")
    assert [bar.get_height() for bar in entropy.patches] == full.entropy
    assert entropy.get_lines()[0].get_ydata()[0] == 4
    domains = panel(full, "Error by domain")
    assert [bar.get_width() for bar in domains.patches] == [row.relative_error for row in full.domains]
    assert [label.get_text() for label in domains.get_yticklabels()] == [f"{row.domain} (60)" for row in full.domains]
    assert domains.get_lines()[0].get_xdata()[0] == full.domain_error_median
    shared = panel(full, "Information").images[0].get_array()
    assert full.redundancy is not None
    assert float(shared[0, 1]) == full.redundancy.matrix[0][1]
    channels = panel(full, "Error by channel")
    assert [label.get_text() for label in channels.get_xticklabels()] == [
        str(row.channel_index) for row in full.channels.worst
    ]


def test_entries_most_used_first_and_the_dead_ones_counted(full: QuantizerReport) -> None:
    counts = [[300, 0, 0, 300] + [0] * 12] + [[40] * 15 + [0]] * 3
    changed = dataclasses.replace(full, entry_counts=counts, dead_entries_by_codebook=[14, 1, 1, 1], dead_entries=17)
    use = panel(changed, "Use of entries")
    fair = 600 / 16
    first = list(use.get_lines()[0].get_ydata())
    assert first[:2] == [300 / fair] * 2
    assert all(value != value for value in first[2:]), "a dead entry has no place on a logarithmic axis"
    legend = use.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["codebook 0: 14 dead", "the others: 3 dead"]


def test_of_many_domains_the_worst_and_the_pooled(full: QuantizerReport, tmp_path: Path) -> None:
    rows = [DomainError(f"a-very-long-name-of-speaker-{n:03d}", 90, 0.5 - n / 100, 1.0) for n in range(40)]
    many = dataclasses.replace(full, domains=[*rows, DomainError(OTHER_DOMAINS, 55, 0.9, 1.0, pooled=7)])
    domains = panel(many, "Error by domain")
    assert domains.get_title("left") == "Error by domain: worst 19 of 40"
    labels = [label.get_text() for label in domains.get_yticklabels()]
    assert len(labels) == 20
    assert labels[0] == "a-very-lo…aker-000 (90)"
    assert labels[-1] == "7 small ones (55)"
    write_plots(many, tmp_path / "many.svg", "many")


def test_names_are_shown_as_they_are(full: QuantizerReport, tmp_path: Path) -> None:
    names = ["$\\frac{1$", "a_b^c", "<&>", "%s {x}"]
    changed = dataclasses.replace(full, domains=[DomainError(name, 90, 0.5, 1.0) for name in names])
    write_plots(changed, tmp_path / "names.svg", f"quantizer {names[0]}")
    labels = panel(changed, "Error by domain").get_yticklabels()
    assert [label.get_text() for label in labels] == [f"{name} (90)" for name in names]


def test_many_codebooks(tmp_path: Path) -> None:
    write_plots(measure(32, frames=60), tmp_path / "many.png", "32 codebooks")


@pytest.mark.parametrize("count", [0, 2, 9])
def test_findings_are_written_out_within_their_panel(full: QuantizerReport, count: int) -> None:
    longest = "speaker-with-a-long-name: error 1.7 times the median domain's; fit on more frames like these"
    axes = panel(dataclasses.replace(full, findings=[longest] * count), "Findings")
    (text,) = axes.texts
    assert text.get_text().count("speaker-with-a-long-name") == count
    assert text.get_text() or count
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    assert text.get_window_extent().y0 >= 0
    assert text.get_window_extent().x1 <= figure.bbox.x1


def test_headline(full: QuantizerReport) -> None:
    line = headline(dataclasses.replace(full, relative_error=0.29697, relative_error_fitted=0.25, dead_entries=3))
    assert line.startswith("relative error 0.297 on 300 held-out frames   ·   0.250 on fitted ones")
    assert line.endswith("3 of 64 entries dead")
    assert "fitted" not in headline(dataclasses.replace(full, relative_error_fitted=None))


def test_png_or_svg(full: QuantizerReport, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.png or \.svg, got report\.pdf"):
        write_plots(full, tmp_path / "report.pdf", "a quantizer")
    assert not list(tmp_path.iterdir())
