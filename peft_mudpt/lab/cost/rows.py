"""Measures the rows of the benchmark: what is estimated to fit into memory, in a process of its own for each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Optional, Union

from .cases import Case
from .detectors import DetectorCase
from .estimating import needed_bytes, needed_bytes_of_bank
from .limits import Limits, Stopped, in_child, in_words, usable_bytes
from .measuring import peak_of, seconds_of, seconds_of_bank


AnyCase = Union[Case, DetectorCase]
Group = Sequence[AnyCase]  # cases that differ in their number of classes, in ascending order
Row = dict[str, Any]

# With these settings the C library returns freed blocks at once, so that the peak shows memory in use without
# fragmentation.
UNFRAGMENTED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_MMAP_MAX_": "1000000"}


@dataclass(frozen=True)
class Measurer:
    """
    Measures the rows of a benchmark, each in a process of its own.

    Args:
        device: "cpu" or "cuda".
        seconds_per_way: as in `running.run`.
        seconds_per_row: the process of a row is stopped after this time.
        say: called with a line about each row.
    """

    device: str
    seconds_per_way: float
    seconds_per_row: float
    say: Callable[[str], None]

    def limits(self) -> Limits:
        """The limits of a process that starts now."""
        return Limits(usable_bytes("cpu"), self.seconds_per_row)

    def times(self, groups: Iterable[Group]) -> list[Row]:
        """Time each case; a row has the `seconds` of each turn, by way."""
        return [row for group in groups for row in self._rows(group, "seconds", self._seconds)]

    def memory(self, groups: Iterable[Group]) -> list[Row]:
        """Measure the peak of each case; a row has the `bytes`, by way."""
        return [row for group in groups for row in self._rows(group, "bytes", self._bytes)]

    def bank(self, model: str, pictures: int) -> Row:
        """Time the building of a bank (see `banks`); the row has the `seconds` of each turn, by way."""
        row: Row = {"model": model, "pictures": pictures, "seconds": {}, "notes": []}
        needed, usable = needed_bytes_of_bank(model, pictures), usable_bytes(self.device)
        if needed > usable:
            row["notes"].append(_does_not_fit("it", needed, usable))
        else:
            given = {"model": model, "pictures": pictures, "seconds_per_way": self.seconds_per_way}
            row["seconds"] = self._measure(seconds_of_bank, given, row["notes"])
        self.say(f"{model}, bank of {pictures}: {_in_words(row)}")
        return row

    def _rows(self, group: Group, unit: str, measure: Callable[[AnyCase, Row], dict[str, Any]]) -> list[Row]:
        """Measure a group of cases. Its later rows are extrapolated from its earlier ones."""
        rows: list[Row] = []
        for case in group:
            row: Row = {**case.described, "left_out": {}, "extrapolated": {}, "notes": []}
            row[unit] = measure(case, row)
            for way in row["left_out"]:
                measured = {r["classes"]: typical(r[unit][way]) for r in rows if way in r[unit]}
                if len(measured) >= 2:
                    row["extrapolated"][way] = on_the_line(measured, case.classes)
            rows.append(row)
            self.say(f"{case}: {_in_words(row)}")
        return rows

    def _seconds(self, case: AnyCase, row: Row) -> dict[str, list[float]]:
        """The seconds of the ways that fit, in turns in one process."""
        ways = self._that_fit(case, case.ways, case.models(case.ways), row)
        given = {"case": case, "ways": ways, "seconds_per_way": self.seconds_per_way}
        return self._measure(seconds_of, given, row["notes"]) if ways else {}

    def _bytes(self, case: AnyCase, row: Row) -> dict[str, int]:
        """The peak of each way that fits, each in a process of its own."""
        peaks = {}
        for way in case.ways:
            if self._that_fit(case, [way], 1, row):
                peak = self._measure(peak_of, {"case": case, "way": way}, row["notes"], UNFRAGMENTED)
                peaks |= {way: peak} if peak else {}
        return peaks

    def _that_fit(self, case: AnyCase, ways: Sequence[str], models: int, row: Row) -> list[str]:
        """The ways that fit into the memory that is free now. The row gets notes on the others."""
        usable, fit = usable_bytes(self.device), []
        for way in ways:
            needed = needed_bytes(case, way, self.device, models)
            if needed <= usable:
                fit.append(way)
            else:
                row["left_out"][way] = needed
                row["notes"].append(_does_not_fit(way, needed, usable))
        return fit

    def _measure(
        self,
        function: Callable[..., Any],
        given: Mapping[str, Any],
        notes: list[str],
        environment: Optional[Mapping[str, str]] = None,
    ) -> Any:
        """What a function returns in a process of its own; nothing, and a note, if it ended without an answer."""
        try:
            return in_child(function, {**given, "device": self.device}, self.limits(), environment)
        except Stopped as reason:
            ways = given.get("way") or ", ".join(given.get("ways", ())) or "it"
            notes.append(f"the process of {ways} {reason}")
            return {}


def typical(measured: Union[float, Sequence[float]]) -> float:
    """
    Reduce a measurement to one number.

    Args:
        measured: what was measured in turns, or once.

    Returns:
        The median, or the one number.
    """
    return median(measured) if isinstance(measured, Sequence) else measured


def on_the_line(measured: Mapping[int, float], at: int) -> float:
    """
    Extrapolate a value, by number of classes, on the line through the two measurements with the most classes.

    Args:
        measured: at least two values, by number of classes.
        at: a number of classes.

    Returns:
        The value at this number.
    """
    (x0, y0), (x1, y1) = sorted(measured.items())[-2:]
    return y1 + (at - x1) * (y1 - y0) / (x1 - x0)


def _does_not_fit(way: str, needed: float, usable: float) -> str:
    return f"{way} needs about {in_words(needed)}, but only {in_words(usable)} can be used"


def _in_words(row: Row) -> str:
    seconds = [f"{way} {median(turns):.3g} s" for way, turns in row.get("seconds", {}).items()]
    peaks = [f"{way} {peak / 1e9:.2f} GB" for way, peak in row.get("bytes", {}).items()]
    return "; ".join([", ".join(seconds or peaks), *row["notes"]]).lstrip("; ")
