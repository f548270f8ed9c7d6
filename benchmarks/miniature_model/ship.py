"""A freshly made miniature becomes what the package carries."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from vkdsurgeon.data.miniature.unpack import CARD, SHIPPED


def ship(minted: Path, shipped: Path = SHIPPED) -> None:
    """Turn a freshly minted directory into what the package carries.

    Args:
        minted: A directory from `mint`.
        shipped: Where the package keeps it; replaced.
    """
    if shipped.exists():
        shutil.rmtree(shipped)
    shipped.mkdir(parents=True)
    for name in ("base", "gold"):
        # Plain copies with ordinary rights: shards are written readable by their owner alone.
        shutil.copytree(minted / name, shipped / name, copy_function=shutil.copyfile)
    shutil.copyfile(minted / CARD, shipped / CARD)
    records = minted / "records"
    with zipfile.ZipFile(shipped / "records.zip", "w") as packed:
        for path in sorted(records.rglob("*")):
            if path.is_file():
                # A fixed date keeps the archive the same for the same images.
                entry = zipfile.ZipInfo(str(path.relative_to(records).as_posix()), (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                packed.writestr(entry, path.read_bytes())
