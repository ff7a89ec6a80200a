"""Measurements of a device: their shares of ceilings and ratios to baselines, as a table."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Record:
    """One measurement.

    of: the ceiling, by its name, in the same unit. against: the op that this is a baseline of.
    wrong: share of queries with a neighbor that is not nearest. missing: why it was not measured.
    note: what else was seen.
    """

    name: str
    value: float | None = None
    unit: str = ""
    milliseconds: float | None = None
    of: str | None = None
    against: str | None = None
    wrong: float | None = None
    missing: str | None = None
    note: str | None = None

    def fields(self) -> dict:
        """Those that say something, as a line of record.jsonl has them."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}

    @classmethod
    def of_line(cls, line: dict) -> "Record":
        """The measurement in a line of record.jsonl."""
        return cls(**{field.name: line[field.name] for field in fields(cls) if field.name in line})


def rate(amount: float, unit: str, milliseconds: float, **more: object) -> dict:
    """Fields of a measurement: amount (in `unit`, for one second) done in a time."""
    return {
        "value": 1000 * amount / milliseconds,
        "unit": unit,
        "milliseconds": milliseconds,
        **more,
    }


def rows(records: Iterable[Record]) -> list[dict]:
    """The records with `share` of their ceiling and, of an op, `ratio` to its best `baseline`."""
    records = list(records)
    values = {record.name: record.value for record in records if record.value is not None}
    out = []
    for record in records:
        row = record.fields()
        if record.value is not None and record.of in values:
            row["share"] = record.value / values[record.of]
        rivals = [
            other for other in records if other.against == record.name and other.value is not None
        ]
        if record.value is not None and rivals:
            strongest = max(rivals, key=lambda other: other.value)
            row |= {"ratio": record.value / strongest.value, "baseline": strongest.name}
        out.append(row)
    return out


def table(records: Iterable[Record]) -> str:
    """Markdown: what, rate, time, share of the ceiling, times the strongest baseline, remarks."""
    lines = [
        "| what | rate | ms | share of ceiling | x strongest baseline | remarks |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows(records):
        speed = f"{row['value']:.4g} {row['unit']}" if "value" in row else "-"
        spent = f"{row['milliseconds']:.4g}" if "milliseconds" in row else "-"
        share = f"{row['share']:.2f} of {row['of']}" if "share" in row else "-"
        ratio = f"{row['ratio']:.2f} x {row['baseline']}" if "ratio" in row else "-"
        wrong = [f"{row['wrong']:.1%} wrong neighbors"] if "wrong" in row else []
        remarks = (
            "; ".join([*wrong, *(row[key] for key in ("missing", "note") if key in row)]) or "-"
        )
        lines.append(f"| {row['name']} | {speed} | {spent} | {share} | {ratio} | {remarks} |")
    return "\n".join(lines)
