"""One unlearning run in a process of its own, so that its memory is its own: `python -m vkdsurgeon.comparison.worker`.

Reads one JSON object (`RunSpec`) from stdin and writes JSON lines to stdout: progress, then `done` or `error`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.utils.flop_counter import FlopCounterMode

from vkdsurgeon.baselines.registry import BASELINES
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.model.device import resolve_device
from vkdsurgeon.model.device_map import device_map_of
from vkdsurgeon.model.precision import resolve_precision
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.pipeline.run import run
from vkdsurgeon.pipeline.run_baseline import MethodRequest, run_method
from vkdsurgeon.training.events import Event, Step

_MIB = 1 << 20


@dataclass(frozen=True)
class RunSpec:
    """One run, as JSON can hold it; see `pipeline.run_baseline.MethodRequest`."""

    model: str
    forget: str
    retain: str | None
    text: str | None
    out: str
    method: str
    recipe: dict[str, Any]
    seed: int
    device: str
    device_map: dict[str, Any] | None
    dtype: str
    tower: str | None
    projector: list[str] | None
    threads: int


@dataclass(frozen=True)
class RunCost:
    """What a run took.

    Attributes:
        seconds: Wall time of the run, from reading the sets to the verified output; imports not counted.
        cpu_seconds: Processor time of all threads in the same while, which other work on the machine lengthens
            less than wall time, by what it takes of shared caches and cores.
        peak_memory_mib: On a GPU, the most that torch's allocator held; on a CPU, the process's largest resident set
            minus what it was when all libraries were loaded.
        flops: Matrix multiplications of the training steps: those of the second step, forward and backward, by
            `torch.utils.flop_counter`, times the number of steps; of MANU, those of its forward passes. Masks, teachers
            and tests are not counted. None where there was no second step.
        steps: Optimizer steps.
        elements_changed: Elements that differ from the original.
        weights_digest: Digest of the patched weights.
        met: Whether stop rule and decoder gate were met, where the method has them.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    flops: float | None
    steps: int
    elements_changed: int
    weights_digest: str
    met: bool | None


class FlopMeter:
    """Counts the floating-point operations of one step and multiplies.

    Attributes:
        steps: Steps heard of.
        counted: Operations of the step that was counted; None before.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.counted: float | None = None
        self._mode: Any = None

    def begin(self) -> None:
        """Count from here."""
        self._mode = FlopCounterMode(display=False)
        self._mode.__enter__()

    def end(self) -> None:
        """Up to here."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self.counted, self._mode = float(self._mode.get_total_flops()), None

    def step(self, last: bool) -> None:
        """A step is over; the second one is counted."""
        self.steps += 1
        if self.steps == 2:
            self.end()
        elif self.steps == 1 and not last:
            self.begin()

    @property
    def total(self) -> float | None:
        """Of all steps."""
        return None if self.counted is None else self.counted * max(self.steps, 1)


class _Listener:
    """Receives the events of any kind of run, and counts."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None], counts_stage: str | None) -> None:
        self._tell = tell
        self._stage = counts_stage
        self.meters = {"step": FlopMeter(), "decoder step": FlopMeter()}

    def __call__(self, event: Event) -> None:
        if event.kind in self.meters:
            step: Step = event.subject
            self.meters[event.kind].step(step.step == step.steps)
            facts = {"step": step.step, "steps": step.steps, "loss": step.loss}
            self._tell(Event(event.kind, event.text, facts))
        elif event.kind in ("stage", "note", "warning"):
            if event.kind == "stage" and self._stage is not None:
                self.meters["step"].end()
                if event.text == self._stage:
                    self.meters["step"].begin()
            self._tell(event)

    @property
    def flops(self) -> float | None:
        """Of all that was counted."""
        totals = [meter.total for meter in self.meters.values() if meter.total is not None]
        return sum(totals) if totals else None


def perform(spec: RunSpec, tell: Callable[[Mapping[str, Any]], None]) -> RunCost:
    """Do one run and measure it.

    Raises:
        UserError: As the run does.
        SurgeryError: As the run does.
    """
    torch.set_num_threads(spec.threads)
    device = resolve_device(spec.device)
    listener = _Listener(tell, "importance" if spec.method == "manu" else None)
    recipe = Recipe.model_validate(spec.recipe)
    paths = {
        name: None if value is None else Path(value) for name, value in (("retain", spec.retain), ("text", spec.text))
    }
    loaded, started, worked = _resident(), time.perf_counter(), time.process_time()
    common: dict[str, Any] = {
        "model": Path(spec.model),
        "forget": Path(spec.forget),
        "out": Path(spec.out),
        "recipe": recipe,
        "seed": spec.seed,
        "device": device,
        "device_map": None if spec.device_map is None else device_map_of(**spec.device_map),
        **resolve_precision(spec.dtype),
        "tower": spec.tower,
        "projector": spec.projector,
        **paths,
    }
    met = None
    if spec.method in BASELINES or recipe.output_loss is not None:
        written = run_method(MethodRequest(method=spec.method, **common), listener).write
    else:
        result = run(Request(generic=None, **common), listener)
        written = result.write
        met = result.verdicts[-1].met and (result.decoder_verdict is None or result.decoder_verdict.met)
    assert written is not None
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / _MIB
    else:
        peak = max(_peak() - loaded, 0) / _MIB
    return RunCost(
        seconds=round(seconds, 2),
        cpu_seconds=round(cpu_seconds, 2),
        peak_memory_mib=round(peak, 1),
        flops=listener.flops,
        steps=sum(meter.steps for meter in listener.meters.values()),
        elements_changed=written.elements_changed,
        weights_digest=written.weights_digest,
        met=met,
    )


def _peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _resident() -> int:
    """The resident set of this process now, in bytes; its peak where that cannot be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return _peak()
    return pages * resource.getpagesize()


def main() -> None:
    """Do the run that stdin tells of."""
    # What libraries print must not land among the lines.
    lines: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: Mapping[str, Any]) -> None:
        print(json.dumps(dict(event)), file=lines, flush=True)

    # A comparison that is cancelled cancels its worker, which then clears its staging directory away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tell({"event": "done", **asdict(perform(RunSpec(**json.load(sys.stdin)), tell))})
    except UserError as error:
        tell({"event": "error", "kind": "user", **error.as_dict()})
    except SurgeryError as error:
        tell({"event": "error", "kind": "surgery", "what": str(error)})
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
