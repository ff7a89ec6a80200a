"""The folder of a gpu-check: record.jsonl, a log for each step, and details.zip.

A line of record.jsonl is added as soon as it is known, so that a step that is ended loses nothing.
All lines have "key": what was checked, and on what (check.key). The others tell them apart:

    about                       device and versions that the key stands for
    step, passed, seconds       an item of a step that has passed: a test, a check, a part of it
    step, failed, why           an item that has failed
    step, name, value, unit ..  a measurement: the fields of records.Record
    step, state, why, seconds   how a step ended: passed, failed or unfinished
"""

import json
import os
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.records import Record

ENVIRONMENT = "GPU_CHECK"  # the folder, key and name of a step, as JSON, for its process
PASSED, FAILED, UNFINISHED = "passed", "failed", "unfinished"


class Folder:
    """What one step writes, and what was written before under the same key.

    path None: lines are kept in memory alone.
    """

    def __init__(self, path: Path | None, key: str = "", step: str = "") -> None:
        self.path, self.key, self.step = path, key, step
        self.failures = 0
        self._kept: list[dict] = []
        own = [line for line in self.lines() if line.get("step") == step and "missing" not in line]
        # Items that had passed, or were measured, before this process began.
        self.proved = {line.get("passed", line.get("name")) for line in own} - {None}

    @classmethod
    def of_step(cls) -> "Folder":
        """That of the step whose process this is; none where somebody started it by hand."""
        path, key, step = json.loads(os.environ.get(ENVIRONMENT, "[null, null, null]"))
        return cls(None if path is None else Path(path), key, step)

    def environment(self, step: str) -> dict[str, str]:
        """By which the process of a step finds the folder."""
        return {ENVIRONMENT: json.dumps([str(self.path), self.key, step])}

    @property
    def record(self) -> Path:
        """The file of lines."""
        return self.path / "record.jsonl"

    def lines(self) -> list[dict]:
        """Those of the key, in their order, without one that was cut off while it was written."""
        if self.path is None or not self.record.exists():
            return self._kept
        found = []
        for text in self.record.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if line["key"] == self.key:
                found.append(line)
        return found

    def add(self, **fields: object) -> None:
        """One line, whole, behind a line that was cut off."""
        if self.path is None:
            self._kept.append({"key": self.key} | fields)
            return
        text = json.dumps({"key": self.key} | fields) + "\n"
        with open(self.record, "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode())

    def once(self, item: str, work: Callable[[], dict | str | None]) -> None:
        """Do the work of an item, unless it is proved. A failure is told, counted and recorded.

        work() returns the fields of a measurement (all of records.Record but its name), a sentence
        to print, or None; it may itself hand items to `once`, and has passed when all of them have.
        """
        if item in self.proved:
            print(f"{item}: passed before", flush=True)
            return
        begin, failures = time.monotonic(), self.failures
        try:
            found = work()
        except Exception as error:  # whatever it is, the next item runs
            traceback.print_exc()
            self.failures += 1
            self.add(step=self.step, failed=item, why=reason(error))
            print(f"{item}: FAILED, {reason(error)}", flush=True)
            return
        seconds = round(time.monotonic() - begin, 2)
        if self.failures > failures:
            return
        if isinstance(found, dict):
            record = Record(item, **found)
            self.add(step=self.step, **record.fields())
            print(f"{item}: {json.dumps(record.fields())}", flush=True)
            return
        self.add(step=self.step, passed=item, seconds=seconds)
        print(f"{item}: {found or 'passed'} ({seconds:g} s)", flush=True)

    def state(self, step: str) -> str | None:
        """How a step ended last; None where it has not."""
        states = [
            line["state"] for line in self.lines() if line.get("step") == step and "state" in line
        ]
        return states[-1] if states else None

    def records(self) -> list[Record]:
        """The measurements; of one that was taken several times the last."""
        found = {line["name"]: Record.of_line(line) for line in self.lines() if "name" in line}
        return list(found.values())

    def keep(self, texts: dict[str, str]) -> None:
        """Put texts in details.zip under their names, in place of what had these names."""
        if self.path is None:
            return
        path = self.path / "details.zip"
        kept = {}
        if path.exists():
            with zipfile.ZipFile(path) as old:
                kept = {name: old.read(name) for name in old.namelist() if name not in texts}
        kept |= {name: text.encode() for name, text in texts.items()}
        handle, unfinished = tempfile.mkstemp(suffix=".part", dir=self.path)
        try:
            with (
                os.fdopen(handle, "wb") as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
            ):
                for name, content in kept.items():
                    new.writestr(name, content)
            os.chmod(unfinished, 0o644)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise


def reason(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
