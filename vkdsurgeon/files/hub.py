"""Models by their name on the hub: found in the local cache of Hugging Face, never fetched."""

from __future__ import annotations

import re
from pathlib import Path

from vkdsurgeon.errors import UserError

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")


def model_path(given: str | Path, folder: Path | None = None) -> Path:
    """The directory of a model that is given as a path or by its name on the hub.

    Args:
        given: A path, which wins where it exists; else `ORG/NAME` or `ORG/NAME@REVISION`, where a revision is a
            branch, a tag or a commit.
        folder: What a path counts from; None for the working directory.

    Returns:
        The path, or the snapshot in the cache. What is neither is returned as a path: reading it says what is wrong.

    Raises:
        UserError: It looks like a name on the hub, and no whole model of this name lies in the cache.
    """
    path = Path(given).expanduser()
    path = path if folder is None else folder / path
    found = _NAME.fullmatch(Path(given).as_posix())
    if found is None or path.exists():
        return path
    from huggingface_hub import snapshot_download

    name, revision = found.groups()
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError) as error:
        fetch = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        raise UserError(
            "no such directory, and no whole model of this name in the local Hugging Face cache",
            where=path if folder is not None else None,
            value=str(given),
            expected="a checkpoint directory, or ORG/NAME of a model that was downloaded",
            remedy=f"if it is a model of the hub, fetch it first: {fetch}",
        ) from error


def hub_source(root: Path) -> dict[str, str] | None:
    """Which model of the hub a directory is a snapshot of.

    Args:
        root: A checkpoint.

    Returns:
        `id`, such as `org/name`, and `revision`, the commit; None for a directory outside of the cache.
    """
    snapshot = root.resolve()
    owner = snapshot.parent.parent.name
    if snapshot.parent.name != "snapshots" or not owner.startswith("models--"):
        return None
    return {"id": owner.removeprefix("models--").replace("--", "/"), "revision": snapshot.name}
