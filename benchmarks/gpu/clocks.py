"""What clock a device keeps under a load, and why not a higher one, as nvidia-smi tells it."""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

FIELDS = "clocks.sm,clocks_event_reasons.active,power.draw,temperature.gpu"
REASONS = {  # bits of clocks_event_reasons.active, in NVML's words
    0x1: "idle",
    0x2: "clocks set by an application",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal, by software",
    0x40: "thermal, by hardware",
    0x80: "power brake",
    0x100: "display clocks",
}


def under(
    work: Callable[[], object], synchronize: Callable[[], object], seconds: float = 2.0
) -> dict:
    """Fields of a measurement: the median clock of the SMs while work() is repeated.

    RuntimeError where nvidia-smi tells nothing.
    """
    asked = [f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits", "--id=0", "-lms", "50"]
    with tempfile.TemporaryFile("w+") as said:
        watch = subprocess.Popen(["nvidia-smi", *asked], stdout=said, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                work()
                synchronize()
        finally:
            watch.terminate()
            watch.wait()
        said.seek(0)
        return told(said.read())


def told(text: str) -> dict:
    """Fields of a measurement from lines of nvidia-smi, the idle ones left out."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        try:
            clock, bits, power, heat = float(parts[0]), int(parts[1], 16), *map(float, parts[2:])
        except (ValueError, IndexError):
            continue
        if not bits & 1:
            found.append((clock, bits, power, heat))
    if not found:
        raise RuntimeError(f"nvidia-smi said: {(text.splitlines() or ['nothing'])[0][:120]}")
    seen = [name for bit, name in REASONS.items() if any(bits & bit for _, bits, _, _ in found)]
    clock, _, power, heat = (statistics.median(column) for column in zip(*found, strict=True))
    note = f"held back by: {', '.join(seen) or 'nothing'}; {power:.0f} W, {heat:.0f} degrees"
    return {"value": clock, "unit": "MHz", "note": note}
