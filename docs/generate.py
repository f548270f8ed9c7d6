"""Write the pages of docs/reference, docs/schemas and docs/man that are made from the code, and the miniature's chart.

    python docs/generate.py            # write them
    python docs/generate.py --check    # status 1 and the names of those that are not up to date

A test does the same check, so a change of a recipe key, a metric or a document comes with its page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner
from vkdsurgeon_cli import main as cli
from vkdsurgeon_cli.command import _BOUNDS

from vkdsurgeon import __version__
from vkdsurgeon.config.keys import RecipeKey, recipe_keys
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.release import EDITED_TEXT_GATE, EVAL_GATES, RELEARN_GATES, RESTORE_GATES, ReleasePlan
from vkdsurgeon.data import protocol
from vkdsurgeon.evaluation import divergence, forget_quality
from vkdsurgeon.evaluation.aggregate import AggregateResult
from vkdsurgeon.evaluation.text import TEXT_METRICS
from vkdsurgeon.pipeline.read_result import RESULTS
from vkdsurgeon.results import (
    comparison,
    comparison_columns,
    evaluation,
    patch,
    read,
    release,
    reproduction,
    sampling,
    tuning,
    verification,
)
from vkdsurgeon.results.document import Document

DOCS = Path(__file__).resolve().parent
_MADE = "<!-- made by docs/generate.py from the code: change the code, then run `python docs/generate.py` -->\n"

# Every document that the tool writes or reads back. Those of `read` hold the part that the report relies on.
DOCUMENTS: dict[str, type[BaseModel]] = {
    "evaluation": evaluation.EvalResult,
    "aggregate": AggregateResult,
    **{name: document for name, document in RESULTS.items() if name.startswith("attack.")},
    "comparison": comparison.ComparisonResult,
    "tune": tuning.TuneDocument,
    "unlearn": read.UnlearnDocument,
    "provenance": read.ProvenanceDocument,
    "diff": read.DiffDocument,
    "patch": patch.PatchFacts,
    "patch-run": patch.PatchResult,
    "verify": verification.VerifyResult,
    "reproduce": reproduction.ReproduceResult,
    "sample": sampling.SampleResult,
    "release": release.ReleaseResult,
    "release-plan": ReleasePlan,
    "recipe": Recipe,
}
_WRITTEN_BY = {
    "evaluation": "`eval -o` and `eval --json`",
    "aggregate": "`aggregate -o`",
    "comparison": "`compare --json`",
    "tune": "`tune --json`, and `tune.json` in the output",
    "unlearn": "`unlearn --json`",
    "provenance": "`unlearn`, as `vkdsurgeon.json` beside the weights",
    "diff": "`diff --json`",
    "patch": "`patch export`, in the metadata of the patch under `vkdsurgeon`",
    "patch-run": "`patch ... --json`",
    "verify": "`verify --json`",
    "reproduce": "`reproduce --json`",
    "sample": "`sample --json`",
    "release": "`release --json`, and as release.json",
    "release-plan": "the file of `release`",
    "recipe": "a recipe file, for `--recipe`",
}

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
_STATUSES: tuple[tuple[str, str, str], ...] = (
    ("DONE", "Done.", "Nothing."),
    ("UNEXPECTED", "Something failed that you did not cause: a full disk, a file that changed under way, a bug. "
     "Nothing half-written stays.", "Try again; `unlearn` and `tune` go on with `--resume`, `release` by itself."),
    ("USER_INPUT", "The input is wrong. The message names the file, line and value, what was expected and what to do. "
     "Nothing was written.", "Mend the input. Trying again does not help."),
    ("GATE", "The check did not pass: a gate failed, the stop rule or the gate of the decoder pass was not met, "
     "`verify`, `diff` or `reproduce` found a difference, or no recipe satisfies `--pick`. The result is written; "
     "`unlearn` writes its best state.", "Do not release. Read the result: it names what failed."),
    ("INTERRUPTED", "Interrupted by Ctrl-C, SIGTERM or a lost terminal. No output was written.",
     "`unlearn`, `tune`, `compare` and `release` go on where they were: the first two with `--resume`."),
)  # fmt: skip


def pages() -> dict[Path, str]:
    """Path -> text of every page that is made."""
    made = {
        DOCS / "reference" / "recipe_keys.md": _recipe_page(),
        DOCS / "reference" / "release_plan.md": _release_page(),
        DOCS / "reference" / "metrics.md": _metrics_page(),
        DOCS / "reference" / "schemas.md": _schemas_page(),
        DOCS / "reference" / "exit_codes.md": _statuses_page(),
        DOCS / "reference" / "commands.md": _commands_page(),
        DOCS / "man" / "vkdsurgeon.1": _man_page(),
    }
    made[DOCS / "figures" / "miniature.svg"] = _chart((DOCS / "index.md").read_text(encoding="utf-8"))
    return made | {DOCS / "schemas" / f"{name}.json": _schema_text(name) for name in DOCUMENTS}


def outdated() -> list[Path]:
    """Pages that are missing, differ from the code, or belong to no document any more."""
    made = pages()
    wrong = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return wrong + [path for path in (DOCS / "schemas").glob("*.json") if path not in made]


def _recipe_page() -> str:
    keys = recipe_keys()
    text = f"""# Recipe keys

