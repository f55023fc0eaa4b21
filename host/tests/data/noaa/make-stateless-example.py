#!/usr/bin/env python3
"""Writes examples/stateless/input.jsonl and expected.jsonl from noaa-json.ndjson.gz, without any code of the product.

Four days of four stations of Arizona and three others. Numbers are decimals, as they are written: a conversion keeps to them.
"""

import decimal
import re
import sys

sys.dont_write_bytecode = True  # no __pycache__ in the checkout
import expected
from example_files import EXAMPLES, line, write

FOLDER = EXAMPLES / "stateless"
PHOENIX, FLAGSTAFF = "USW00023183", "USW00003103"
OF_ARIZONA = [PHOENIX, FLAGSTAFF, "USW00003192", "USW00093139"]
OTHERS = ["USW00023169", "USW00053123", "USW00094728"]
DAYS = ["2017-10-01", "2017-10-02", "2017-10-03", "2017-10-04"]
CONVERSIONS = {
    "TMAX": lambda celsius: celsius * 9 / 5 + 32,
    "TMIN": lambda celsius: celsius * 9 / 5 + 32,
    "PRCP": lambda millimetres: millimetres / decimal.Decimal("25.4"),
}


def converted(text):
    def replace(match):
        name, number = match.groups()
        value = CONVERSIONS[name](decimal.Decimal(number))
        rounded = value.quantize(decimal.Decimal("0.01"), decimal.ROUND_HALF_UP)
        return f'"{name}":{rounded}'

    return re.sub(r'"(TMAX|TMIN|PRCP)":([-0-9.]+)', replace, text)


def branch(record):
    return {PHOENIX: "output-a", FLAGSTAFF: "output-b"}.get(record["station"]["id"], "output-other")


shown = [
    (text, record)
    for text, record in expected.records()
    if record["station"]["id"] in OF_ARIZONA + OTHERS and record["date"][:10] in DAYS
]
arizona = [(text, record) for text, record in shown if expected.is_from_arizona(record)]
outputs = [("weather-az", text, record) for text, record in arizona]
outputs += [(branch(record), text, record) for text, record in arizona]
outputs += [("output-mapped", converted(text), record) for text, record in arizona if branch(record) == "output-a"]

write(FOLDER / "input.jsonl", [line("weather", record, text) for text, record in shown])
write(
    FOLDER / "expected.jsonl",
    [
        line(topic, record, text)
        for topic, text, record in sorted(outputs, key=lambda output: (output[0], expected.record_id(output[2])))
    ],
)
