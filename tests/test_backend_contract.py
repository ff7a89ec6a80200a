"""Each backend keeps the contract that biasgen/backends/_contract.py writes down."""
import importlib
import inspect
from types import SimpleNamespace

import pytest

from biasgen import backends
from biasgen.backends import _contract

TYPES = {"uint8", "int8", "int16", "float32", "float64"}  # what the ops hand to backends
WITH_KNN = ("isa", "rows_within")


def functions_of(contract):
    members = vars(contract).items()
    return {name: f for name, f in members if inspect.isfunction(f) and name[0] != "_"}


def parameters(function):
    """Names and defaults, without the `self` of the contract."""
    given = inspect.signature(function).parameters.values()
    return [(one.name, one.default) for one in given if one.name != "self"]


def breaches(module):
    """What a backend module lacks, or has otherwise than the contract."""
    found = [f"no {name}" for name in ("DEVICES", "OPS", "probe") if not hasattr(module, name)]
    if found:
        return found
    written = functions_of(_contract.Ops)
    optional = functions_of(_contract.SelfTested) | functions_of(_contract.Selective)
    offered = optional | {"probe": _contract.Backend.probe}
    wanted = {name: f for name, f in offered.items() if hasattr(module, name)}
    for op, takes in module.OPS.items():
        if op not in written:
            found.append(f"{op}: not in the contract")
            continue
        wanted |= {name: written[name] for name in (op, *(WITH_KNN if op == "knn" else ()))}
        keys = set(takes) - {"refuses"}
        if keys != {"dtypes", "distances"} or not set(takes["dtypes"]) <= TYPES:
            found.append(f"{op}: takes {takes}")
    for name, function in wanted.items():
        own = getattr(module, name, None)
        if own is None:
            found.append(f"no {name}")
        elif parameters(own) != parameters(function):
            found.append(f"{name}{inspect.signature(own)}")
    return found


@pytest.mark.parametrize("name", backends.ORDER)
def test_a_backend_keeps_the_contract(name):
    assert breaches(importlib.import_module(f"biasgen.backends.{name}_backend")) == []


def test_a_breach_is_found():
    takes = {"dtypes": ("uint8",), "distances": ()}
    wrong = SimpleNamespace(
        DEVICES=("cpu",),
        OPS={"knn": takes, "sort": takes},
        probe=lambda: None,
        isa=lambda: None,
        knn=lambda query, prepared, k: None,
    )
    assert breaches(wrong) == ["sort: not in the contract", "knn(query, prepared, k)", "no rows_within"]


def test_every_op_of_the_contract_is_offered_by_torch():
    """The torch backend has everything, so that every call has an answer."""
    written = set(functions_of(_contract.Ops)) - set(WITH_KNN)
    assert set(backends.load("torch")[0].OPS) == written
