"""What `pip install` gets: an sdist, the wheel made from it, and an environment with that wheel and no checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "vkdsurgeon", ROOT / "kernels" / "vkdsurgeon_kernels", ROOT / "cli" / "vkdsurgeon_cli")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "cases")
# Distributions that only extras bring, and what this checkout may be installed as.
LEFT_BEHIND = ("optuna", "sklearn", "scikit_learn", "tensorboard", "trackio", "wandb", "vkdsurgeon", "__editable__")


@dataclass(frozen=True)
class Built:
    """Both archives, and the commands of an environment with the wheel in it."""

    sdist: Path
    wheel: Path
    python: Path
    environment: dict[str, str]

    @property
    def files(self) -> set[str]:
        """Paths in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    @property
    def metadata(self) -> Message:
        """What the wheel says of itself."""
        with zipfile.ZipFile(self.wheel) as archive:
            name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
            return message_from_bytes(archive.read(name))

    def run(self, *words: str, where: Path) -> subprocess.CompletedProcess[str]:
        """Run the installed command."""
        command = [str(self.python.with_name("vkdsurgeon")), *words]
        return subprocess.run(
            command, cwd=where, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )


def _done(command: list[str], where: Path) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The package as its users have it. Its dependencies are those of this environment, without those of some extras,
    and without this checkout."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    made = folder / "made"
    made.mkdir()
    code = f"import setuptools.build_meta as backend; backend.build_sdist({str(made)!r})"
    _done([sys.executable, "-c", code], source)
    (sdist,) = made.glob("*.tar.gz")
    pip = ["-m", "pip", "--disable-pip-version-check", "-q"]
    alone = ["--no-deps", "--no-index"]
    _done([sys.executable, *pip, "wheel", *alone, "--no-build-isolation", "-w", ".", sdist.name], made)
    (wheel,) = made.glob("*.whl")
    home = folder / "venv"
    _done([sys.executable, "-m", "venv", str(home)], folder)
    python = home / "bin" / "python"
    _done([str(python), *pip, "install", *alone, str(wheel)], folder)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    known = folder / "known"
    known.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(LEFT_BEHIND):
            (known / path.name).symlink_to(path)
    (purelib / "dependencies.pth").write_text(f"{known}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return Built(sdist, wheel, python, environment)


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    expected = {
        f"{package.name}/{path.relative_to(package).as_posix()}"
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in expected if not name.endswith(".py")}, "data files"
    own = {name for name in built.files if not re.match(r"vkdsurgeon-[\d.]+\.(dist-info|data)/", name)}
    assert own == expected
    assert [name for name in built.files if name.endswith("/share/man/man1/vkdsurgeon.1")]
    with tarfile.open(built.sdist) as archive:
        top = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert top >= {"vkdsurgeon", "kernels", "cli", "docs", "pyproject.toml", "LICENSE", "README.md"}
    assert not top & {"tests", "benchmarks", "cases", "examples"}


@pytest.mark.slow
def test_extras_are_those_that_messages_name(built: Built) -> None:
    extras = set(built.metadata.get_all("Provides-Extra", []))
    named = set()
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            named |= set(re.findall(r"optional\(\s*f?\"[^\"]+\", \"(\w+)\"", text))
            named |= set(re.findall(r"vkdsurgeon\[(\w+)\]", text))
    assert {"tune", "attacks", "lora", "sign"} <= named
    assert named | {"tensorboard", "trackio", "wandb"} <= extras
    needed = [each for each in built.metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert any(each.startswith("torch") for each in needed)
    assert not [
        each for each in needed if re.match(r"optuna|scikit|peft|model.signing|tensorboard|trackio|wandb", each)
    ]


@pytest.mark.slow
def test_it_works_from_the_wheel(built: Built, llava: Path, tmp_path: Path) -> None:
    modules = "vkdsurgeon, vkdsurgeon_cli, vkdsurgeon_kernels"
    code = f"import {modules}; print(*(each.__file__ for each in ({modules})))"
    shown = subprocess.run(
        [str(built.python), "-c", code], cwd=tmp_path, env=built.environment, capture_output=True, text=True, check=True
    )
    home = built.python.parents[1].resolve()
    assert [each for each in shown.stdout.split() if home in Path(each).resolve().parents] == shown.stdout.split()
    version = built.run("--version", where=tmp_path)
    assert (version.returncode, version.stdout) == (0, f"vkdsurgeon {built.metadata['Version']}\n")
    assert built.run("demo", "--help", where=tmp_path).returncode == 0
    inspected = built.run("inspect", str(llava), "--json", where=tmp_path)
    assert inspected.returncode == 0, inspected.stderr
    assert '"model_type": "llava"' in inspected.stdout
    # Data files: presets, and the models and records of the miniature.
    assert "density" in built.run("recipe", "show", "--preset", "robust", where=tmp_path).stdout
    unpacked = built.run("miniature", "-o", "miniature", where=tmp_path)
    assert unpacked.returncode == 0, unpacked.stderr
    assert (tmp_path / "miniature" / "base" / "config.json").is_file()


@pytest.mark.campaign
def test_what_an_extra_brings_is_refused_without_it(
    built: Built, llava: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    forget, retain = ["--forget", str(sets["forget"])], ["--retain", str(sets["retain"])]
    for words, extra in (
        (["tune", str(llava), *forget, *retain, "-o", "tuned"], "tune"),
        (["attack", "probe", str(llava), *forget, *retain], "attacks"),
        (["unlearn", str(llava), *forget, "-o", "out", "--track", "tensorboard"], "tensorboard"),
    ):
        done = built.run(*words, where=tmp_path)
        assert done.returncode == 2, done.stderr
        assert f"pip install 'vkdsurgeon[{extra}]'" in done.stderr
        assert not list(tmp_path.iterdir())
