"""Six fields, nothing that Kubeflow's controller would read otherwise than people do."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvqkd.errors import ConfigError
from pipelines.cron import parse_cron

NOON = datetime(2026, 2, 26, 12, 0, tzinfo=UTC)  # a Thursday


def _next(expression: str, count: int = 3) -> list[str]:
    return [f"{time:%a %Y-%m-%d %H:%M:%S}" for time in islice(parse_cron(expression).times(NOON), count)]


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        ("0 0 2 * * *", ["Fri 2026-02-27 02:00:00", "Sat 2026-02-28 02:00:00", "Sun 2026-03-01 02:00:00"]),
        ("30 15 */12 ? * MON-wed,5", ["Fri 2026-02-27 00:15:30", "Fri 2026-02-27 12:15:30", "Mon 2026-03-02 00:15:30"]),
        ("0 0 12 * * 4", ["Thu 2026-03-05 12:00:00", "Thu 2026-03-12 12:00:00", "Thu 2026-03-19 12:00:00"]),
        ("0 50/5 12 26 feb ?", ["Thu 2026-02-26 12:50:00", "Thu 2026-02-26 12:55:00", "Fri 2027-02-26 12:50:00"]),
        ("0 0 0 29 2 *", ["Tue 2028-02-29 00:00:00", "Sun 2032-02-29 00:00:00"]),
        ("59 59 23 31 * *", ["Tue 2026-03-31 23:59:59", "Sun 2026-05-31 23:59:59", "Fri 2026-07-31 23:59:59"]),
    ],
)
def test_next_times(expression: str, times: list[str]) -> None:
    assert _next(expression) == times


def test_five_fields_are_refused_with_the_seconds_field() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cron("0 2 * * *")
    assert str(caught.value) == (
        "--cron '0 2 * * *': expected 6 fields: second minute hour day-of-month month day-of-week, got 5; "
        "write the second first: --cron '0 0 2 * * *'"
    )


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "got 0; write '0 0 2"),
        ("@daily", "got 1; write"),
        ("0 0 0 2 * * *", "got 7; write"),
        ("* 0 2 * * *", "second: expected one second of the minute, got '*'; begin with 0"),
        ("0,30 0 2 * * *", "second: expected one second"),
        ("0 60 2 * * *", "minute: expected 0 to 59, got '60'"),
        ("0 0 24 * * *", "hour: expected 0 to 23, got '24'"),
        ("0 0 2 0 * *", "day of the month: expected 1 to 31, got '0'"),
        ("0 0 2 * 13 *", "month: expected 1 to 12, got '13'"),
        ("0 0 2 * * 7", "day of the week: expected 0 to 6, got '7'; write 0 for Sunday"),
        ("0 0 2 * mon *", "month: expected 1 to 12, got 'mon'"),
        ("0 0 5-2 * * *", "hour: expected the lower number first, got '5-2'; write 2-5"),
        ("0 0 */0 * * *", "hour: expected *, N, N-M, */N or a list of them, got '*/0'"),
        ("0 0 */ * * *", "got '*/'"),
        ("0 0 1-2-3 * * *", "got '1-2-3'"),
        ("0 0 2, * * *", "got ''"),
        ("0 0 -1 * * *", "got '-1'"),
        ("0 0 2 1 * MON", "expected one of the two, the other one *, got '1' and 'MON'; make it two schedules"),
        ("0 0 2 30 2 *", "day of the month: expected a date that exists, got '30'"),
    ],
)
def test_what_makes_no_sense_is_refused(expression: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cron(expression)
    assert words in str(caught.value)


_NUMBERS = st.tuples(st.integers(0, 59), st.integers(0, 59), st.integers(0, 23), st.integers(1, 28), st.integers(1, 12))


@given(_NUMBERS, st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)))
def test_the_next_time_is_the_first_one_that_fits(numbers: tuple[int, ...], after: datetime) -> None:
    second, minute, hour, day, month = numbers
    found = next(parse_cron(f"{second} {minute} {hour} {day} {month} *").times(after))
    this_year = after.replace(month=month, day=day, hour=hour, minute=minute, second=second, microsecond=0)
    assert found == (this_year if this_year > after else this_year.replace(year=after.year + 1))
