"""What the scripts that make the examples' files share: their lines, and where they go."""

import calendar
import pathlib
import time

import expected

EXAMPLES = pathlib.Path(__file__).resolve().parents[4] / "examples"


def line(topic, record, value):
    """One line of an example's file; `value` stands in it byte for byte."""
    timestamp_ms = calendar.timegm(time.strptime(record["date"], "%Y-%m-%dT%H:%M:%S")) * 1000
    return f'{{"topic":"{topic}","key":"{expected.record_id(record)}","value":{value},"timestamp":{timestamp_ms}}}\n'


def write(path, lines):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
    print(f"{path}: {len(lines)} records")
