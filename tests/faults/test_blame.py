"""What fails is named: a file of the checkpoint, an image, or the machine around it, never one for the other."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from vkdsurgeon_cli.main import run

from tests.checkpoint.conftest import edit_json
from tests.tiny_llava import build, write_records
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.library_errors import blaming, fault_of_environment
from vkdsurgeon.model.load_vision import load_visual_stack

NOISE = b"\x00\x01nonsense\xff"


def _blamed(error: BaseException) -> UserError:
    return UserError("the checkpoint is to blame")


def test_what_is_wrong_with_the_machine_is_not_put_down_to_the_checkpoint(tmp_path: Path) -> None:
    place = PermissionError(errno.EACCES, "Permission denied", "/nowhere/cache")
    wrapped = RuntimeError("could not load")
    wrapped.__cause__ = place
    for error in (place, wrapped):
        found = fault_of_environment(error, tmp_path)
        assert isinstance(found, UserError)
        assert found.where == "/nowhere/cache"
        assert found.remedy is not None
    assert isinstance(fault_of_environment(OSError(errno.ENOSPC, "No space left on device", "/tmp/x")), SurgeryError)
    for error in (RuntimeError("Could not determine home directory."), KeyError("getpwuid(): uid not found: 4242")):
        found = fault_of_environment(error, tmp_path)
        assert isinstance(found, UserError)
        assert found.where == "HOME"
    own = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "config.json"))
    assert fault_of_environment(own, tmp_path) is None
    assert fault_of_environment(ValueError("size must be positive"), tmp_path) is None


def test_the_variable_that_names_the_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    below = NotADirectoryError(errno.ENOTDIR, "Not a directory", str(tmp_path / "file" / "cache" / "fx"))
    found = fault_of_environment(below)
    assert isinstance(found, UserError)
    assert found.remedy == "TORCHINDUCTOR_CACHE_DIR leads there: let it name a directory that you may write"


@pytest.mark.parametrize("kind", [MemoryError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_some_errors_are_nobodys_fault(tmp_path: Path, kind: type[BaseException]) -> None:
    with pytest.raises(kind), blaming(tmp_path, _blamed):
        raise kind()


def test_a_panic_of_another_language_is_caught(tmp_path: Path) -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(UserError, match="to blame"), blaming(tmp_path, _blamed):
        raise panic("index out of bounds")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_records(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build(tmp_path / "model")


FILES = ["processor_config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b'{"a": 1e999}', NOISE])
def test_a_broken_file_of_the_checkpoint_is_wrong_input(
    model: Path, sets: dict[str, Path], capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    path = model / name
    assert path.exists()
    path.write_bytes(content)
    status = run(["eval", str(model), "--forget", str(sets["forget"]), "--limit", "1", "--max-new-tokens", "1"])
    told = capsys.readouterr().err
    assert "Traceback" not in told
    # A file that says nothing may be no obstacle.
    assert status == 2 or (status == 0 and content in (b"{}", b'{"a": 1e999}')), told


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ messages[7]['x'].y }}", "{% if %}", "{{ undefined_function() }}", "{{ '' }}"]
)
def test_a_broken_template_is_wrong_input(
    tmp_path: Path, sets: dict[str, Path], capsys: pytest.CaptureFixture[str], template: str
) -> None:
    model = build(tmp_path / "templated", template=template)
    status = run(["eval", str(model), "--forget", str(sets["forget"]), "--limit", "1", "--max-new-tokens", "1"])
    assert status == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_image_that_the_processor_refuses_is_named(model: Path) -> None:
    stack = load_visual_stack(model, device="cpu")
    edit_json(model / "processor_config.json", lambda config: config)
    stack.prepare(Image.new("RGB", (64, 48)))

    def refuse(**arguments: object) -> None:
        raise ValueError("mean must have 1 elements")

    assert stack._preparer is not None
    stack._preparer.processor = refuse
    with pytest.raises(UserError, match=r"forget.jsonl:3 \(a.png\): the image processor refuses"):
        stack.prepare(Image.new("RGB", (64, 48)), "forget.jsonl:3 (a.png)")


COMMAND = [sys.executable, "-m", "vkdsurgeon_cli"]


@pytest.mark.parametrize(
    "how", ["broken", *(pytest.param(how, marks=pytest.mark.campaign) for how in ("absent", "unwritable cache"))]
)
def test_doctor_tries_what_it_promises(tmp_path: Path, how: str) -> None:
    compiler = tmp_path / "cxx"
    compiler.write_text("#!/bin/sh\necho 'internal compiler error' >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "TRITON_INTERPRET": "0"}
    if how == "absent":
        environment["CXX"] = str(tmp_path / "nowhere" / "g++")
    elif how == "broken":
        environment["CXX"] = str(compiler)
    else:
        (tmp_path / "file").write_text("")
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "file" / "cache")
    done = subprocess.run([*COMMAND, "doctor", "--json"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernel = json.loads(done.stdout)["kernels"]["masked_adamw"]
    assert kernel["able"] == ["reference"]
    assert kernel["implementation"] == "reference"
    assert "compiled" in kernel["obstacles"]
    assert ("CXX" if how == "absent" else "TORCHINDUCTOR_CACHE_DIR") in kernel["obstacles"]["compiled"]
    assert "compiled: " in kernel["reason"]


NO_EXECUTION = 'mount -t tmpfs -o noexec none "$0" && exec "$@"'


@pytest.mark.campaign
def test_a_cache_on_a_mount_without_execution_is_found_by_trying(tmp_path: Path) -> None:
    """In a mount namespace of its own, so that nothing is left of it."""
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-c", NO_EXECUTION, str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount can be made here")
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [*apart, *COMMAND, "doctor", "--json"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kernel = json.loads(done.stdout)["kernels"]["masked_adamw"]
    assert kernel["implementation"] == "reference"
    assert "noexec" in kernel["obstacles"]["compiled"]
    assert str(tmp_path / "cache") in kernel["obstacles"]["compiled"]


@pytest.mark.campaign
@pytest.mark.parametrize("which", ["named", "default"])
def test_no_place_for_compiled_code_is_no_obstacle(tmp_path: Path, sets: dict[str, Path], which: str) -> None:
    """`torch._dynamo` makes the directory on import, and transformers and every optimizer import it."""
    environment = {**os.environ, "USER": "ada", "LOGNAME": "ada"}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    (tmp_path / "file").write_text("")
    if which == "named":
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "file" / "cache")
    else:
        environment["TMPDIR"] = str(tmp_path)
        (tmp_path / "torchinductor_ada").write_text("")
    words = ["unlearn", str(build(tmp_path / "model")), "--forget", str(sets["forget"]), "-o", str(tmp_path / "out")]
    words += ["--retain", str(sets["retain"]), "--steps", "1", "--set", "stand_ins=1", "--set", "extensions=0"]
    words += ["--set", "copies=0", "--set", "tamper_weight=0"]
    done = subprocess.run([*COMMAND, *words], env=environment, capture_output=True, text=True, check=False)
    # Whether one step is enough for the stop rule does not matter here.
    assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "out").exists()
    optimizer = "import torch; from vkdsurgeon_kernels import MaskedAdamW; p = torch.nn.Parameter(torch.ones(2)); "
    optimizer += "MaskedAdamW([p], {p: torch.ones(2, dtype=torch.bool)})"
    done = subprocess.run([sys.executable, "-c", optimizer], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


NO_ACCOUNT = """
import pwd

def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = unknown
from vkdsurgeon_cli.main import main

main()
"""


@pytest.mark.campaign
@pytest.mark.parametrize("home", [None, "/nonexistent", __file__])
def test_a_user_without_an_account(tmp_path: Path, sets: dict[str, Path], model: Path, home: str | None) -> None:
    """As in a container with a number for a user: no name, and a home directory that is absent or of no use."""
    names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if home is not None:
        environment["HOME"] = home
    words = ["eval", str(model), "--forget", str(sets["forget"]), "--limit", "1", "--max-new-tokens", "1"]
    words += ["--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "result.json")]
    done = subprocess.run(
        [sys.executable, "-c", NO_ACCOUNT, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
