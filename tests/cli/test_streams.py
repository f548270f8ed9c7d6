"""Nothing about stdout and stderr decides how a run ends, or what a terminal does."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vkdsurgeon_cli.streams import Lines, Steady, printable, wants_lines

SELF = f"{shlex.quote(sys.executable)} -m vkdsurgeon_cli"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash, in which `$V` is the tool."""
    return subprocess.run(
        ["bash", "-c", line], env={**os.environ, "V": SELF, **environment}, capture_output=True, check=False
    )


@pytest.mark.parametrize(
    "line",
    [
        "$V recipe keys --json >&-",
        "$V recipe keys 2>&-",
        "$V recipe keys --json | true; exit ${{PIPESTATUS[0]}}",
        "$V recipe keys | head -c 1; exit ${{PIPESTATUS[0]}}",
        pytest.param("$V inspect {model} 2>&1 >/dev/null | true; exit ${{PIPESTATUS[0]}}", marks=pytest.mark.campaign),
        pytest.param("$V inspect {model} >&- 2>&-", marks=pytest.mark.campaign),
        pytest.param("$V miniature -o {out} > /dev/full", marks=pytest.mark.campaign),
    ],
)
def test_a_finished_command_ends_with_0(llava: Path, tmp_path: Path, line: str) -> None:
    done = shell(line.format(model=shlex.quote(str(llava)), out=shlex.quote(str(tmp_path / "out"))))
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "line", ["$V inspect /nowhere >&- 2>&-", "$V inspect /nowhere 2>&1 | true; exit ${PIPESTATUS[0]}"]
)
def test_wrong_input_stays_wrong_input(line: str) -> None:
    assert shell(line).returncode == 2


@pytest.mark.parametrize(
    ("encoding", "more"),
    [
        ("ascii:strict", ""),
        ("utf-8:strict", "--json"),
        *(
            pytest.param(*each, marks=pytest.mark.campaign)
            for each in (
                ("utf-8:strict", ""),
                ("latin-1:strict", ""),
                ("ascii:strict", "--json"),
                ("latin-1:strict", "--json"),
            )
        ),
    ],
)
def test_any_name_is_printed_on_any_stream(llava: Path, tmp_path: Path, encoding: str, more: str) -> None:
    root = os.fsencode(tmp_path) + "/modèle-模".encode() + b"-\xff\xfe"
    shutil.copytree(os.fsencode(llava), root)
    done = shell(f"$V inspect $MODEL {more}", PYTHONIOENCODING=encoding, MODEL=os.fsdecode(root))
    assert done.returncode == 0, done.stderr.decode()
    if more:
        assert os.fsencode(json.loads(done.stdout)["model"]) == root


def test_names_do_not_act_on_a_terminal(llava: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(llava, tmp_path / "a\x1b]0;owned\x07\x1b[2Jb\u202e"))
    # From its own folder: a path too long for the line is cut in the middle.
    words = 'cd "$DIR" && (script -qec "$V inspect $MODEL" /dev/null || $V inspect $MODEL)'
    done = shell(words, DIR=str(tmp_path), MODEL=shlex.quote(f"./{root.name}"))
    assert b"owned" in done.stdout
    assert b"\x1b]0" not in done.stdout
    assert b"\x1b[2J" not in done.stdout
    failed = shell("$V inspect $MODEL/x", MODEL=str(root))
    assert failed.returncode == 2
    assert b"\x1b" not in failed.stderr
    assert printable("tab\tline\né模") == "tab\tline\né模"


def test_every_line_of_stderr_is_an_event(tmp_path: Path) -> None:
    for words in ("inspect", "eval /nowhere --forget x --progress jsonl", "eval --progress=jsonl --nonsense"):
        done = shell(f"$V {words} --progress jsonl")
        assert done.returncode == 2
        lines = done.stderr.decode().splitlines()
        assert lines
        assert all("event" in json.loads(line) for line in lines)


