"""The command line itself: help, statuses, streams."""

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from vkdsurgeon_cli.main import app, run
from vkdsurgeon_kernels.backend import OPERATIONS

import vkdsurgeon


def test_help_imports_no_heavy_library():
    code = (
        "import sys\n"
        "from vkdsurgeon_cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'triton', 'safetensors', 'pyarrow', 'numpy', 'PIL', 'pydantic', 'yaml'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "unlearn" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["unlearn"],
        ["unlearn", "model", "--forget", "f", "-o", "x", "--steps", "many"],
        ["unlearn", "model", "--forget", "f", "-o", "x", "--no-such-flag"],
    ],
)
def test_usage_errors_are_status_2(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(words) == 2
    capsys.readouterr()


def test_an_error_is_one_json_document_on_stdout(capsys: pytest.CaptureFixture[str]):
    assert run(["unlearn", "/no/such/model", "--forget", "f", "-o", "x", "--json"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["error"]["status"] == 2
    assert document["error"]["where"] == "/no/such/model"
    assert "no such directory" in captured.err


def test_doctor_names_every_operation_with_its_reason(capsys: pytest.CaptureFixture[str]):
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["kernels"]) == set(OPERATIONS)
    assert all(choice["reason"] for choice in facts["kernels"].values())


def _commands() -> list[list[str]]:
    found = []

    def walk(command: object, words: list[str]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found.append(words)
        for name, each in (inner or {}).items():
            walk(each, [*words, name])

    walk(get_command(app), [])
    return found


COMMANDS = _commands()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_short_help_with_examples(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert run([*words, "-h"]) == 0
    short = capsys.readouterr().out
    assert run([*words, "--help"]) == 0
    assert capsys.readouterr().out == short
    lines = short.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 80
    assert f"  vkdsurgeon {' '.join(words)}" in short.split("Examples:")[1]


@pytest.mark.parametrize("words", [[], ["attack"], ["patch"], ["recipe"]], ids=lambda words: " ".join(words) or "all")
def test_lists_of_commands_are_not_cut_short(words: list[str], capsys: pytest.CaptureFixture[str]):
    run([*words, "-h"])
    told = capsys.readouterr().out
    assert "..." not in told.split("Commands:")[1]
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_outputs_and_base_models_are_called_alike_everywhere(words: list[str]):
    command = get_command(app)
    for word in words:
        command = command.commands[word]
    names = [parameter.opts for parameter in command.params]
    for options in names:
        assert "--out" not in options
        assert ("-o" in options) == ("--output" in options)
        assert ("--base" in options) == ("--reference" in options)
    assert any("--json" in options for options in names)


def test_the_main_help_fits_two_screens(capsys: pytest.CaptureFixture[str]):
    assert run(["unlearn", "-h"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("Usage: vkdsurgeon unlearn MODEL [OPTIONS]\n")
    assert told.count("\n  vkdsurgeon unlearn") == 3
    heads = ["Data:", "Output and resuming:", "Preset and recipe:", "Device:"]
    assert [line for line in told.splitlines() if line in heads] == heads
    assert len(told.splitlines()) <= 70


@pytest.mark.parametrize(
    ("words", "found"), [("vkdsurgeon unl", "unlearn"), ("vkdsurgeon unlearn --preset ", "robust")]
)
def test_the_shell_completes_words(words: str, found: str):
    count = str(len(words.split(" ")) - 1)
    environment = {"_VKDSURGEON_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    done = subprocess.run(
        [sys.executable, "-m", "vkdsurgeon_cli"], env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert found in done.stdout.split()


@pytest.mark.parametrize("words", [["doctor"], ["recipe", "keys"], ["inspect", "MODEL"]], ids=lambda words: words[0])
def test_documents_have_one_envelope(words: list[str], llava: Path, capsys: pytest.CaptureFixture[str]):
    assert run([*(str(llava) if word == "MODEL" else word for word in words), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document)[:3] == ["schema", "kind", "version"]
    assert document["schema"] == f"vkdsurgeon/{document['kind']}/1"
    assert document["version"] == vkdsurgeon.__version__


def test_the_process_ends_without_taking_libraries_down_but_with_what_was_left_to_its_end():
    code = (
        "import atexit\n"
        "from vkdsurgeon_cli.main import main\n"
        "class Last:\n"
        "    def __del__(self): print('taken down')\n"
        "last = Last()\n"
        "atexit.register(print, 'left to the end', flush=True)\n"
        "main(['inspect', '/no/such/model'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "left to the end\n")
    assert "no such directory" in done.stderr


def test_inspect_pauses_the_garbage_collector_and_lets_it_go_on(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(vkdsurgeon, "inspect", lambda *_, **__: seen.append(gc.isenabled()) or {}["fails"])
    assert run(["inspect", "model"]) == 1
    assert seen == [False]
    assert gc.isenabled()


def test_help_leaves_rarely_needed_options_to_help_all(capsys: pytest.CaptureFixture[str]):
    assert run(["unlearn", "-h"]) == 0
    short = capsys.readouterr().out
    assert run(["unlearn", "--help-all"]) == 0
    whole = capsys.readouterr().out
    assert len(re.findall(r"^  -", short, re.MULTILINE)) <= 28
    assert "--journal" not in short
    assert "--journal" in whole
    assert set(short.splitlines()) - set(whole.splitlines()) == {
        "  --help-all  Show 14 options that are rarely needed, too."
    }
