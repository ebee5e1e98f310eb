"""Opens every table of a report with one library, unchanged: python tables.py FOLDER LIBRARY

Ends with 77 when the library is not installed. Every file must have the columns of its header, the
CSV and Parquet of a table must have equal rows, and figures must be numbers."""

import csv
import importlib.util
import pathlib
import sys

folder, library = pathlib.Path(sys.argv[1]), sys.argv[2]
needed = {"pandas": ["pandas", "pyarrow"], "polars": ["polars"], "duckdb": ["duckdb"]}[library]
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    print(f"not installed: {', '.join(missing)}")
    sys.exit(77)


def opened(path):
    """Columns, number of rows, and the columns that hold numbers."""
    if library == "pandas":
        import pandas

        frame = (pandas.read_csv if path.suffix == ".csv" else pandas.read_parquet)(path)
        numbers = [name for name in frame.columns if frame[name].dtype.kind in "iuf"]
        return list(frame.columns), len(frame), numbers
    if library == "polars":
        import polars

        frame = (polars.read_csv if path.suffix == ".csv" else polars.read_parquet)(path)
        numbers = [name for name in frame.columns if frame[name].dtype.is_numeric()]
        return frame.columns, frame.height, numbers
    import duckdb

    frame = duckdb.sql(f"select * from '{path}'")
    kinds = dict(zip(frame.columns, map(str, frame.types)))
    numbers = [name for name, kind in kinds.items() if kind in ("DOUBLE", "BIGINT", "UBIGINT", "UINTEGER")]
    return frame.columns, len(frame.fetchall()), numbers


tables = sorted(p for p in folder.iterdir() if p.suffix in (".csv", ".parquet"))
assert len(tables) > 15, tables
rows = {}
for path in tables:
    columns, count, numbers = opened(path)
    rows[path.name] = count
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            content = list(csv.reader(file))
        assert list(columns) == content[0], (path, columns, content[0])
        assert count == len(content) - 1, (path, count, len(content) - 1)
    for name in ("n", "value", "ci_low", "cost_per_1000_usd", "latency_ms"):
        is_empty = path.suffix == ".csv" and all(
            not row[content[0].index(name)] for row in content[1:]
        ) if name in columns and path.suffix == ".csv" else False
        assert name not in columns or name in numbers or is_empty, (path, name, numbers)
for table in ("summary", "pairs"):
    assert rows[f"{table}.csv"] == rows[f"{table}.parquet"], table
assert rows["trials.parquet"] > 0 and rows["scores.parquet"] >= rows["trials.parquet"]
print(f"{library}: {len(tables)} tables")
