"""Every attack by its name, from settings as a program or a command line gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from vkdsurgeon.data.read import Given, records_given
from vkdsurgeon.data.sets import NamedSet, read_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import did_you_mean
from vkdsurgeon.results.attacks import AttackResult
from vkdsurgeon.results.relearn import RelearnResult, RestoreResult
from vkdsurgeon.training.events import Listener

AnyAttackResult: TypeAlias = AttackResult | RelearnResult | RestoreResult
Fields: TypeAlias = dict[str, Any]

_ANSWERING = ("limit", "seed", "dtype", "batch_size", "length_normalised", "max_new_tokens")


def run_attack(
    name: str, forget: Given, retain: Given | None, common: Fields, settings: Mapping[str, Any], listener: Listener
) -> AnyAttackResult:
    """Run one attack.

    Args:
        name: A key of `ATTACKS`.
        forget: What was to be forgotten.
        retain: What utility is measured on.
        common: The fields of `target.Attack`.
        settings: Those of this attack, by name.
        listener: Called with progress events.

    Raises:
        UserError: There is no such attack or setting, or as the attack itself.
    """
    if name not in ATTACKS:
        raise UserError("no such attack", where="attack", value=name, expected=", ".join(ATTACKS))
    own, run = ATTACKS[name]
    known = own if name == "probe" else (*own, *_ANSWERING) if name != "relearn" else (*own, *_plan_keys())
    for key in settings:
        if key not in known:
            raise UserError(
                f"attack {name!r} has no such setting",
                where="settings",
                value=key,
                expected=", ".join(known),
                remedy=did_you_mean(key, known, most=1),
            )
    return run(forget, retain, common, dict(settings), listener)


def _asked(forget: Given, retain: Given | None, common: Fields, settings: Fields) -> Fields:
    """The fields of `target.Target`; takes the settings of asking out of the others."""
    from vkdsurgeon.evaluation.score import Scoring

    scoring = {key: settings.pop(key) for key in _ANSWERING[3:] if key in settings}
    asking = {key: settings.pop(key) for key in _ANSWERING[:3] if key in settings}
    sets = {"forget": read_set("forget", forget), "retain": _set("retain", retain)}
    return {**common, **sets, **asking, "scoring": Scoring(**scoring)}


def _set(name: str, given: Given | None) -> NamedSet | None:
    return None if given is None else read_set(name, given)


def _images(name: str, given: Given | None) -> NamedSet | None:
    # A probe reads features, so its records need no question.
    return None if given is None else NamedSet(name, tuple(records_given(given, role=name)))


def _within(name: str, value: float | None, most: float, unit: str = "") -> None:
    if value is not None and not 0.0 < value <= most:
        raise UserError("out of range", where=f"`{name}`", value=value, expected=f"above 0, at most {most:g}{unit}")


def _plan_keys() -> tuple[str, ...]:
    from vkdsurgeon.config.relearn import RelearnPlan

    return tuple(RelearnPlan.model_fields)


def _relearn(
    forget: Given, retain: Given | None, common: Fields, settings: Fields, listener: Listener
) -> AnyAttackResult:
    from vkdsurgeon.attacks.relearn import Relearning, relearn
    from vkdsurgeon.config.relearn import RelearnPlan, make_plan

    given, others = settings.pop("plan", None), {}
    for name in ("heldout", "benign", "unrelated"):
        others[name] = settings.pop(name, None)
    if isinstance(given, RelearnPlan):
        plan = given if not settings else make_plan(None, {**given.model_dump(exclude_unset=True), **settings})
    else:
        plan = make_plan(None if given is None else Path(given), settings)
    sets: Fields = {"forget": read_set("forget", forget), "retain": _set("retain", retain)}
    sets |= {name: _set(name, each) for name, each in others.items()}
    return relearn(Relearning(**common, **sets, plan=plan), listener)


def _restore(
    forget: Given, retain: Given | None, common: Fields, settings: Fields, listener: Listener
) -> AnyAttackResult:
    from vkdsurgeon.attacks.restore import Restoring, restore

    if common["reference"] is None:
        raise UserError(
            "the attack puts the base's weights back", where="`base`", expected="the model before unlearning"
        )
    return restore(Restoring(**_asked(forget, retain, common, settings), **settings), listener)


def _probe(
    forget: Given, retain: Given | None, common: Fields, settings: Fields, listener: Listener
) -> AnyAttackResult:
    from vkdsurgeon.attacks.probe import Probing, probe

    _within("regularisation", settings.get("regularisation"), 1e9)
    others = {name: settings.pop(name, None) for name in ("heldout", "retain_heldout")}
    sets = {"forget": forget, "retain": retain, **others}
    read = {name: _images(name.replace("_", "-"), each) for name, each in sets.items()}
    return probe(Probing(**common, **read, **settings), listener)  # type: ignore[arg-type]


def _quantize(
    forget: Given, retain: Given | None, common: Fields, settings: Fields, listener: Listener
) -> AnyAttackResult:
    from vkdsurgeon.attacks.quantize import Quantizing, quantize

    return quantize(Quantizing(**_asked(forget, retain, common, settings), **settings), listener)


def _perturb(
    forget: Given, retain: Given | None, common: Fields, settings: Fields, listener: Listener
) -> AnyAttackResult:
    from vkdsurgeon.attacks.image_transforms import perturbations_of
    from vkdsurgeon.attacks.perturb import Perturbing, perturb
    from vkdsurgeon.attacks.universal import Universal

    trained = settings.pop("universal", None)
    if trained is not None and trained is not False:
        trained = {} if trained is True else dict(trained)
        for name in ("eps", "step_size"):
            _within(name, trained.get(name), 255.0)
    else:
        trained = None
    seed = settings.get("seed", 0)
    kinds, heldout = settings.pop("perturbations", None), settings.pop("heldout", None)
    fields = _asked(forget, retain, common, settings)
    attack = Perturbing(
        **fields,
        heldout=_set("heldout", heldout),
        # None are as many as there are, an empty list is none at all.
        perturbations=() if kinds is not None and not kinds else perturbations_of(kinds or (), seed),
        universal=None if trained is None else Universal(**{"seed": seed, **trained}),
    )
    return perturb(attack, listener)


def _prompt(
    forget: Given, retain: Given | None, common: Fields, settings: Fields, listener: Listener
) -> AnyAttackResult:
    from vkdsurgeon.attacks.prompt import Prompting, prompt
    from vkdsurgeon.attacks.templates import read_templates

    given = settings.pop("templates", None)
    if given is None and settings.get("builtin") is False:
        raise UserError("no templates were chosen", where="`builtin`", value=False, remedy="give `templates`")
    own = read_templates(Path(given)) if isinstance(given, (str, Path)) else list(given or ())
    return prompt(Prompting(**_asked(forget, retain, common, settings), templates=own, **settings), listener)


def _typography(
    forget: Given, retain: Given | None, common: Fields, settings: Fields, listener: Listener
) -> AnyAttackResult:
    from vkdsurgeon.attacks.typography import Writing, typography

    chosen = {
        key: value for key in ("percent", "font", "instruction") if (value := settings.pop(key, None)) is not None
    }
    percent, font, instruction = chosen.get("percent", 5), chosen.get("font", ""), chosen.get("instruction", "a word")
    if not isinstance(percent, int) or not 5 <= percent <= 60:
        raise UserError("out of range", where="`percent`", value=percent, expected="a whole number from 5 to 60")
    if not isinstance(instruction, str) or not instruction.strip():
        raise UserError("no instruction", where="`instruction`", value=instruction, expected="what to do, in words")
    if not isinstance(font, str | Path):
        raise UserError("no font file", where="`font`", value=font, expected="the path of a TrueType or OpenType font")
    if font:
        chosen["font"] = Path(font)
    return typography(Writing(**_asked(forget, retain, common, settings), **chosen), listener)


def _membership(
    forget: Given, retain: Given | None, common: Fields, settings: Fields, listener: Listener
) -> AnyAttackResult:
    from vkdsurgeon.attacks.membership import Inferring, membership

    _within("k_percent", settings.get("k_percent"), 100.0, " percent")
    nonmembers = settings.pop("nonmembers", None)
    if nonmembers is None:
        raise UserError("no non-members were given", where="`nonmembers`", expected="questions on images no model saw")
    fields = _asked(forget, retain, common, settings)
    return membership(Inferring(**fields, nonmembers=read_set("nonmembers", nonmembers), **settings), listener)


ATTACKS: dict[
    str, tuple[tuple[str, ...], Callable[[Given, Given | None, Fields, Fields, Listener], AnyAttackResult]]
] = {
    "relearn": (("plan", "heldout", "benign", "unrelated"), _relearn),
    "restore": (("part",), _restore),
    "probe": (
        ("heldout", "retain_heldout", "layers", "probe", "regularisation", "pooling", "folds", "limit", "batch_size",
         "seed"),
        _probe,
    ),
    "quantize": (("formats", "scope", "group_size"), _quantize),
    "perturb": (("heldout", "perturbations", "universal"), _perturb),
    "prompt": (("templates", "builtin"), _prompt),
    "typography": (("percent", "font", "instruction"), _typography),
    "membership": (("nonmembers", "k_percent", "gradient"), _membership),
}  # fmt: skip
"""Name -> the settings that are its own, and what runs it."""
