"""The command line itself: help, statuses, streams."""

import json
import subprocess
import sys

import pytest
from vkdsurgeon_cli.main import run
from vkdsurgeon_kernels.backend import OPERATIONS


def test_help_imports_no_heavy_library():
    code = (
        "import sys\n"
        "from vkdsurgeon_cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'triton', 'safetensors', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules)\n"
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