def test_what_libraries_print_becomes_an_event(capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import sys, logging, warnings\n"
        "from vkdsurgeon_cli import streams\n"
        "streams.steady(); streams.write_lines()\n"
        "logging.warning('from logging'); warnings.warn('from warnings')\n"
        "print('half', end='', file=sys.stderr); print(' a line', file=sys.stderr)\n"
        'print(\'{"event": "note", "text": "ours"}\', file=sys.stderr)\n'
        "sys.stderr.write('unfinished'); streams.finish()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    texts = [event["text"] for event in events if event["event"] == "log"]
    assert "WARNING:root:from logging" in texts
    assert any("from warnings" in text for text in texts)
    assert texts[-2:] == ["half a line", "unfinished"]
    assert {"event": "note", "text": "ours"} in events
    assert all("time" in event for event in events if event["event"] == "log")


NOISY = (
    "import os, sys\n"
    "from vkdsurgeon_cli import streams\n"
    "streams.steady(); streams.write_lines()\n"
    "print('before', file=sys.stderr)\n"
)


def noisy(program: str) -> tuple[int, list[str]]:
    """Status and texts of a program that writes to descriptor 2 past Python; every line is an event."""
    done = subprocess.run([sys.executable, "-c", NOISY + program], stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, [json.loads(line)["text"] for line in done.stderr.splitlines()]


def test_what_c_libraries_print_becomes_an_event() -> None:
    status, texts = noisy(
        "os.write(2, b'half of a C line'); print('ours', file=sys.stderr); os.write(2, b', the rest\\n\\xff\\n')\n"
        "os.system('echo from a child >&2'); os.write(2, b'unfinished'); streams.finish()\n"
    )
    assert (status, texts[0]) == (0, "before")
    assert sorted(texts[1:]) == ["\\xff", "from a child", "half of a C line, the rest", "ours", "unfinished"]


def test_a_library_that_prints_much_while_nothing_else_may_run_stops_nobody() -> None:
    # PyDLL keeps the interpreter's lock, and a pipe takes 64 KiB.
    status, texts = noisy(
        "import ctypes; ctypes.PyDLL(None).write(2, b'x' * 999_999 + b'\\n', 1_000_000)\nstreams.finish()"
    )
    assert (status, len("".join(texts[1:]))) == (0, 999_999)


def test_the_last_words_of_a_crash_are_told() -> None:
    status, texts = noisy("os.write(2, b'terminate called\\n'); os.abort()\n")
    assert status < 0
    assert texts == ["before", "terminate called"]


def test_what_a_process_started_keeps_nobody_waiting() -> None:
    status, texts = noisy(
        "os.system('sleep 60 >&- <&- &'); os.write(2, b'told\\n'); streams.finish(); streams.finish()\n"
    )
    assert (status, texts) == (0, ["before", "told"])


def test_an_image_that_makes_its_library_complain(llava: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    """libtiff prints by itself; Pillow reads the image all the same."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.tif", compression="jpeg")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[300:700] = bytes(value ^ 0x5A for value in data[300:700])
    folder = tmp_path / "forget" / "Ann"
    folder.mkdir(parents=True)
    (folder / "a.tif").write_bytes(data)
    words = (
        "unlearn $MODEL --forget $SET --retain $KEEP --set copies=0 --set tamper_weight=0 --dry-run --progress jsonl"
    )
    given = {"MODEL": str(llava), "SET": str(folder.parent), "KEEP": str(sets["retain"])}
    told = shell(f"$V {words}", **given).stderr.decode().splitlines()
    assert any("marker" in json.loads(line).get("text", "") for line in told), told


def test_a_suite_of_that_name_switches_nothing_on() -> None:
    assert not wants_lines(["eval", "--suite", "jsonl", "--forget", "jsonl"])
    assert wants_lines(["eval", "--progress", "jsonl"])
    assert not wants_lines([])
    done = shell("$V eval /nowhere --suite jsonl --forget x")
    assert done.returncode == 2
    assert b"error: " in done.stderr


def test_lines_are_no_terminal() -> None:
    assert not Lines(sys.stderr).isatty()


class _Stubborn:
    """A stream that refuses to be reconfigured, as one does whose descriptor was exchanged under it."""

    encoding = "ascii"

    def __init__(self) -> None:
        self.text = ""

    def reconfigure(self, **settings: str) -> None:
        raise OSError(29, "Illegal seek")

    def write(self, text: str) -> int:
        text.encode("ascii")
        self.text += text
        return len(text)


def test_a_stream_that_cannot_be_reconfigured() -> None:
    inner = _Stubborn()
    Steady(inner).write("modèle\n")  # type: ignore[arg-type]
    assert inner.text == "mod\\xe8le\n"
