"""Survey the image families of transformers' multimodal mapping.

python -m benchmarks.families                 # all of them, one line of JSON each
python -m benchmarks.families llava mllama    # some of them
python -m benchmarks.families --record        # all, into benchmarks/results/families.jsonl and docs/families.md
"""

from __future__ import annotations

import argparse
import json

from benchmarks.families.survey import image_types, quiet, survey
from benchmarks.families.table import RESULTS, read_rows, write_page


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="model types; all image families if none is given")
    parser.add_argument("--record", action="store_true", help="write the results and the page")
    given = parser.parse_args()
    rows = {}
    with quiet():
        for model_type in given.types or image_types():
            rows[model_type] = survey(model_type).as_dict()
            print(json.dumps(rows[model_type]), flush=True)
    if given.record:
        known = {row["model_type"]: row for row in read_rows(RESULTS)} if RESULTS.exists() else {}
        known |= rows
        RESULTS.write_text("".join(json.dumps(known[name]) + "\n" for name in sorted(known)))
        write_page()
    print(sum(row["works"] for row in rows.values()), "of", len(rows), "work")


if __name__ == "__main__":
    main()
