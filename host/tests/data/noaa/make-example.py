#!/usr/bin/env python3
"""Writes examples/noaa/input.jsonl and expected.jsonl from noaa-json.ndjson.gz.

    make-example.py STATION THRESHOLD_CELSIUS EMAIL

The part of the data that the example shows: the airports of the whole country (stations USW...) and, of Arizona, all stations but the
volunteers' rain gauges (US1...), which measure no temperature. Sorted by day, then station, as the file is.
"""

import sys

sys.dont_write_bytecode = True  # no __pycache__ in the checkout
import expected
from example_files import EXAMPLES, line, write

FOLDER = EXAMPLES / "noaa"


def is_shown(record):
    station = record["station"]
    return station["id"].startswith("USW") or (station["state_code"] == "AZ" and not station["id"].startswith("US1"))


station, threshold_celsius, email = sys.argv[1], float(sys.argv[2]), sys.argv[3]
shown = [(text, record) for text, record in expected.records() if is_shown(record)]
arizona = [(text, record) for text, record in shown if expected.is_from_arizona(record)]
alerts = [
    (expected.alert(text, email), record)
    for text, record in arizona
    if expected.is_freeze(record, station, threshold_celsius)
]

write(FOLDER / "input.jsonl", [line("noaa-json", record, text) for text, record in shown])
write(
    FOLDER / "expected.jsonl",
    [
        line(topic, record, text)
        for topic, part in (("noaa-json-alerts", alerts), ("noaa-json-us-az", arizona))
        for text, record in sorted(part, key=lambda pair: expected.record_id(pair[1]))
    ],
)
