#!/usr/bin/env python3
"""Computes from noaa-json.ndjson.gz what the NOAA pipeline has to send, without any code of the product.

    expected.py records                                  the input itself
    expected.py az                                       what the AZ filter forwards
    expected.py alerts STATION THRESHOLD_CELSIUS EMAIL   what the freeze alert makes of the AZ filter's output

Each output line is KEY, a tab and VALUE; the value is the record's bytes as they are in the file (they hold no tab), in the file's order.

The key of a record, its *record id*, is `{station.id}-{date}`, the date's first ten characters: USW00003103-2017-10-01. An alert is the
record's text with `,"email":"..."` put in before its last brace; a record without TMIN is no alert.
"""

import gzip
import json
import pathlib
import sys


def records():
    """Yields each record as its text and its parsed form."""
    with gzip.open(pathlib.Path(__file__).with_name("noaa-json.ndjson.gz"), "rt", encoding="utf-8") as file:
        for line in file:
            text = line.rstrip("\n")
            yield text, json.loads(text)


def record_id(record):
    return f'{record["station"]["id"]}-{record["date"][:10]}'


def is_from_arizona(record):
    return record["station"]["country_code"] == "US" and record["station"]["state_code"] == "AZ"


def is_freeze(record, station, threshold_celsius):
    return record["station"]["id"] == station and "TMIN" in record and record["TMIN"] <= threshold_celsius


def alert(text, email):
    assert text.endswith("}")
    return f'{text[:-1]},"email":{json.dumps(email)}}}'


def expected(what, arguments):
    """Yields key and value of each expected record."""
    if what == "records":
        return ((record_id(record), text) for text, record in records())
    if what == "az":
        return ((record_id(record), text) for text, record in records() if is_from_arizona(record))
    if what == "alerts":
        station, threshold_celsius, email = arguments
        return (
            (record_id(record), alert(text, email))
            for text, record in records()
            if is_from_arizona(record) and is_freeze(record, station, float(threshold_celsius))
        )
    raise SystemExit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    output = sys.stdout.buffer
    for key, value in expected(sys.argv[1], sys.argv[2:]):
        output.write(f"{key}\t{value}\n".encode())
