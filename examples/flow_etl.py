"""From a CSV file to a database and a report: 44 years of carbon dioxide in the air.

    pytest --flowforge examples/flow_etl.py

    extract -> validate -> summarise[1950s] ... summarise[2000s] -> combine -> load -> check -> report

Each task asserts what it promises, so a step that goes wrong stops what depends on it, and nothing else.
The data are real: weekly averages from Mauna Loa, see data/README.md. Only the standard library is needed.
"""

import csv
import sqlite3
from calendar import month_name
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path
from statistics import fmean
from typing import TypedDict

import pytest

SOURCE = Path(__file__).parent / "data" / "co2.csv"
DECADES = ["1950s", "1960s", "1970s", "1980s", "1990s", "2000s"]

#: Parts per million that can be true: the ice ages had 180, and the file ends long before 450.
PLAUSIBLE = (180.0, 450.0)
#: The share of weeks that may be without a measurement.
MAX_REJECTED = 0.05


class Reading(TypedDict):
    """One week: the day it ended (ISO 8601) and its average in parts per million."""

    day: str
    ppm: float


class Validated(TypedDict):
    """The usable weeks, and the rows of the file that were rejected for having no measurement."""

    readings: list[Reading]
    rejected: list[int]


class Summary(TypedDict):
    """One decade: number of weeks, average and extremes in ppm, and the month (1 to 12) with the highest average."""

    weeks: int
    mean: float
    low: float
    high: float
    peak: int


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the results go; in real life a server's address."""
    return tmp_path_factory.mktemp("co2") / "co2.sqlite"


