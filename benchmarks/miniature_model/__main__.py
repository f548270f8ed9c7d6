"""Draw the people and train both models from nothing, 10 to 25 minutes on two cores.

python -m benchmarks.miniature_model OUT [--seed 0] [--ship]

OUT is missing or empty; it gets base/, gold/, records/ and card.json. The card goes to stdout as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vkdsurgeon.data.miniature.unpack import refuse_non_empty
from vkdsurgeon.errors import UserError


def main(words: list[str] | None = None) -> int:
    """Make a miniature; 2 where OUT cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.miniature_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship", action="store_true", help="put it in place of the one that the package carries")
    asked = parser.parse_args(words)
    try:
        # Before torch is imported, which takes longer than saying no.
        refuse_non_empty(asked.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    from benchmarks.miniature_model.mint import mint
    from benchmarks.miniature_model.ship import ship

    card = mint(asked.out, asked.seed, tell=lambda line: print(line, file=sys.stderr))
    if asked.ship:
        ship(asked.out)
    print(json.dumps(card, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
