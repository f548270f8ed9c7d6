"""How kernels are timed: all providers of a case in turns, in one process, and only after each proved right.

One round calls every provider once, so that a noisy machine is noisy for all of them, and a ratio is the median of the
ratios of rounds. On a GPU the time of a round is that of the device between two events, recorded while the device still
sleeps: the queue is full before the clock starts, and what Python costs is told apart as `wall_ms`.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vkdsurgeon_kernels.launch import FP_FUSION

SCHEMA = "vkdsurgeon/kernel-benchmark/1"
_CYCLES_PER_SECOND = 2e9
_LEAST_SECONDS = 2e-3
_MOST_CALLS = 50


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        operation: Name of the operation, as in `bench_<operation>.py` and `test_<operation>.py`.
        name: Unique within the operation.
        shape: The workload in words or numbers.
        dtype: Of the large tensors.
        bytes: Least number of bytes that one call has to move; rates of all providers refer to it.
        required: Provider -> how many times faster than it `ours` has to be on this device.
    """

    operation: str
    name: str
    shape: Any
    dtype: torch.dtype
    bytes: float
    required: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Provider:
    """One way to do it.

    Attributes:
        run: Does it once; given the number of the round, for inputs that rotate.
        verify: Raises AssertionError unless what the provider computes is right; called before anything is timed.
    """

    run: Callable[[int], Any]
    verify: Callable[[], None]


class Clock:
    """Times calls on one device.

    Args:
        device: Where the work happens.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, run: Callable[[int], Any], number: int, calls: int = 1) -> tuple[float, float]:
        """Seconds per call of `calls` calls: on the device, and on the wall."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            for _ in range(calls):
                run(number)
            seconds = (time.perf_counter() - started) / calls
            return seconds, seconds
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            run(number)
        enqueued = time.perf_counter() - started
        torch.cuda.synchronize()
        wall = (time.perf_counter() - started) / calls
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(int(2 * enqueued * _CYCLES_PER_SECOND))
        first.record()
        for _ in range(calls):
            run(number)
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1e3 / calls, wall

    def calls_for(self, run: Callable[[int], Any]) -> int:
        """How many calls make a round long enough to be timed."""
        seconds = min(self(run, number)[1] for number in range(2))
        return max(1, min(_MOST_CALLS, round(_LEAST_SECONDS / max(seconds, 1e-9))))

    def peak_memory(self, run: Callable[[int], Any]) -> int | None:
        """Bytes that one call allocates at most beyond what was there; None where torch does not count."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(0)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def copy_rate(device: torch.device, elements: int, rounds: int = 15) -> float:
    """Bytes per second, read and written, of `torch.Tensor.copy_` between large float32 tensors; median."""
    source, target = (torch.rand(elements, device=device) for _ in range(2))
    clock = Clock(device)
    times = [clock(lambda _: target.copy_(source), number)[0] for number in range(rounds)]
    return 2 * source.nbytes / statistics.median(times[1:])


def measure(
    case: Case,
    providers: Mapping[str, Provider],
    clock: Clock,
    rounds: int,
    pace: Callable[[Callable[[], None], int], None],
    rate: float,
) -> list[dict[str, Any]]:
    """Verify all providers, time them in turns, and describe each in a row without provenance.

    Args:
        case: What is measured.
        providers: The ways to do it; one is called `ours`.
        clock: Times calls.
        rounds: How often each provider is timed.
        pace: Calls its first argument as often as its second says.
        rate: The device's copy rate in bytes per second.

    Returns:
        One row per provider. `ratios` says how many times faster the provider is than each other one.

    Raises:
        AssertionError: A provider computes something wrong.
        ValueError: None of the providers is called `ours`.
    """
    if "ours" not in providers:
        raise ValueError(f"{case.operation}, {case.name}: one provider must be called 'ours', got {list(providers)}")
    for provider in providers.values():
        provider.verify()
    calls = {name: clock.calls_for(provider.run) for name, provider in providers.items()}
    times: dict[str, list[float]] = {name: [] for name in providers}
    walls: dict[str, list[float]] = {name: [] for name in providers}

    def one_round() -> None:
        for name, provider in providers.items():
            seconds, wall = clock(provider.run, len(times[name]), calls[name])
            times[name].append(seconds)
            walls[name].append(wall)

    gc.collect()
    pace(one_round, rounds)
    rows = []
    for name, provider in providers.items():
        median = statistics.median(times[name])
        rows.append(
            {
                "schema": SCHEMA,
                "operation": case.operation,
                "case": case.name,
                "provider": name,
                "shape": case.shape,
                "dtype": str(case.dtype).removeprefix("torch."),
                "median_ms": _digits(median * 1e3),
                "min_ms": _digits(min(times[name]) * 1e3),
                "q20_ms": _digits(_quantile(times[name], 0.2) * 1e3),
                "q80_ms": _digits(_quantile(times[name], 0.8) * 1e3),
                "wall_ms": _digits(statistics.median(walls[name]) * 1e3),
                "rounds": len(times[name]),
                "ratios": {other: _digits(_ratio(times[other], times[name])) for other in times if other != name},
                "required": dict(case.required) if name == "ours" else {},
                "bytes": round(case.bytes),
                "gb_s": _digits(case.bytes / median / 1e9),
                "percent_of_copy": _digits(100 * case.bytes / median / rate),
                "peak_memory": clock.peak_memory(provider.run),
                "fp_fusion": FP_FUSION,
            }
        )
    return rows


def _ratio(theirs: Sequence[float], mine: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, mine, strict=True))


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def _digits(number: float) -> float:
    return float(f"{number:.4g}")