{_MADE}
Every setting of `unlearn`. Give one as `--set KEY=VALUE`, or write it into a YAML file for `--recipe`; a section such
as `decoder` is a mapping there. `vkdsurgeon recipe keys WORD` prints them, `vkdsurgeon recipe show --preset robust`
prints what a preset comes to. Unknown keys are refused. The symbols are those of [the method](../studies/method.md).
"""
    groups: dict[str, list[RecipeKey]] = {}
    for key in keys:
        groups.setdefault(key.key.rpartition(".")[0], []).append(key)
    titles = {"": "Visual pass", "decoder": "Decoder pass", "baseline": "Other methods"}
    for section, members in groups.items():
        text += f"\n## {titles.get(section, section)}\n\n| key | type | default | meaning |\n|-|-|-|-|\n"
        text += "".join(_row(f"`{each.key}`", each.type, _value(each.default), _meaning(each)) for each in members)
    return text


def _meaning(key: RecipeKey) -> str:
    presets = "; ".join(f"`{name}` sets {_value(value)}" for name, value in key.presets.items())
    return f"{key.meaning} Preset {presets}." if presets else key.meaning


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "`" + ", ".join(f"{name}: {weight:g}" for name, weight in value.items()) + "`"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} sentences"
    told = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    return f"`{told}`"


def _release_page() -> str:
    gates = "".join(
        _row(f"`{key}`", ", ".join(f"`{gate}`" for gate in default), when)
        for key, default, when in (
            ("gates.eval", EVAL_GATES, "always"),
            ("gates.relearn", RELEARN_GATES, "with `gold`"),
            ("gates.restore", RESTORE_GATES, "with `gold`, unless `restore_out_of_scope`"),
        )
    )
    return f"""# Release plan

