"""Who is at fault when a library fails: the file that it was given, or the machine around it?

Only what is no fault of the environment is put down to the checkpoint; what is, names its path and what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vkdsurgeon.errors import SurgeryError, UserError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN})
_NO_PLACE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.ELOOP})
_NO_HOME = ("home directory", "getpwuid", "uid not found", "no username set")
_COMPILING = ("InvalidCxxCompiler", "CppCompileError", "InductorError", "BackendCompilerFailed", "CompilationError")
_CACHES = "HOME, HF_HOME, TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR or TMPDIR"


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
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return SurgeryError(f"{error.filename or 'the machine'}: {error.strerror}; make room and run it again")
    if isinstance(error, OSError) and error.errno in _NO_PLACE and error.filename and not _inside(error.filename, root):
        return UserError(
            "a library cannot use this place",
            where=os.fsdecode(error.filename),
            value=error.strerror,
            remedy=f"let {_CACHES} name a directory that you may write",
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


def _inside(filename: str | bytes | int, root: Path | None) -> bool:
    if root is None or isinstance(filename, int):
        return False
    place, base = Path(os.fsdecode(filename)).absolute(), root.absolute()
    return base in (place, *place.parents) or base.resolve() in (place.resolve(), *place.resolve().parents)
