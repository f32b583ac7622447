"""Times of a schedule as Kubeflow's controller reads them: six fields, the first one seconds.

The controller would take five fields, too, and read ``0 2 * * *`` not as two o'clock but as two minutes past every
hour. Nothing of that kind gets past this module.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mvqkd.errors import ConfigError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Name, lowest and highest value, and what may be written instead of numbers.
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _WEEKDAYS),
)
_PART = re.compile(r"(?P<any>[*?])|(?P<low>\w+)(-(?P<high>\w+))?")
# A date that exists recurs within eight years (29 February around 2100).
_HORIZON_DAYS = 8 * 366


@dataclass(frozen=True)
class Cron:
    """A schedule; each field is the set of values at which it fires."""

    expression: str
    fields: tuple[frozenset[int], ...]

    def times(self, after: datetime) -> Iterator[datetime]:
        """The times after ``after``, in its time zone; none where no such date exists."""
        seconds, minutes, hours, days, months, weekdays = self.fields
        midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
        for offset in range(_HORIZON_DAYS):
            day = midnight + timedelta(days=offset)
            if day.day in days and day.month in months and day.isoweekday() % 7 in weekdays:
                for hour, minute, second in itertools.product(sorted(hours), sorted(minutes), sorted(seconds)):
                    time = day.replace(hour=hour, minute=minute, second=second)
                    if time > after:
                        yield time


def parse_cron(expression: str) -> Cron:
    """Read and check an expression.

    Raises:
        ConfigError: it does not have six fields, or one of them says nothing, or too much.
    """
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        hint = f"write the second first: --cron '0 {' '.join(fields)}'"
        raise ConfigError(
            f"--cron {expression!r}",
            expected="6 fields: second minute hour day-of-month month day-of-week",
            got=f"{len(fields)}",
            next_step=hint if len(fields) == 5 else "write '0 0 2 * * *' for every night at two",
        )
    cron = Cron(" ".join(fields), tuple(_values(expression, *pair) for pair in zip(fields, _FIELDS, strict=True)))
    _check_sense(cron, fields)
    return cron


def _check_sense(cron: Cron, fields: list[str]) -> None:
    if len(cron.fields[0]) != 1:
        raise _error(cron.expression, _FIELDS[0][0], "one second of the minute", repr(fields[0]), "begin with 0")
    if all(fields[position] not in ("*", "?") for position in (3, 5)):
        # The controller fires when either fits, which few expect.
        expected, got = "one of the two, the other one *", f"{fields[3]!r} and {fields[5]!r}"
        raise _error(cron.expression, "day of the month and of the week", expected, got, "make it two schedules")
    if next(cron.times(datetime(2024, 1, 1, tzinfo=UTC)), None) is None:
        raise _error(cron.expression, "day of the month", "a date that exists", repr(fields[3]), "mend day or month")


def _values(expression: str, text: str, field: tuple[str, int, int, tuple[str, ...]]) -> frozenset[int]:
    name, lowest, highest, _ = field
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        matched = _PART.fullmatch(span)
        step = int(step_text) if step_text.isdecimal() else 0
        if matched is None or (slash and step < 1):
            raise _error(expression, name, "*, N, N-M, */N or a list of them", repr(part), "mend this field")
        if matched["any"]:
            low, high = lowest, highest
        else:
            low = _number(expression, matched["low"], field)
            # As the controller reads it, 10/15 is 10-59/15.
            high = _number(expression, matched["high"], field) if matched["high"] else (highest if slash else low)
        if low > high:
            raise _error(expression, name, "the lower number first", repr(part), f"write {high}-{low}")
        values.update(range(low, high + 1, step or 1))
    return frozenset(values)


def _number(expression: str, text: str, field: tuple[str, int, int, tuple[str, ...]]) -> int:
    name, lowest, highest, names = field
    if text.lower() in names:
        return names.index(text.lower()) + lowest
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        hint = "write 0 for Sunday" if names is _WEEKDAYS and text == "7" else "mend this field"
        raise _error(expression, name, f"{lowest} to {highest}", repr(text), hint)
    return int(text)


def _error(expression: str, name: str, expected: str, got: str, next_step: str) -> ConfigError:
    return ConfigError(f"--cron {expression!r}, {name}", expected=expected, got=got, next_step=next_step)
