"""The demo's table: one line an evaluation."""
from typing import Any

_COLUMNS = (   # heading (two lines), width
    ("", "step", 6),
    ("loss, nats/token", "train held-out excess", 22),
    ("own share", "(null 1/2) 95 %", 21),
    ("align-", "ment %", 6),
    ("NN divergence", "own placebo null95", 21),
    ("near-copies %", "own plac. held", 17),
    ("exact copies %", "seen by chance", 15),
    ("gram-", "mat. %", 6),
    ("var.", "share", 5),
)


def heading() -> str:
    """The two heading lines."""
    return "\n".join("  ".join(column[row].rjust(column[2]) for column in _COLUMNS) for row in (0, 1))


def line(record: dict[str, Any]) -> str:
    """One evaluation of a record, in the columns of heading()."""
    s, m = record["scalars"], record["metrics"]
    share, own, placebo, near, exact = (m[name] for name in ("own_share", "kl_own", "kl_placebo", "near_copies", "exact_copies"))
    cells = (
        f"{record['step']}",
        f"{s['train_loss']:.4f} {s['heldout_loss']:.4f} {s['excess_kl']:.4f}",
        f"{share['value']:.3f} [{share['ci'][0]:.3f}, {share['ci'][1]:.3f}]",
        f"{100 * m['alignment']['value']:.2f}",
        f"{own['value']:.4f} {placebo['value']:.4f} {own['null']['q95']:.4f}",
        f"{100 * near['value']:.2f} {100 * near['placebo']:.2f} {100 * near['heldout']:.2f}",
        f"{100 * exact['value']:.3f} {100 * exact['null']['mean']:.3f}",
        f"{100 * m['grammatical']['value']:.1f}",
        f"{s['variance_share']:.2f}",
    )
    return "  ".join(cell.rjust(column[2]) for cell, column in zip(cells, _COLUMNS, strict=True))
