"""Gates in words, for the person who signs."""

from __future__ import annotations

from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import Gate, parse_gates

_OPERATORS = {"<=": "at most", "<": "below", ">=": "at least", ">": "above", "==": "exactly"}
_DIFFERENCES = {"delta": "minus the base’s", "gap": "minus gold’s"}
_MODELS = {"reference": "the base", "gold": "gold"}
_UNITS = {
    "ag": "points",
    "steps_to_recover": "steps",
    "seconds": "seconds",
    "cpu_seconds": "seconds",
    "peak_memory_mib": "MiB",
    "tera_flops": "TFLOP",
}


def in_words(text: str) -> str:
    """A gate as a sentence without a full stop; empty where the text is no gate of this version."""
    try:
        (gate,) = parse_gates([text])
    except UserError:
        return ""
    return f"{_subject(gate.metric)}: {_OPERATORS[gate.operator]} {_bound(gate)}"


def _subject(metric: str) -> str:
    first, _, rest = metric.partition(".")
    after = ""
    if rest and first in _DIFFERENCES:
        metric, after = rest, f", {_DIFFERENCES[first]}"
    elif rest and first in _MODELS:
        metric, after = rest, f" of {_MODELS[first]}"
    told = " ".join("AG" if word == "ag" else word.replace("_", " ") for word in metric.split("."))
    return told[:1].upper() + told[1:] + after


def _bound(gate: Gate) -> str:
    unit = _UNITS.get(gate.metric.rsplit(".", 1)[-1])
    if gate.base is None:
        return f"{100 * gate.number:g} %" if unit is None else f"{gate.number:g} {unit}"
    size = abs(gate.number) if unit is not None else 100 * abs(gate.number)
    model = f"{_MODELS[gate.base]}’s"
    if not gate.number:
        return model
    return f"{model} {'plus' if gate.number > 0 else 'minus'} {size:g} {unit or 'points'}"