{_MADE}
The keys of the file that `vkdsurgeon release` reads ([how it is used](../tutorials/ship.md#in-a-pipeline)). Paths count
from the file. Unknown keys are refused. Its JSON schema: [release-plan.json](../schemas/release-plan.json).

| key | default | meaning |
|-|-|-|
{"".join(_release_rows(ReleasePlan))}
## Gates by default

A list of your own takes the place of the default list.

| key | gates | when |
|-|-|-|
{gates}
Where a decoder pass has changed the language model, `{EDITED_TEXT_GATE[0]}` becomes `{EDITED_TEXT_GATE[1]}`.
What the words of a gate mean: [metrics](metrics.md).
"""


def _release_rows(model: type[BaseModel], within: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        parts = (field.annotation, *get_args(field.annotation))
        section = next((each for each in parts if isinstance(each, type) and issubclass(each, BaseModel)), None)
        if section is None:
            default = field.get_default(call_default_factory=True)
            plain = default in (None, "", {})
            needed = f"required with `{within[:-1]}`" if within else "required"
            shown = needed if field.is_required() else "" if plain else f"`{json.dumps(default)}`"
            yield _row(f"`{within}{key}`", shown, str(field.description))
        else:
            yield from _release_rows(section, f"{within}{key}.")


def _metrics_page() -> str:
    known = {"accuracy", *TEXT_METRICS, "agreement", "identical", *forget_quality._NAMES, divergence.NAME}
    known |= {name for names in protocol._METRICS.values() for name in names}
    if known != set(METRICS):
        raise SystemExit(f"docs/generate.py does not tell of these metrics, or tells too much: {known ^ set(METRICS)}")
    columns = (*comparison_columns.COSTS, comparison_columns.SCORE)
    return f"""# Metrics

{_MADE}
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
{"".join(_row(f"`{name}`", meaning) for name, meaning in METRICS.items())}
Records with `options` get `accuracy`, others {", ".join(f"`{name}`" for name in TEXT_METRICS)}. Benchmarks are measured
{"; ".join(f"as a {name}: " + ", ".join(f"`{each}`" for each in names) for name, names in protocol._METRICS.items())}.

## Attacks

| metric | unit | meaning |
|-|-|-|
{"".join(_row(f"`{name}`", unit, meaning) for name, unit, meaning in _ATTACKS)}
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
    rows = "".join(_row(f"`{name}`", re.sub(r"\s+", " ", text)) for name, text in found)
    return f"Each metric of a document has these fields:\n\n| field | meaning |\n|-|-|\n{rows}".rstrip("\n")


def _schemas_page() -> str:
    rows = []
    for name, model in DOCUMENTS.items():
        writer = _WRITTEN_BY.get(name) or f"`attack {name.removeprefix('attack.')} -o`"
        doc = (model.__doc__ or "").strip().splitlines()[0]
        rows.append(_row(f"[{name}](../schemas/{name}.json)", writer, doc))
    return f"""# Documents and their schemas

{_MADE}
Everything the tool prints with `--json` or writes with `-o` is one JSON document. It begins with `schema` (such as
`vkdsurgeon/evaluation/1`), `kind` and `version` (of the tool). The number goes up when a field changes its meaning.

| schema | written by | what it is |
|-|-|-|
{"".join(rows)}
The schemas are made from the pydantic classes that read the documents back. For `unlearn`, `provenance` and `diff` they
hold the fields that `report` relies on; the documents have more, which may change without notice.

A command that failed prints, with `--json`, a document whose `schema` is `{cli._ERROR}` and whose `error` has `status`,
`what` and, where they are known, `where`, `value`, `expected` and `remedy`.
"""


def _schema_text(name: str) -> str:
    model = DOCUMENTS[name]
    schema = model.model_json_schema(by_alias=True)
    if issubclass(model, Document):
        number = model.model_fields["schema_version"].default
        envelope = {"schema": {"const": f"vkdsurgeon/{name}/{number}"}, "version": {"type": "string"}}
        schema["properties"] = {**envelope, **schema["properties"]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **schema}, indent=1, ensure_ascii=False) + "\n"


def _statuses_page() -> str:
    rows = [_row(str(getattr(cli, name)), meaning, action) for name, meaning, action in _STATUSES]
    return f"""# Exit codes

{_MADE}
| status | meaning | what to do |
|-|-|-|
{"".join(rows)}
These are the same for every command. stdout carries data only, and messages go to stderr. What exactly happens when
something goes wrong, and the test that guards it: [faults and their outcomes](reliability.md).
"""


def _commands_page() -> str:
    text = f"""# Commands

{_MADE}
`vkdsurgeon COMMAND -h` shows the options, `--help-all` also those that are rarely needed; here are all of them.
`-o`/`--output`, `--json`,
`--progress` and `--wide` mean the same everywhere, and `--reference` is another name of `--base`.
`vkdsurgeon --install-completion` sets up the shell.
"""
    for words, command in _commands(get_command(cli.app), ["vkdsurgeon"]):
        paragraphs = (command.help or "").replace("\b", "").split("\n\n")
        told = "\n\n".join(re.sub(r"\s+", " ", each).strip() for each in paragraphs)
        text += f"\n## {' '.join(words[1:])}\n\n{told}\n\n```bash\n{command.epilog}\n```\n"
        text += f"\n```text\n{_options_of(words[1:])}\n```\n"
    return text


def _options_of(words: list[str]) -> str:
    """What the help says after the examples, every option included."""
    shown = CliRunner().invoke(cli.app, [*words, "--help-all"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    if not shown.startswith("Usage"):
        shown = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    return shown.partition("\nExamples:\n")[2].partition("\n\n")[2].rstrip()


def _man_page() -> str:
    """The help of all commands as one page for `man`; rarely needed options as well."""
    made = '.\\" made by docs/generate.py from the code: change the code, then run `python docs/generate.py`\n'
    text = f"""{made}.TH VKDSURGEON 1 "" "vkdsurgeon {__version__}" "User Commands"
.SH NAME
vkdsurgeon \\- make a multimodal LLM forget what someone or something looks like
.SH SYNOPSIS
.B vkdsurgeon
.I COMMAND
[OPTIONS]
.SH DESCRIPTION
{_roff(cli.app.info.help)}
.SH COMMANDS
"""
    for words, command in _commands(get_command(cli.app), ["vkdsurgeon"]):
        text += _man_command(words, command)
    text += ".SH EXIT STATUS\n"
    for name, meaning, action in _STATUSES:
        text += f".TP\n.B {getattr(cli, name)}\n{_roff(f'{meaning} To do: {action}')}\n"
    return text


def _man_command(words: list[str], command: Any) -> str:
    context = command.context_class(command, info_name=words[-1])
    arguments, options = [], []
    for each in command.get_params(context):
        record = each.get_help_record(context)
        if each.param_type_name == "argument":
            arguments.append((each.metavar or each.name.upper(), each.help or ""))
        elif record is not None and each.name != "help":
            options.append((record[0], _BOUNDS.sub("", record[1])))
    usage = " ".join([*words[1:], *(name for name, _ in arguments), "[OPTIONS]"])
    text = f".SS {_roff(usage)}\n"
    for paragraph in (command.help or "").replace("\b", "").split("\n\n"):
        text += f"{_roff(paragraph)}\n.PP\n"
    text += "".join(f".TP\n.B {_roff(name)}\n{_roff(meaning)}\n" for name, meaning in [*arguments, *options])
    examples = "\n".join(map(_roff_line, (command.epilog or "").splitlines()))
    return f"{text}.PP\nExamples:\n.PP\n.EX\n{examples}\n.EE\n"


def _roff(text: str) -> str:
    """Text as one line of roff."""
    return _roff_line(re.sub(r"\s+", " ", text).strip())


def _roff_line(line: str) -> str:
    escaped = line.replace("\\", "\\e").replace("-", "\\-")
    # A line that begins so would be a request.
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _commands(group: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, [*words, name])
        else:
            yield [*words, name], command


_COLOURS = {"base": "#8a94a6", "unlearned": "#1f6feb", "gold": "#d4a017"}


def _chart(page: str) -> str:
    """The table of the miniature on a page as bars; rows without a value for the base are left out."""
    found = re.search(r"^\| \| base \| unlearned \| gold \|\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    if found is None:
        raise SystemExit("docs/index.md lacks the table of the miniature")
    cells = [[each.strip() for each in line.strip("|\n").split("|")] for line in found[1].splitlines()]
    rows = [(label, [float(value) for value in values]) for label, *values in cells if values[0]]
    left, top, wide, bar, gap = 250, 44, 360, 13, 16
    tall = top + len(rows) * (3 * bar + gap) + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {tall}" width="680" height="{tall}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>Right answers on the miniature in percent: {_spoken(rows)}</title>",
        f'<rect width="680" height="{tall}" rx="8" fill="#ffffff"/>',
    ]
    for index, (name, colour) in enumerate(_COLOURS.items()):
        x = left + index * 110
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="24" fill="#1f2328">{name}</text>')
    for index, (label, values) in enumerate(rows):
        y = top + index * (3 * bar + gap)
        parts.append(f'<text x="{left - 12}" y="{y + 1.5 * bar + 4:g}" text-anchor="end" fill="#1f2328">{label}</text>')
        for place, (value, colour) in enumerate(zip(values, _COLOURS.values(), strict=True)):
            at, length = y + place * bar, max(1.5, value / 100 * wide)
            parts.append(f'<rect x="{left}" y="{at}" width="{length:.1f}" height="{bar - 2}" rx="2" fill="{colour}"/>')
            parts.append(
                f'<text x="{left + length + 6:.1f}" y="{at + 10}" font-size="11" fill="#1f2328">{value}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _spoken(rows: list[tuple[str, list[float]]]) -> str:
    return "; ".join(
        f"{label}: " + ", ".join(f"{name} {value}" for name, value in zip(_COLOURS, values, strict=True))
        for label, values in rows
    )


def _row(*cells: str) -> str:
    escape: Callable[[str], str] = lambda cell: cell.replace("|", "\\|")  # noqa: E731
    return f"| {' | '.join(map(escape, cells))} |\n"


def main() -> int:
    """Write the pages, or say which are not up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where something differs")
    wrong = outdated()
    for path in wrong:
        print(path.relative_to(DOCS))
    if parser.parse_args().check:
        return 1 if wrong else 0
    made = pages()
    for path in wrong:
        if path in made:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
