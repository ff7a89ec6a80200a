"""Answers today against the golden file; its maker.

python -m tests.golden              what differs from the record, beyond the tolerances
python -m tests.golden --bits       what differs in any bit: on the machine that made the record
python -m tests.golden --write      makes the record anew, for all calls or for those named
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from biasgen.backends import cpu_backend
from tests.golden import numbers, outside, searches, trees
from tests.golden.record import differences, record

GOLDEN = Path(__file__).with_name("golden.json")
PARTS = searches, trees, numbers, outside


def calls(parts=PARTS):
    """{name: call} of these files."""
    listed = [call for part in parts for call in part.calls()]
    named = {call[0]: call for call in listed}
    assert len(named) == len(listed), "two calls have one name"
    return named


def load():
    """{name: record} as the golden file holds it."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))["calls"]


def against(held, name, call, bits=False):
    """Sentences that tell how a call's answer differs from the record `held`."""
    tolerance = None if bits else call[2]
    return list(differences(held[name], json.loads(json.dumps(record(call))), tolerance, name))


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("names", nargs="*", help="of calls; default: all")
    parser.add_argument("--bits", action="store_true", help="compare every bit")
    parser.add_argument("--write", action="store_true", help="record what is answered now")
    arguments = parser.parse_args(argv)
    named = calls()
    chosen = arguments.names or list(named)
    if unknown := [name for name in chosen if name not in named]:
        parser.error(f"no such calls: {unknown}")
    if arguments.write:
        held = load() if arguments.names else {}
        held |= {name: record(named[name]) for name in chosen}
        _write({name: held[name] for name in named if name in held})
        return 0
    held = load()
    found = [line for name in chosen for line in against(held, name, named[name], arguments.bits)]
    print("\n".join([*found, f"{len(chosen)} calls, {len(found)} differences"]))
    return 1 if found else 0


def _write(held):
    made_with = {"numpy": np.__version__, "torch": torch.__version__, "isa": cpu_backend.isa()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in held.items())
    part = GOLDEN.with_name(f"{GOLDEN.name}.part")
    text = f'{{\n "made_with": {json.dumps(made_with)},\n "calls": {{\n{lines}\n }}\n}}\n'
    part.write_text(text, encoding="utf-8")
    os.replace(part, GOLDEN)


if __name__ == "__main__":
    sys.exit(main())
