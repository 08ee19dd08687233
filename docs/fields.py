"""Writes zoo/data/fields.csv, the receptive fields of the taps of all models: ``python docs/fields.py``.

It takes minutes, since every net is traced. A test compares a sample of the rows, `make test-all` all of them.
"""

import csv
from pathlib import Path

import zoo
from zoo.analysis.field import tap_fields

FILE = Path(__file__).parents[1] / "zoo" / "data" / "fields.csv"


if __name__ == "__main__":
    with FILE.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "fields"])
        for name in zoo.list_models():
            writer.writerow([name, " ".join(tap_fields(name))])
