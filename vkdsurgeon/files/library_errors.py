"""Errors of libraries, sorted by their cause: the user's file, or the machine.

Only what is no fault of the environment is put down to the checkpoint; what is, names its path and what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vkdsurgeon.errors import SurgeryError, UserError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FAILING = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
)
_NO_PLACE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.ELOOP})
_NO_HOME = ("home directory", "getpwuid", "uid not found", "no username set")
_COMPILING = ("InvalidCxxCompiler", "CppCompileError", "InductorError", "BackendCompilerFailed", "CompilationError")
_CACHES = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR")


@contextmanager
def blaming(root: Path | None, describe: Callable[[BaseException], UserError]) -> Iterator[None]:
    """A context around a call of a library that was given files of the user's.

    Args:
        root: The checkpoint: faults of its own files are its faults.
        describe: Makes the error where the files are to blame.

    Raises:
        UserError: From `describe`, or about a place that the environment does not have.
        SurgeryError: The environment has no room, or a compiler does not work.
    """
    try:
        yield
    except (UserError, SurgeryError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # Libraries written in Rust panic beside all other exceptions.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise fault_of_environment(error, root) or describe(error) from error


def brief(error: BaseException, limit: int = 300) -> str:
    """A library's error in one line of bounded length: some print a whole object of theirs."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def missing_package(what: str, error: BaseException, where: object) -> UserError | None:
    """The error to raise where a library wants a package that is not installed; None where something else is wrong.

    Args:
        what: Who needs it, to begin the message with.
        error: What the library raised.
        where: The file or the checkpoint that asks for it.
    """
    torchvision = "torchvision" in str(error).lower()
    if not torchvision and not isinstance(error, ImportError):
        return None
    needs = "torchvision" if torchvision else getattr(error, "name", None)
    return UserError(
        f"{what} needs {needs or 'a package'}, which is not installed",
        where=where,
        value=brief(error),
        remedy=f"install it: pip install {needs}" if needs else "install what the message names",
    )


def machine_or(told: UserError, error: OSError) -> UserError | SurgeryError:
    """The error to raise where a file of the user's could not be used: no room and broken disks are not the user's.

    Args:
        told: The error where it is the user's: a path that is wrong, or that they may not use.
        error: What the system said.
    """
    return fault_of_machine(error, told.where) or told


def fault_of_machine(error: OSError, where: object = None) -> SurgeryError | None:
    """The error to raise where a disk is full or fails, whatever is asked of it; None for any other reason.

    Args:
        error: What the system said.
        where: The file, where the error names none.
    """
    if error.errno not in _FULL | _FAILING:
        return None
    place = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else where or "the machine"
    if error.errno in _FULL:
        return SurgeryError(f"{place}: the disk is full ({error.strerror}); make room and run it again")
    return SurgeryError(f"{place}: {error.strerror}; look after the disk or the machine, and run it again")


def fault_of_environment(error: BaseException, root: Path | None = None) -> UserError | SurgeryError | None:
    """The error to raise where neither the user's files nor this program is to blame; None where they may be.

    Args:
        error: What a library raised; what led to it counts too.
        root: The checkpoint.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if (found := _judged(current, root)) is not None:
            return found
        current = current.__cause__ or current.__context__
    return None


def _judged(error: BaseException, root: Path | None) -> UserError | SurgeryError | None:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and (broken := fault_of_machine(error)) is not None:
        return broken
    if isinstance(error, OSError) and error.errno in _NO_PLACE and error.filename and not _inside(error.filename, root):
        return UserError(
            "a library cannot use this place",
            where=os.fsdecode(error.filename),
            value=error.strerror,
            remedy=_remedy(os.fsdecode(error.filename)),
        )
    if any(words in text for words in _NO_HOME):
        return UserError(
            "a library looks for a home directory, and there is none",
            where="HOME",
            value=text,
            remedy="set HOME to a directory that you may write",
        )
    if type(error).__name__ in _COMPILING:
        return SurgeryError(
            f"torch.compile does not work here: {text[:300]}. `vkdsurgeon doctor` tries it; TORCH_COMPILE_DISABLE=1 "
            "does without it"
        )
    return None


def _remedy(place: str) -> str:
    named = [name for name in _CACHES if (value := os.environ.get(name)) and _inside(place, Path(value))]
    if named:
        closest = max(named, key=lambda name: len(os.path.abspath(os.environ[name])))
        return f"{closest} leads there: let it name a directory that you may write"
    return f"let {', '.join(_CACHES[:-1])} or {_CACHES[-1]} name a directory that you may write"


def _inside(filename: str | bytes | int, root: Path | None) -> bool:
    if root is None or isinstance(filename, int):
        return False
    place, base = Path(os.fsdecode(filename)).absolute(), root.absolute()
    return base in (place, *place.parents) or base.resolve() in (place.resolve(), *place.resolve().parents)
