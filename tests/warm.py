"""The command line without its imports: every command is a process of its own, forked from one that imported before.

A pipeline of seven commands imports torch and transformers five times, which takes several times as long as their work
on a tiny model. What a command does, its streams and its status are those of `python -m vkdsurgeon_cli`.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

MODULES = (
    "vkdsurgeon.attacks.relearn",
    "vkdsurgeon.evaluation.evaluate",
    "vkdsurgeon.pipeline.run",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.image_processing_pil_clip",
    "transformers.models.llama.modeling_llama",
    "scipy.stats",
)


@contextmanager
def warm_command() -> Iterator[str]:
    """The words of a command line that does what `python -m vkdsurgeon_cli` does, for as long as the block lasts."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        address = f"{folder}/socket"
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", address],
            cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield f"{sys.executable} -IS {__file__} {address}"
        finally:
            server.communicate()
    assert server.returncode == 0


def _serve(address: str) -> None:
    for module in MODULES:
        importlib.import_module(module)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        # Standard input ends with whoever started this, however that ends.
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                request, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                while more := connection.recv(1 << 20):
                    request += more
                if (child := os.fork()) == 0:
                    _become(json.loads(request), streams)
                for stream in streams:
                    os.close(stream)
                connection.sendall(bytes([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF]))


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    from vkdsurgeon_cli.main import main

    status: Any = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(request["place"])
        os.environ.clear()
        os.environ.update(request["environment"])
        # What the server does when it ends is not for a copy of it to do.
        atexit._clear()
        main(request["words"])
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing of the server's is to be ended or cleaned up here.
        os._exit(status)


def _ask(address: str, words: list[str]) -> int:
    request = {"words": words, "place": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        message = json.dumps(request).encode()
        sent = socket.send_fds(connection, [message], [0, 1, 2])
        connection.sendall(message[sent:])
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1)[0]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(_ask(sys.argv[1], sys.argv[2:]))
    _serve(sys.argv[1])
