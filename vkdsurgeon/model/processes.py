"""Several processes that make one run together: who does what, and what they tell each other.

Each process holds the whole tower and goes through the very same draws and decisions. What takes time is divided among
them by images; numbers, features and gradients are put together again before anything is decided on them, so that
every process decides alike. One process alone divides nothing and talks to nobody.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as group
from safetensors.torch import load, save
from torch import Tensor

from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.library_errors import brief

Item = TypeVar("Item")
Result = TypeVar("Result")

LOST = "another process of this run was lost; what ended it is in its own messages, or in the launcher's"


@dataclass(frozen=True)
class Processes:
    """The processes of one run, as one of them sees them.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        local: Number of this process on its machine, from 0.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of_group(cls) -> Processes:
        """The default process group of `torch.distributed`; this process alone where none was initialised.

        Raises:
            UserError: The group has no backend for tensors on the CPU.
        """
        if not group.is_available() or not group.is_initialized():
            return ALONE
        if "cpu:" not in group.get_backend_config():
            raise UserError(
                "the process group cannot exchange tensors on the CPU",
                where="torch.distributed",
                value=group.get_backend_config(),
                expected="a backend for the CPU as well",
                remedy='initialise it with init_process_group("cpu:gloo,cuda:nccl")',
            )
        return cls(group.get_rank(), group.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of what all of them have; may be empty."""
        return items if self.count == 1 else items[self.rank :: self.count]

    def blocks(self, items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
        """Parts of at most `size` items, as many for every process; the last may be empty."""
        if self.count == 1:
            yield items
            return
        for start in range(0, len(items), size * self.count):
            yield items[start + self.rank * size :][:size]

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Put the sum over all processes in the place of each tensor; every process has as many, of equal shapes."""
        if self.count > 1:
            with _together():
                for work in [group.all_reduce(tensor, async_op=True) for tensor in tensors]:
                    work.wait()

    def totals(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes, added in the order of their ranks."""
        if self.count == 1:
            return list(numbers)
        return [sum(each) for each in zip(*map(json.loads, self._gathered(_packed(list(numbers)))), strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag if self.count == 1 else self.totals([float(flag)])[0] > 0

    def tensors(self, own: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """The tensors of every process by name, in the order of their ranks; those of others on the CPU."""
        if self.count == 1:
            return [own]
        return [load(each) for each in self._gathered(_stored(own))]

    def agree(self, what: str, facts: Callable[[], object]) -> None:
        """Make sure that all processes have come to the same.

        Args:
            what: What it is, for the message.
            facts: Gives it, as JSON; only asked where there are several processes.

        Raises:
            SurgeryError: They have not.
        """
        if self.count > 1 and len(set(self._gathered(hashlib.sha256(_packed(facts())).digest()))) > 1:
            raise SurgeryError(
                f"the processes of this run have come to different {what}; nothing was written. Use machines of one "
                "kind, with the same versions and the same number of threads"
            )

    def same_input(self, facts: Mapping[str, Any]) -> None:
        """Refuse processes that were given different input.

        Args:
            facts: JSON: digests and settings by name.

        Raises:
            UserError: Naming the first process and the first of the facts that differ, in every process alike.
        """
        if self.count == 1:
            return
        first, *others = map(json.loads, self._gathered(_packed(facts)))
        for rank, other in enumerate(others, 1):
            for name in first:
                if first[name] != other[name]:
                    raise UserError(
                        f"process {rank} was given something else than process 0: {name}",
                        expected="every process to have the same files, settings and versions",
                        remedy="put model and sets on a disk that all machines see, or copy them anew",
                    )

    def told(self, facts: Mapping[str, Any] | None) -> Any:
        """What the first process has to tell: JSON, the same in every process."""
        return facts if self.count == 1 else json.loads(self._broadcast(_packed(facts) if self.first else b""))

    def told_tensors(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the first process, on the CPU, in every process."""
        return own if self.count == 1 else load(self._broadcast(_stored(own) if self.first else b""))

    def lead(self, act: Callable[[], Result]) -> Result | None:
        """Let the first process alone do something while the others wait; they raise what it raises.

        Returns:
            What the act returned; None in the others.
        """
        if self.count == 1:
            return act()
        if not self.first:
            _raise(self.told(None))
            return None
        try:
            done = act()
        except BaseException as error:
            # Who does not hear of it any more has ended already.
            with suppress(SurgeryError):
                self.told(error.as_dict() if isinstance(error, UserError) else {"failed": str(error)})
            raise
        self.told({})
        return done

    def _broadcast(self, content: bytes) -> bytes:
        with _together():
            size = torch.tensor([len(content)])
            group.broadcast(size, 0)
            data = _tensor(content, int(size))
            group.broadcast(data, 0)
        return data.numpy().tobytes()

    def _gathered(self, content: bytes) -> list[bytes]:
        with _together():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
            group.all_gather(sizes, torch.tensor([len(content)]))
            longest = max(map(int, sizes))
            found = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.count)]
            group.all_gather(found, _tensor(content, longest))
        return [data[: int(size)].numpy().tobytes() for data, size in zip(found, sizes, strict=True)]


ALONE = Processes()
"""One process by itself."""


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise SurgeryError(f"{LOST} (torch says: {brief(error)})") from error


def _raise(failure: Mapping[str, Any]) -> None:
    if "failed" in failure:
        raise SurgeryError(failure["failed"] or "the first process ended")
    if failure:
        raise UserError.of(failure)


def _packed(facts: object) -> bytes:
    return json.dumps(facts).encode()


def _stored(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()})


def _tensor(content: bytes, size: int) -> Tensor:
    data = torch.zeros(size, dtype=torch.uint8)
    if content:
        data[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return data
