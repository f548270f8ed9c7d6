"""The page of the campaigns: input altered at random, and what became of it."""

from __future__ import annotations

import json
from collections import Counter

from docs.generate.markdown import DOCS, row

FILE = "benchmarks/results/campaigns.jsonl"


def campaigns_page() -> str:
    counts: dict[str, Counter[str]] = {}
    for line in (DOCS.parent / FILE).read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        counts.setdefault(found.pop("what"), Counter()).update(found)
    total = sum(counts.values(), Counter())
    rows = [row(what, *(f"{found[key]:,}" for key in ("cases", "taken", "refused"))) for what, found in counts.items()]
    return f"""# Campaigns

<!-- made by docs/generate from {FILE}: do not edit -->

Input that was altered at random: a value replaced or missing, bytes changed, cut off or put in. Each case is taken, or
refused by an error that names the cause. None of the {total["cases"]:,} ended in a crash or took 30
seconds. CI runs 150 of each kind, the campaigns 5,000:

```bash
rm {FILE}
CAMPAIGNS={FILE} python -m pytest -m campaign tests/hostile && python -m docs.generate
```

| input | cases | taken | refused |
|-|-|-|-|
{"".join(rows)}"""