def flow_extract() -> list[dict[str, str]]:
    """Read the file as it is; judging it is the next task's business."""
    with SOURCE.open(encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 1000, f"{SOURCE} has only {len(rows)} rows: was it cut off?"
    return rows


def flow_validate(extract: list[dict[str, str]]) -> Validated:
    """Check types, ranges and duplicates: a broken row ends the pipeline, a missing measurement is counted."""
    readings: list[Reading] = []
    rejected, broken = [], []
    days: set[str] = set()
    for row, record in enumerate(extract, start=2):  # the header is row 1 of the file
        try:
            reading = parse(record)
        except (KeyError, TypeError, ValueError) as error:
            broken.append(f"row {row}: {error}")
            continue
        if reading is None:
            rejected.append(row)
        elif reading["day"] in days:
            broken.append(f"row {row}: {reading['day']} occurs twice")
        else:
            readings.append(reading)
            days.add(reading["day"])
    if broken:
        raise ValueError("\n".join([f"broken rows: {len(broken)}", *broken]))
    assert len(rejected) <= MAX_REJECTED * len(extract), f"too many rows without a measurement: {rejected}"
    print(f"{len(readings)} weeks are fine, {len(rejected)} have no measurement")
    return {"readings": readings, "rejected": rejected}


@pytest.mark.parametrize("decade", DECADES)
def flow_summarise(decade: str, validate: Validated) -> Summary:
    """Work out one decade; there is one such task for each, and they do not wait for each other."""
    readings = [reading for reading in validate["readings"] if decade_of(reading["day"]) == decade]
    levels = [reading["ppm"] for reading in readings]
    months = defaultdict(list)
    for reading in readings:
        months[date.fromisoformat(reading["day"]).month].append(reading["ppm"])
    summary: Summary = {
        "weeks": len(levels),
        "mean": fmean(levels),
        "low": min(levels),
        "high": max(levels),
        "peak": max(months, key=lambda month: fmean(months[month])),
    }
    assert summary["low"] <= summary["mean"] <= summary["high"]
    assert summary["peak"] in {4, 5, 6}, "the air holds most just before the northern summer's leaves take it up"
    return summary


def flow_combine(summarise: dict[str, Summary], validate: Validated) -> dict[str, Summary]:
    """Bring the decades together: no week was lost or counted twice, and each decade is above the one before."""
    assert list(summarise) == DECADES
    assert sum(summary["weeks"] for summary in summarise.values()) == len(validate["readings"])
    means = [summary["mean"] for summary in summarise.values()]
    assert means == sorted(means), "the Keeling curve rises"
    return summarise


def flow_load(combine: dict[str, Summary], validate: Validated, database: Path) -> str:
    """Write the weeks and the decades into a database, and return where it is.

    Later tasks take the path from this result, not from the fixture, so they need not know how it was chosen.
    """
    with connect(database) as connection:
        # A task may run more than once (a retry, say), so it starts from clean tables.
        connection.executescript(
            """
            DROP TABLE IF EXISTS reading;
            DROP TABLE IF EXISTS decade;
            CREATE TABLE reading (day TEXT PRIMARY KEY, ppm REAL NOT NULL);
            CREATE TABLE decade (name TEXT PRIMARY KEY, weeks INTEGER, mean REAL, low REAL, high REAL, peak INTEGER);
            """
        )
        connection.executemany("INSERT INTO reading VALUES (:day, :ppm)", validate["readings"])
        connection.executemany(
            "INSERT INTO decade VALUES (:name, :weeks, :mean, :low, :high, :peak)",
            [{"name": name, **summary} for name, summary in combine.items()],
        )
    assert database.stat().st_size > 0
    return str(database)


def flow_check(load: str, validate: Validated) -> None:
    """Let the database work the decades out again: it must find what Python found."""
    with connect(load) as connection:
        (weeks,) = connection.execute("SELECT count(*) FROM reading").fetchone()
        assert weeks == len(validate["readings"])
        query = """
            SELECT decade.name, decade.weeks, decade.mean, decade.high, count(*), avg(ppm), max(ppm)
            FROM decade JOIN reading ON substr(day, 1, 3) = substr(decade.name, 1, 3)
            GROUP BY decade.name
        """
        rows = connection.execute(query).fetchall()
    assert len(rows) == len(DECADES)
    for name, *stored, count, mean, high in rows:
        assert stored == [count, pytest.approx(mean), high], name


@pytest.mark.depends_on("check")  # order only: nothing is reported that was not checked
def flow_report(load: str) -> str:
    """Write a table for people beside the database, and return its path."""
    query = "SELECT name, weeks, mean, mean - lag(mean) OVER (ORDER BY name), peak FROM decade ORDER BY name"
    with connect(load) as connection:
        rows = connection.execute(query).fetchall()
    lines = ["# Carbon dioxide at Mauna Loa", "", "| decade | weeks | ppm | rise | peak |", "|---|---:|---:|---:|---|"]
    for decade, weeks, mean, rise, peak in rows:
        rose = "" if rise is None else f"{rise:+.1f}"
        lines.append(f"| {decade} | {weeks} | {mean:.1f} | {rose} | {month_name[peak]} |")
    text = "\n".join(lines) + "\n"
    assert all(f"| {decade} |" in text for decade in DECADES)
    print(text)
    report = Path(load).with_suffix(".md")
    report.write_text(text, encoding="utf-8")
    return str(report)


def parse(record: dict[str, str]) -> Reading | None:
    """Return the reading in *record*, None when there was no measurement; raises ValueError for nonsense."""
    day = datetime.strptime(record["date"], "%Y%m%d").date()  # noqa: DTZ007 - a day has no time zone
    if record["co2"] == "":
        return None
    ppm = float(record["co2"])
    low, high = PLAUSIBLE
    if not low <= ppm <= high:
        msg = f"{ppm} ppm is not between {low} and {high}"
        raise ValueError(msg)
    return {"day": day.isoformat(), "ppm": ppm}


def decade_of(day: str) -> str:
    """Return the decade of an ISO date: ``"1960s"`` for ``"1964-05-02"``."""
    return f"{day[:3]}0s"


@contextmanager
def connect(path: Path | str) -> Iterator[sqlite3.Connection]:
    """Open the database, commit what was done in the block, or undo it if the block fails, and close."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection
