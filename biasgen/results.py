"""What ops and metrics return: frozen dataclasses with units. Standard library only."""
import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

SCHEMA = 1
"""Of the records and reports that are written as JSON."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest rows. distances (N, K) int64 or float64; indices (N, K) int64; tie_counts (N,) int64; stats: what the search did.

    Row n holds the K smallest by (distance, index), ascending. tie_counts[n]: reference rows that share the smallest distance.
    """

    distances: Any
    indices: Any
    tie_counts: Any
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Credit:
    """How often each reference row is somebody's nearest.

    weights (M,) float64: sum over queries of 1 / tie_count where the row is among the nearest. distances (N,), int64 or
    float64, and tie_counts (N,) int64 belong to the queries; ties count rows with multiplicity.
    """

    weights: Any
    distances: Any
    tie_counts: Any


@dataclass(frozen=True)
class TreePosterior:
    """marginals (B, L, Q) float32, rows sum to 1; log_z (B,) float64 in nats; impossible (B,) bool:
    evidence that the grammar forbids (then log_z is -inf and the marginals are zero). On demand
    marginals are None, or a list of one table for each level, and rule_marginals such a list of
    (B, nodes, rules): the probability that a node was expanded by a rule, that is of its symbol and its
    children's.

    A backend gives the same with each list as one table, (B, numbers), level by level, and None for
    what was not asked for: see `flat`."""

    marginals: Any
    log_z: Any
    impossible: Any
    rule_marginals: Any = None

    LEVELS: ClassVar = (None, "leaves", "all", "rules")
    """What can be asked for, each with what comes before it."""

    @classmethod
    def of(cls, tables: dict[str, Any]) -> "TreePosterior":
        """The result with these fields, None for those that were not asked for."""
        return cls(**{"marginals": None} | tables)

    @classmethod
    def layout(cls, tree: Any, levels: str | None) -> dict[str, tuple[str, Any]]:
        """{field: (element type, shape of one sample's part)} of what `levels` asks for; instead of
        one shape a list of one for each level, None for a level without. tree:
        biasgen.ops.tree.Tree."""
        symbols = [(n, tree.Q) if n else None for n in tree.nodes]
        parts: dict[str, tuple[str, Any]] = {"log_z": ("float64", ()), "impossible": ("bool", ())}
        if levels is not None:
            parts["marginals"] = "float32", symbols[-1] if levels == "leaves" else symbols
        if levels == "rules":
            counts = zip(tree.nodes, tree.rule_counts, strict=False)  # the leaves have no rules
            expanded = [(n, count) if count else None for n, count in counts]
            parts["rule_marginals"] = "float32", expanded
        return parts

    @classmethod
    def flat(cls, tree: Any, levels: str | None) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The same as backends give it: a list of shapes becomes (numbers,), those of all
        levels."""
        found = {}
        for name, (dtype, shape) in cls.layout(tree, levels).items():
            one = (sum(map(numbers_of, shape)),) if isinstance(shape, list) else shape
            found[name] = dtype, one
        return found


def numbers_of(shape: tuple[int, ...] | None) -> int:
    """How many numbers a table of this shape has; None: there is none."""
    return 0 if shape is None else math.prod(shape)


@dataclass(frozen=True)
class Denoised:
    """Where a noised point came from. x0_hat (B, ...); log_density (B,) float64 in nats; effective_sample_size (B,) float64: one over the
    sum of the squared posterior probabilities of the rows, 1 .. M; dropped (B,) float64: probability of the rows left out, at most."""

    x0_hat: Any
    log_density: Any
    effective_sample_size: Any
    dropped: Any


@dataclass(frozen=True)
class Null:
    """What the number would be without bias: mean and 95 % quantile, and how they were found."""

    mean: float
    q95: float
    method: str


@dataclass(frozen=True)
class Result:
    """A number about a model, with what is needed to judge it. float(result) is its value.

    value: the number. ci: its 95 % interval or None. null: its distribution without bias. p_value: one-sided, towards the training set.
    excess: value - null.mean. heldout: the same number for held-out rows, where it means something. placebo: the same number against
    data that the model never saw. per_sample: one entry a generated row. n_gen, n_train, n_heldout: rows used. params: settings used.
    """

    value: float
    ci: tuple[float, float] | None = None
    null: Null | None = None
    p_value: float | None = None
    heldout: float | None = None
    placebo: float | None = None
    per_sample: Any = None
    n_gen: int | None = None
    n_train: int | None = None
    n_heldout: int | None = None
    params: dict[str, Any] = field(default_factory=dict)

    def __float__(self) -> float:
        return float(self.value)

    @property
    def excess(self) -> float | None:
        """value - null.mean; the interval of the excess is ci - null.mean."""
        return None if self.null is None else self.value - self.null.mean

    @property
    def excess_ci(self) -> tuple[float, float] | None:
        """95 % interval of the excess; it may be negative."""
        return None if self.null is None or self.ci is None else (self.ci[0] - self.null.mean, self.ci[1] - self.null.mean)

    def as_dict(self) -> dict[str, Any]:
        """Everything but per_sample, as json_safe gives it."""
        return json_safe({f.name: getattr(self, f.name) for f in fields(self) if f.name != "per_sample"} | {"excess": self.excess})


@dataclass(frozen=True)
class LevelCurve:
    """A mean over sequences at several noise levels. t (S,) steps of the schedule; value (S,); interval (S, 2), 95 %, of each by itself;
    mean: over the steps, each as likely, with per_sample (n,)."""

    t: Any
    value: Any
    interval: Any
    mean: Result


@dataclass(frozen=True)
class SplitResult:
    """Two models trained on disjoint sets A and B, compared. Every number is the mean of both models.

    own_share: share of samples whose nearest row of the pool T_A u T_B is the model's own (null 1/2). near_own_share: the same among
    samples that have a pool row within the near-copy threshold. kl_own, kl_placebo: NN divergence against the own and the other
    training set. auc_own, auc_placebo: probability that a sample lies nearer to that set than a held-out row does. near_copies: share
    within the threshold of the own set; its placebo is the other set's. twin_distance: mean distance between the two models' samples of
    the same noise.
    """

    own_share: Result
    near_own_share: Result
    kl_own: Result
    kl_placebo: Result
    auc_own: Result
    auc_placebo: Result
    near_copies: Result
    twin_distance: Result

    def as_dict(self) -> dict[str, Result]:
        """{name: Result}, the form that a record holds."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Leakage:
    """Which training rows attract samples. weights (m,) float64: samples whose nearest row of the pool of training and held-out rows each
    is, ties shared; p_values, q_values (m,); rows: indices of those with q <= level, by q and then by falling weight; params."""

    weights: Any
    p_values: Any
    q_values: Any
    rows: Any
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Membership:
    """Can a training row be told by its loss? auc: probability that it is lower than a held-out row's. tpr: share of training rows told
    at the given share of held-out rows mistaken for them."""

    auc: Result
    tpr: Result


@dataclass(frozen=True)
class LossDecomposition:
    """Squared error of two models on independent data and seeds, split. Every number is the mean of both models.

    variance: what changes with training set and seed. excess: over the exact denoiser, bias: excess - variance (None without the exact
    denoiser). loss: over the clean rows (None without them). share: variance / excess, else variance / loss, else None. seed_variance,
    data_variance: the parts of variance that change with the seed and with the training set (None without a third model).
    """

    variance: Result
    share: Result | None = None
    excess: Result | None = None
    bias: Result | None = None
    loss: Result | None = None
    seed_variance: Result | None = None
    data_variance: Result | None = None

    def as_dict(self) -> dict[str, Result]:
        """{name: Result} of those that there are, the form that a record holds."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if getattr(self, name) is not None}


@dataclass(frozen=True)
class Onset:
    """When bias began, as far as the evaluations can say.

    status: "detected"; "none": looked for and not found; "inconclusive": too few evaluations to say none. step: the first of the two
    consecutive evaluations that found it, else None. statistic: which one fired, else the main one watched. interval: 95 % interval of
    that statistic's excess at `step`, or at the last evaluation where nothing fired. alpha: bound on the chance of a false alarm
    over all evaluations so far. looks: evaluations tested. censored: it fired at the first evaluation, bias may have begun before.
    """

    status: str
    step: int | None
    interval: tuple[float, float] | None
    statistic: str | None
    alpha: float
    looks: int
    censored: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As json_safe gives it."""
        return json_safe(field_values(self))


@dataclass(frozen=True)
class TurningPoint:
    """Where a curve over training is lowest. step: of the lowest evaluation. interval: 95 % of the steps that are lowest when rows are
    redrawn jointly over the evaluations. censored: the lowest is the last evaluation, the curve may still fall. inside_null: its value
    there is within the null's 95 %, so that it is no turning point (None where the curve has no null)."""

    step: int
    interval: tuple[int, int]
    censored: bool
    inside_null: bool | None = None


@dataclass(frozen=True)
class EquivalentDose:
    """The start time of U-turns from training rows that are as biased as some samples. Small is a strong bias, near 1 none.

    t0_over_T: in (0, 1]. interval: 95 %; an end that is an end of the dose curve means "or beyond". censored: "weaker" or "stronger" where
    the samples' value lies beyond the curve, so that t0_over_T is only its end; else None.
    """

    t0_over_T: float   # noqa: N815 (T is the number of diffusion steps)
    interval: tuple[float, float]
    censored: str | None = None

    def __str__(self) -> str:
        comparison = {None: "as biased as", "weaker": "less biased than", "stronger": "more biased than"}[self.censored]
        low, high = self.interval
        return f"{comparison} U-turns from training rows at t0/T = {self.t0_over_T:.2f} [{low:.2f}, {high:.2f}]"

    def as_dict(self) -> dict[str, Any]:
        """As json_safe gives it."""
        return json_safe(field_values(self))


@dataclass(frozen=True)
class Record:
    """One evaluation during training. step: optimizer steps done; seconds: cost of this evaluation; scalars: numbers that the training
    loop handed over; metrics: {name: Result}."""

    step: int
    seconds: float
    scalars: dict[str, float]
    metrics: dict[str, Result]

    def as_dict(self) -> dict[str, Any]:
        """As json_safe gives it."""
        return json_safe(field_values(self))


def field_values(instance: Any) -> dict[str, Any]:
    """{name: value} of a dataclass's fields, themselves not converted."""
    return {f.name: getattr(instance, f.name) for f in fields(instance)}


def json_safe(value: Any) -> Any:
    """`value` as what strict JSON can hold: dicts, lists, str, int, float, bool, None.

    NaN and infinities become None (json.dumps would write tokens that JSON does not have), NumPy and torch scalars and arrays become Python
    numbers and lists, a Result its as_dict, Null a dict, tuples lists.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, Null):
        value = field_values(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): json_safe(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(entry) for entry in value]
    return value
