"""Names and texts of others: refused or made harmless."""

from __future__ import annotations

import posixpath
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvqkd.adapters.registry_text import (
    one_line,
    path_name,
    plain,
    quoted,
    require_experiment_name,
    require_model_name,
)
from mvqkd.config import PromoteConfig, parse_section
from mvqkd.errors import ConfigError, RegistryError


@pytest.mark.parametrize("name", ["mvqkd-student", "Student of Ann, 2nd", "größe.v2", "7"])
def test_ordinary_names_pass(name: str) -> None:
    assert require_model_name(name) == name
    assert require_experiment_name(f"/teams/{name}") == f"/teams/{name}"
    parse_section(PromoteConfig, {"model_name": name, "experiment": f"/teams/{name}"}, "test")


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", " a", ".", "..", "../etc", "a..b", "a/b", "a\\b", "a:b", "a@b", "a%2e", "x" * 201),
        *("a' or name != '", 'a"', "a`b", "a\nb", "a\x00", "a\x1b[2J", "a\u202eb", "a\u200b", "a\u2028b"),
    ],
)
def test_names_that_would_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(RegistryError, match="choose another") as caught:
        require_model_name(name)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "a/../b", "a//b", "a/b/", "a\x00/b"])
def test_folders_of_experiments_lead_nowhere_else(name: str) -> None:
    with pytest.raises(RegistryError):
        require_experiment_name(name)


@pytest.mark.parametrize("name", ["../etc", "a/b", "a\nb", "a' or", "a@b"])
def test_a_model_s_name_is_refused_before_the_pipeline_begins(name: str) -> None:
    with pytest.raises(ConfigError, match="model_name"):
        parse_section(PromoteConfig, {"model_name": name}, "params.yaml")


@given(st.text())
def test_names_of_metrics_resolve_to_themselves(text: str) -> None:
    name = path_name(text)
    assert posixpath.normpath(name) == name
    assert not name.startswith(("/", ".."))
    assert path_name(name) == name


def test_odd_names_of_metrics() -> None:
    assert path_name("../../etc/passwd") == "_/_/etc/passwd"
    assert path_name("rows.greedy in 320 ms chunks.wer") == "rows.greedy in 320 ms chunks.wer"
    assert path_name("wer\n(x)") == "wer__x_"
    assert path_name("") == path_name("/") == "_"


@given(st.text())
def test_texts_stay_on_one_line_and_inside_their_cell(text: str) -> None:
    for shown in (one_line(text), plain(text)):
        assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert "<" not in plain(text)
    assert "|" not in plain(text).replace("\\|", "")


def test_markdown_and_html_are_shown_not_obeyed() -> None:
    assert plain("<script>alert(1)</script>") == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert plain("a | b\n[x](javascript:y) `c`") == r"a \| b \[x\](javascript:y) \`c\`"


def test_a_quote_does_not_end_a_filter_s_value() -> None:
    assert quoted("x' or tags.`a` = '") == "'x or tags.`a` = '"
