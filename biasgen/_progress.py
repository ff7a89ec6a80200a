"""A progress bar on stderr, drawn when stderr is a terminal; otherwise silent."""
import sys
import time


class Progress:
    """with Progress(total, "training") as bar: bar.update(done)."""

    _WIDTH, _SECONDS = 30, 0.1

    def __init__(self, total: int, label: str) -> None:
        self._total, self._label = max(total, 1), label
        self._on = sys.stderr.isatty()
        self._started, self._drawn, self._shown = time.monotonic(), -1.0, 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of the total is finished."""
        now = time.monotonic()
        if not self._on or (now - self._drawn < self._SECONDS and done < self._total):
            return
        self._drawn = now
        share, spent = done / self._total, now - self._started
        left = f"{spent * (1 - share) / share:.0f} s left" if share > 0 else ""
        bar = "#" * round(self._WIDTH * share)
        line = f"{self._label} [{bar:<{self._WIDTH}}] {100 * share:3.0f} % {left} {note}".rstrip()
        sys.stderr.write("\r" + line.ljust(self._shown))
        sys.stderr.flush()
        self._shown = len(line)

    def clear(self) -> None:
        """Wipe the bar, so that a line can be printed in its place; the next update draws it again."""
        if self._on and self._shown:
            sys.stderr.write("\r" + " " * self._shown + "\r")
            sys.stderr.flush()
            self._shown, self._drawn = 0, -1.0
