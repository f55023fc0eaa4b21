#!/usr/bin/env python3
"""Writes examples/noaa/input.jsonl and expected.jsonl from noaa-json.ndjson.gz.

    make-example.py STATION THRESHOLD_CELSIUS EMAIL

The part of the data that the example shows: the airports of the whole country (stations USW...) and, of Arizona, all stations but the
volunteers' rain gauges (US1...), which measure no temperature. Sorted by day, then station, as the file is.
"""

import calendar
import pathlib
import sys
import time

sys.dont_write_bytecode = True  # no __pycache__ in the checkout
import expected

FOLDER = pathlib.Path(__file__).resolve().parents[4] / "examples" / "noaa"


def is_shown(record):
    station = record["station"]
    return station["id"].startswith("USW") or (station["state_code"] == "AZ" and not station["id"].startswith("US1"))


def line(topic, record, value):
    """One line of an example's file; `value` stands in it byte for byte."""
    timestamp_ms = calendar.timegm(time.strptime(record["date"], "%Y-%m-%dT%H:%M:%S")) * 1000
    return f'{{"topic":"{topic}","key":"{expected.record_id(record)}","value":{value},"timestamp":{timestamp_ms}}}\n'


def write(name, lines):
    with open(FOLDER / name, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
    print(f"{FOLDER / name}: {len(lines)} records")


station, threshold_celsius, email = sys.argv[1], float(sys.argv[2]), sys.argv[3]
shown = [(text, record) for text, record in expected.records() if is_shown(record)]
arizona = [(text, record) for text, record in shown if expected.is_from_arizona(record)]
alerts = [
    (expected.alert(text, email), record)
    for text, record in arizona
    if expected.is_freeze(record, station, threshold_celsius)
]

write("input.jsonl", [line("noaa-json", record, text) for text, record in shown])
write(
    "expected.jsonl",
    [
        line(topic, record, text)
        for topic, part in (("noaa-json-alerts", alerts), ("noaa-json-us-az", arizona))
        for text, record in sorted(part, key=lambda pair: expected.record_id(pair[1]))
    ],
)
