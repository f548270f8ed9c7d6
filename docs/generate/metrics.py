"""The page of the metrics."""

from __future__ import annotations

import re

from pydantic import BaseModel

from docs.generate.markdown import MADE, row
from vkdsurgeon.data import protocol
from vkdsurgeon.evaluation import divergence, forget_quality
from vkdsurgeon.evaluation.text import TEXT_METRICS
from vkdsurgeon.results import comparison_columns, evaluation

METRICS = {
    "accuracy": "Share of questions whose right option is the most likely one; of a benchmark, whose letter is said.",
    "exact": "Share of generated answers equal to the right one, without case, punctuation and articles.",
    "contains": "Share of generated answers that hold the right one as words in a row.",
    "rouge_l": "F-measure of the longest common subsequence with the right answer, stemmed.",
    "rouge_l_recall": "Recall of the same.",
    "rouge1": "F-measure of single words shared with the right answer, stemmed.",
    "rouge2": "F-measure of pairs of words shared with the right answer, stemmed.",
    "bleu": "Sentence BLEU, smoothed.",
    "likelihood": "Share of choices whose right option is the most likely one, whatever letter is said.",
    "probability": "Probability of the right answer.",
    "truth_ratio": "max(0, 1 - R), R the likelihood of wrong answers over that of the right one.",
    "cloze": "Share of blanks that are filled rightly.",
    "agreement": "With `--base`: share of questions that model and base answer alike; the column `same`.",
    "identical": "With `--base`, without images: share whose likelihoods (or generated texts) equal the base's.",
    "js_divergence": "With `--gold`: Jensen-Shannon divergence of the options' probabilities from gold's, in bits: "
    "0 where both spread alike, 1 where no option is likely for both; mean over questions. "
    "In the table of `eval` it is the column `apart` beside `accuracy`, where the width allows or with `--wide`.",
    "forget_quality": "With `--gold`: p-value that the truth ratios are distributed like gold's.",
    "ks": "With `--gold`: the largest distance between the two distributions of truth ratios.",
}


_ATTACKS = (
    ("relearn.ag", "points", "AG: right answers after the attack minus before, on what the attacker was not shown."),
    ("relearn.steps_to_recover", "steps", "First measured step at which half of the knowledge is back; N + 1: never."),
    ("relearn.before.TASK.METRIC", "share", "Before the attack; `after`, and `gain` for the difference, likewise."),
    ("relearn.retain.after.TASK.METRIC", "share", "Utility after the attack."),
    ("restore.after.TASK.METRIC", "share", "With the base's tower and projector put back; `before`, `gain` likewise."),
    ("quantize.ROW.TASK.METRIC", "share", "ROW is a number format, `before`, `worst` or `mean`."),
    ("perturb.ROW.TASK.METRIC", "share", "ROW is a change of the image, `before`, `worst` or `mean`."),
    ("prompt.ROW.TASK.METRIC", "share", "ROW is a wording, `before`, `worst` or `mean`."),
    (
        "typography.ROW.TASK.METRIC",
        "share",
        "ROW is what is written into the image: `blank`, `name`, `other-name`, `question`; `before`, `worst`, `mean`.",
    ),
    ("probe.LAYER.READING", "share", "What a linear reader tells from the features of a layer."),
    (
        "membership.SCORE.auc",
        "share",
        "How well a score tells members from non-members: `loss`, `min_k`, `min_k_plus`, "
        "`zlib` or `grad_norm`; 0.5 is chance.",
    ),
    ("membership.SCORE.advantage", "share", "How far the AUC is from chance, either way: abs(2 AUC - 1)."),
    ("membership.SCORE.tpr_at_fpr_5", "share", "Members found at 5 % false alarms; chance 0.05."),
    (
        "membership.SCORE.ks",
        "share",
        "Kolmogorov-Smirnov statistic: the largest distance between the distributions of "
        "the score over members and over non-members.",
    ),
)


def metrics_page() -> str:
    known = {"accuracy", *TEXT_METRICS, "agreement", "identical", *forget_quality._NAMES, divergence.NAME}
    known |= {name for names in protocol._METRICS.values() for name in names}
    if known != set(METRICS):
        raise SystemExit(
            f"docs/generate/metrics.py does not tell of these metrics, or tells too much: {known ^ set(METRICS)}"
        )
    columns = (*comparison_columns.COSTS, comparison_columns.SCORE)
    return f"""# Metrics

{MADE}
A metric has an id, which gates refer to: `SET.TASK.METRIC`, such as `forget.vqa.name.accuracy`. SET is `forget`,
`retain`, `text` or the name of a further set. TASK is the task of the records or any prefix of it: `vqa` stands for all
of `vqa.name`, `vqa.city` and so on. Tasks in `general.*` and `text.*` are not to be forgotten, whatever set they are
in.

| in front | is |
|-|-|
| nothing | the model |
| `reference.` | the base, with `--base` |
| `gold.` | gold, with `--gold` |
| `delta.` | the model minus the base, paired |
| `gap.` | the model minus gold, paired |

Values are shares from 0 to 1; tables show percent. Less is better for what is to be forgotten, more for the rest.

| metric | meaning |
|-|-|
{"".join(row(f"`{name}`", meaning) for name, meaning in METRICS.items())}
Records with `options` get `accuracy`, others {", ".join(f"`{name}`" for name in TEXT_METRICS)}. Benchmarks are measured
{"; ".join(f"as a {name}: " + ", ".join(f"`{each}`" for each in names) for name, names in protocol._METRICS.items())}.

## Attacks

| metric | unit | meaning |
|-|-|-|
{"".join(row(f"`{name}`", unit, meaning) for name, unit, meaning in _ATTACKS)}
Several attacks in one document carry what tells them apart, such as `relearn.pairs.50.llm.ag`; see
[attacks](../studies/attacks.md). `gold.` and `gap.` stand in front as above: `gap.relearn.ag` is AG beyond gold's.

`compare` gives besides {", ".join(f"`{name}`" for name in columns)}.

## Gates

`--gate "METRIC OPERATOR BOUND"` with `<=`, `<`, `>=`, `>` or `==`. The bound is a number, or `reference` or `gold` (the
same metric of that model), plus or minus a number: `retain.vqa.accuracy>=reference-0.03`. Bounds of shares are shares,
not percentages. A metric that could not be measured fails its gate. An unknown metric is refused before a model is
loaded.

## Fields

{_fields_of(evaluation.Metric)}
"""


def _fields_of(model: type[BaseModel]) -> str:
    found = re.findall(r"^ +(\w+): (.+(?:\n {12,}.+)*)", (model.__doc__ or ""), re.MULTILINE)
    rows = "".join(row(f"`{name}`", re.sub(r"\s+", " ", text)) for name, text in found)
    return f"Each metric of a document has these fields:\n\n| field | meaning |\n|-|-|\n{rows}".rstrip("\n")
