"""The base of results with gates."""

from __future__ import annotations

from vkdsurgeon.errors import GateFailed


class Judged:
    """A result that knows whether its gates hold.

    A failed gate raises no exception by itself, because the result is worth keeping. A pipeline checks `passed`, or
    calls `raise_if_failed` after the result is written.
    """

    @property
    def failures(self) -> list[str]:
        """One sentence per bound that was missed; empty where all hold, or none was given."""
        raise NotImplementedError

    @property
    def passed(self) -> bool:
        """Whether no bound was missed."""
        return not self.failures

    def raise_if_failed(self) -> None:
        """Do nothing where every bound holds.

        Raises:
            GateFailed: A bound was missed; its `failures` are those of the result.
        """
        if self.failures:
            raise GateFailed(self.failures)
