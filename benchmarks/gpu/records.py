"""Measurements of a device: their shares of ceilings and ratios to baselines, as JSON lines and as a Markdown table."""
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One measurement. of: the ceiling, by its name, in the same unit. against: the op that this is a baseline of. wrong: share of queries
    with a neighbor that is not nearest. missing: why it was not measured."""

    name: str
    value: float | None = None
    unit: str = ""
    milliseconds: float | None = None
    of: str | None = None
    against: str | None = None
    wrong: float | None = None
    missing: str | None = None


def rows(records: Iterable[Record]) -> list[dict]:
    """The records with `share` of their ceiling and, of an op, its `ratio` to the strongest baseline, named in `baseline`."""
    records = list(records)
    values = {record.name: record.value for record in records if record.value is not None}
    out = []
    for record in records:
        row = {key: value for key, value in asdict(record).items() if value is not None and value != ""}
        if record.value is not None and record.of in values:
            row["share"] = record.value / values[record.of]
        rivals = [other for other in records if other.against == record.name and other.value is not None]
        if record.value is not None and rivals:
            strongest = max(rivals, key=lambda other: other.value)
            row |= {"ratio": record.value / strongest.value, "baseline": strongest.name}
        out.append(row)
    return out


def write(about: dict, records: Iterable[Record], folders: Iterable[Path]) -> list[Path]:
    """One JSON line a record, each with `about`, in <date>-<device>.jsonl of each folder; a file is whole or absent."""
    text = "".join(json.dumps(about | row) + "\n" for row in rows(records))
    paths = [Path(folder) / f"{about['date']}-{about['device'].replace(' ', '-')}.jsonl" for folder in folders]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(text)
        unfinished.rename(path)
    return paths


def table(records: Iterable[Record]) -> str:
    """Markdown: what, rate, time, share of the ceiling, times the strongest baseline, wrong neighbors."""
    lines = ["| what | rate | ms | share of ceiling | x strongest baseline | wrong neighbors |", "|---|---|---|---|---|---|"]
    for row in rows(records):
        if "missing" in row:
            lines.append(f"| {row['name']} | - | - | - | - | {row['missing']} |")
            continue
        rate = f"{row['value']:.4g} {row['unit']}" if "value" in row else "-"
        time = f"{row['milliseconds']:.4g}" if "milliseconds" in row else "-"
        share = f"{row['share']:.2f} of {row['of']}" if "share" in row else "-"
        ratio = f"{row['ratio']:.2f} x {row['baseline']}" if "ratio" in row else "-"
        wrong = f"{row['wrong']:.1%}" if "wrong" in row else "-"
        lines.append(f"| {row['name']} | {rate} | {time} | {share} | {ratio} | {wrong} |")
    return "\n".join(lines)
