"""What is measured, once it is known that all do the same work."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.end_to_end.stopwatch import Silent, Stopwatch


def check(ways: dict[str, Any]) -> None:
    """Refuse to time what does not do the same work.

    Raises:
        AssertionError: Frozen elements moved, selected ones did not, or losses differ.
    """
    for name, way in ways.items():
        moved = False
        for parameter, mask in way.masks.items():
            value, start = way.parameters[parameter].detach(), way.start[parameter]
            assert torch.equal(value[~mask], start[~mask]), f"{name}: a frozen element of {parameter} moved"
            moved = moved or not torch.equal(value, start)
        assert moved, f"{name}: nothing moved"
    ours, plain = ways["ours"].first_loss, ways["plain loop"].first_loss
    assert ours > 0
    assert abs(ours - plain) <= 0.02 * plain, f"the first loss is {ours} and {plain}"


def measure(ways: dict[str, Any], images: int, steps: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Rates of all ways, measured in turns, and the breakdown of each.

    Args:
        ways: Name -> a way with `steps`.
        images: Images per step.
        steps: Steps per round.
        rounds: How often each way has its turn.
        device: Where they run.

    Returns:
        One row per way, without provenance.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    clock, silent = Stopwatch(device), Silent(device)
    for _ in range(rounds):
        for name, way in ways.items():
            started = clock.now()
            way.steps(steps, silent)
            rates[name].append(images * steps / (clock.now() - started))
    rows = []
    for name, way in ways.items():
        watch = Stopwatch(device)
        started = watch.now()
        way.steps(steps, watch)
        whole = (watch.now() - started) / steps
        stages = {stage: seconds / steps for stage, seconds in watch.seconds.items()}
        stages["other"] = max(whole - sum(stages.values()), 0.0)
        ordered = sorted(rates[name])
        rows.append(
            {
                "provider": name,
                "images_per_second": digits(statistics.median(ordered)),
                "q20": digits(ordered[int(0.2 * rounds)]),
                "q80": digits(ordered[min(int(0.8 * rounds), rounds - 1)]),
                "ratios": {
                    other: digits(statistics.median(a / b for a, b in zip(rates[name], theirs, strict=True)))
                    for other, theirs in rates.items()
                    if other != name
                },
                "seconds_per_step": {stage: digits(seconds) for stage, seconds in stages.items()},
                "rounds": rounds,
                "steps_per_round": steps,
            }
        )
    return rows


def digits(number: float) -> float:
    """Four digits of a figure."""
    return float(f"{number:.4g}")
