"""Measure how near generated rows lie to the training rows, against held-out rows: every number with its null."""
import argparse
import os
import sys
from pathlib import Path

from biasgen.cli._sources import SOURCES, add_distance, add_views, in_views


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = SOURCES
    parser.add_argument("--train", type=Path, required=True, help="training rows: integer tokens (N, L) or images (N, ...)")
    parser.add_argument("--gen", type=Path, required=True, help="generated rows")
    parser.add_argument("--heldout", type=Path, required=True, help="held-out rows, of the law and preprocessing of --train")
    parser.add_argument(
        "--metrics",
        help="names, separated by commas, of other metrics to measure; a wrong name lists them",
    )
    parser.add_argument("--alpha", type=float, default=0.01, help="share of held-out rows allowed to be near-copies (default 0.01)")
    add_distance(parser)
    add_views(parser)
    parser.add_argument("--permutations", type=int, default=999, help="of every null (default 999)")
    parser.add_argument("--seed", type=int, default=0, help="of the permutations and the self-test (default 0)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the report as JSON; - for standard output, no table")


def run(arguments: argparse.Namespace) -> int:
    from biasgen.data.files import load_set
    from biasgen.metrics.evaluate import evaluate

    sets = {name: load_set(getattr(arguments, name), name) for name in ("gen", "train", "heldout")}
    sets["train"] = in_views(sets["train"], arguments.views, arguments.distance)
    options = {name: getattr(arguments, name) for name in ("alpha", "distance", "permutations", "seed")}
    names = None if arguments.metrics is None else arguments.metrics.split(",")
    report = evaluate(**sets, metrics=names, **options)
    text = report.to_json()
    status = 1 if report.warnings else 0
    if arguments.json == Path("-"):
        print(text)
        print("".join(f"biasgen eval: {warning}\n" for warning in report.warnings), end="", file=sys.stderr)
        return status
    rows = ", ".join(f"{name} {entry['n']} ({entry['distinct']} distinct)" for name, entry in report.sets.items())
    settings = "distance {distance}; {permutations} permutations, seed {seed}".format(**report.params)
    if report.params["views"] != ("identity",):
        settings += f"; views {', '.join(report.params['views'])}"
    print(f"rows: {rows}; {settings}\n")
    print(report.table())
    if arguments.json:
        part = arguments.json.with_name(arguments.json.name + ".part")
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, arguments.json)
        print(f"written: {arguments.json}", file=sys.stderr)
    return status
