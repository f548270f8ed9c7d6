"""Progress on a terminal, in a log and for programs."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console
from vkdsurgeon_cli import progress
from vkdsurgeon_cli.output import Output
from vkdsurgeon_cli.progress import Bar, LogLines, Progressed, duration, line_of, shortened
from vkdsurgeon_cli.streams import ProgressMode

STEP = {"event": "step", "step": 30, "steps": 300, "loss": 0.5, "seconds_left": 754.0, "text": "loss 0.5  drift 0.01"}


def test_durations_and_shortening():
    assert [duration(each) for each in (0.2, 59.6, 200, 7500)] == ["0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]
    assert shortened("a" * 10 + "b" * 10, 11) == "aaaa...bbbb"
    assert shortened("short", 11) == "short"
    assert shortened("longer", 2) == "lo"
    assert shortened("longer", -1) == ""


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_a_bar_never_loses_the_time_left(width: int):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    bar = Bar(console)
    long = {**STEP, "text": "loss 0.1234  forget 0.1234  similarity 0.123  retain drift 0.1234  123 images/s " * 3}
    bar.show({"event": "stage", "stage": "teacher"})
    bar.show(long)
    shown = console.render_lines(bar._progress.get_renderable()) if bar._progress else []  # type: ignore[arg-type]
    bar.close()
    bar.close()
    lines = ["".join(segment.text for segment in line).rstrip() for line in shown]
    told = [line for line in lines if line]
    assert len(told) == 1
    assert "12 min 34 s left" in told[0]
    assert len(told[0]) <= width
    assert ("30/300" in told[0]) == (width >= 30)
    if width == 80:
        assert "..." in told[0]
        assert "training" in told[0]


def test_a_log_gets_a_line_at_once_and_then_one_now_and_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.02)
    stream = io.StringIO()
    log = LogLines(Console(file=stream, width=200))
    log.show({"event": "stage", "stage": "loading libraries"})
    assert stream.getvalue() == "loading libraries ...\n"
    log.show(STEP)
    deadline = time.monotonic() + 5
    while stream.getvalue().count("\n") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    log.close()
    assert "training 30/300, 0 s so far, 12 min 34 s left, loss 0.5  drift 0.01" in stream.getvalue()
    written = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == written, "closed is closed"


def test_what_is_not_counted_has_no_count():
    told = Progressed.of({"event": "model", "role": "gold", "text": "loading gold"})
    assert line_of(told, 65) == "loading gold, 1 min 05 s so far"


def test_events_for_programs_carry_the_time(capsys: pytest.CaptureFixture[str]):
    output = Output(progress=ProgressMode.jsonl)
    output.begin("loading libraries")
    output.progress(STEP)
    output.note("a note")
    output.warn("a warning")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["stage", "step", "note", "warning"]
    assert all(list(event)[:2] == ["event", "time"] for event in events)
    assert events[1]["loss"] == 0.5


def test_nothing_is_shown_where_none_was_asked_for(capsys: pytest.CaptureFixture[str]):
    output = Output(progress=ProgressMode.none)
    output.begin("loading libraries")
    output.progress(STEP)
    assert capsys.readouterr().err == ""
