"""`python -m docs.generate`."""

from __future__ import annotations

import argparse
import sys

from docs import generate
from docs.generate.markdown import DOCS


def main() -> int:
    """Write the pages, or say which are not up to date."""
    parser = argparse.ArgumentParser(description=generate.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where something differs")
    arguments = parser.parse_args()
    made = generate.pages()
    wrong = generate.outdated(made)
    for path in wrong:
        print(path.relative_to(DOCS))
    if arguments.check:
        return 1 if wrong else 0
    for path in wrong:
        if path in made:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
