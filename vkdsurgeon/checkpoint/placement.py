"""Which of a model's parameters belong to the tower (of images or of sound), the projector and the language model.

Works alike on a skeleton without weights (the `meta` device) and on a model that is really loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vkdsurgeon.checkpoint.known_parts import KNOWN, WITHOUT_TOWER
from vkdsurgeon.checkpoint.senses import SENSES, Sense
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.errors import UserError


@dataclass(frozen=True)
class Placement:
    """The three parts of a multimodal LLM, by the names of the module's parameters.

    Attributes:
        tower: Module path of the tower.
        projector: The outermost modules (or lone parameters) that make up the projector; empty where the tower
            contains it.
        tower_parameters: Parameters of the tower.
        projector_parameters: Parameters of the projector.
        language_parameters: Everything else: language model, embeddings, head, other towers.
        visual_buffers: Buffers of tower and projector that checkpoints hold.
    """

    tower: str
    projector: tuple[str, ...]
    tower_parameters: tuple[str, ...]
    projector_parameters: tuple[str, ...]
    language_parameters: tuple[str, ...]
    visual_buffers: tuple[str, ...]

    @property
    def visual_parameters(self) -> tuple[str, ...]:
        """Tower and projector."""
        return self.tower_parameters + self.projector_parameters


def locate_visual(
    model: nn.Module,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    modality: Modality = "image",
) -> Placement:
    """Split a multimodal LLM into tower, projector and language model.

    The tower is what transformers calls the image encoder of the module that computes image features; with modality
    `audio` the encoder of sound takes its place, in all that is said of images and vision here. The language side
    is the widest modules around the decoder and the embeddings that do not contain the tower, together with the other
    towers and all that lies outside of that module. The projector is what is left. Families that are named otherwise
    are listed in `known_parts`.

    Args:
        model: A transformers model of several modalities.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module (or parameter) paths of the projector, where the rule gets it wrong; everything outside
            tower and projector is then the language side.
        modality: What the tower takes in.

    Returns:
        The placement; every parameter of the model is in exactly one part.

    Raises:
        UserError: No tower, a path that does not exist, or a tower that holds parts of the language model.
    """
    model_type = str(getattr(getattr(model, "config", None), "model_type", "this model"))
    sense = SENSES[modality]
    if (reason := WITHOUT_TOWER[modality].get(model_type)) and not tower:
        raise UserError(
            f"{model_type} cannot be unlearned by its {sense.tower}: {reason}",
            expected=f"a model with a tower of its own, such as {sense.example}",
            remedy="use a method that changes the language model, such as npo with the scope llm",
        )
    known = KNOWN[modality].get(model_type)
    if known is not None:
        tower = tower or known.tower
        projector = projector or [path for path in known.projector if _exists(model, path)]
    tower_path = _given_tower(model, tower) if tower else _find_tower(model, model_type, modality)
    parameters = dict(model.named_parameters())
    inside = _names_under(model, parameters, [tower_path])
    language = _language_names(model, parameters, tower_path, sense, certain=projector is None)
    if inside & language:
        raise UserError(
            f"the {sense.tower} contains parts of the language model",
            where=f"module {tower_path}",
            value=sorted(inside & language)[0],
            expected="a tower of its own",
            remedy="name another module with `tower`: " + ", ".join(_candidates(model)),
        )
    if projector is not None:
        for path in projector:
            _check_path(model, path, "`projector`")
        outside = _names_under(model, parameters, projector) - inside
        if outside & language:
            raise UserError(
                "the projector contains parts of the language model",
                where=f"module {', '.join(projector)}",
                value=sorted(outside & language)[0],
                remedy="name another module with `projector`: " + ", ".join(_candidates(model)),
            )
    else:
        seeing = _names_under(model, parameters, [find_owner(model, tower_path, sense)])
        outside = {name for name in seeing - inside - language if not _is_foreign(name, sense)}
    speaking = [name for name in parameters if name not in inside and name not in outside]
    if not inside or not speaking:
        problem = f"a {sense.tower} without parameters" if not inside else "no language model beside the tower"
        raise UserError(problem, where=f"module {tower_path}", remedy="name the tower with `tower`")
    return Placement(
        tower=tower_path,
        projector=tuple(projector) if projector is not None else _outermost(outside, set(parameters) - outside),
        tower_parameters=tuple(name for name in parameters if name in inside),
        projector_parameters=tuple(name for name in parameters if name in outside),
        language_parameters=tuple(speaking),
        visual_buffers=_persistent_buffers(model, parameters, tower_path, outside),
    )


def _given_tower(model: nn.Module, path: str) -> str:
    _check_path(model, path, "`tower`")
    return path


def _check_path(model: nn.Module, path: str, option: str) -> None:
    known = {name for name, _ in model.named_modules(remove_duplicate=False)} | {n for n, _ in model.named_parameters()}
    if not path or path not in known:
        raise UserError("no such module", where=option, value=path, expected="one of " + ", ".join(_candidates(model)))


def _candidates(model: nn.Module, depth: int = 3) -> list[str]:
    """Module paths a person could mean: shallow ones, without the single layers."""
    paths = (path for path, module in model.named_modules() if path and any(True for _ in module.parameters()))
    return [path for path in paths if path.count(".") < depth and not any(part.isdigit() for part in path.split("."))]


def find_owner(model: nn.Module, tower: str, sense: Sense) -> str:
    """Path of the innermost module that computes features and holds the tower; empty where the model itself does.

    Outer models only pass the question on, sometimes without naming what they pass.
    """
    paths = [
        path
        for path, module in model.named_modules()
        if hasattr(type(module), sense.method) and (not tower or not path or tower.startswith(path + "."))
    ]
    return max(paths, key=len, default="")


def _is_foreign(name: str, sense: Sense) -> bool:
    # What hears or speaks is no part of what sees, and the other way about, even where it lies beside the projector.
    return any(word in part for part in name.split(".") for word in sense.foreign)


def _exists(model: nn.Module, path: str) -> bool:
    try:
        found: object = model.get_submodule(path)
    except AttributeError:
        found = dict(model.named_parameters()).get(path)
    if isinstance(found, nn.Module):
        return next(found.parameters(), None) is not None
    return found is not None


def _find_tower(model: nn.Module, model_type: str, modality: Modality) -> str:
    sense = SENSES[modality]
    path = _asked_tower(model, modality)
    if not path:
        other = next((name for name in SENSES if name != modality and _asked_tower(model, name)), None)
        remedy = f"it has the {SENSES[other].tower} {_asked_tower(model, other)}: modality {other}" if other else None
        raise UserError(
            f"no {sense.tower} found in {model_type}",
            expected=f"a model with a tower of its own, such as {sense.example}",
            remedy=remedy or "name it with `tower`: " + ", ".join(_candidates(model)),
        )
    return path


def _asked_tower(model: nn.Module, modality: Modality) -> str:
    """Path of what transformers calls the encoder of a modality; empty where it knows none."""
    owner = find_owner(model, "", SENSES[modality])
    modules = (model.get_submodule(owner), model)
    asked = [_path_of(model, _ask(module, "get_encoder", modality=modality)) for module in modules]
    path = next(filter(None, asked), "")
    return "" if path == owner else path


def _path_of(model: nn.Module, wanted: object) -> str:
    return next((path for path, module in model.named_modules() if module is wanted), "")


def _names_under(model: nn.Module, parameters: dict[str, nn.Parameter], paths: Sequence[str]) -> set[str]:
    # By identity, so that a parameter with two names is found under both.
    owned = {
        id(value)
        for path, value in model.named_parameters(remove_duplicate=False)
        if any(not prefix or path == prefix or path.startswith(prefix + ".") for prefix in paths)
    }
    return {name for name, value in parameters.items() if id(value) in owned}


def _language_names(
    model: nn.Module, parameters: dict[str, nn.Parameter], tower_path: str, sense: Sense, *, certain: bool
) -> set[str]:
    owner = model.get_submodule(find_owner(model, tower_path, sense))
    found = [_path_of(model, _ask(module, "get_decoder")) for module in (model, owner)]
    decoders = [path for path in found if path and not tower_path.startswith(f"{path}.")]
    if not decoders and certain:
        raise UserError(
            "the start of the language model was not found: its decoder is not separate from the tower's module",
            where=f"module {next(filter(None, found), '(the whole model)')}",
            expected="`projector`, the module(s) between tower and language model",
            remedy="name them: " + ", ".join(_candidates(model)),
        )
    asked = [
        *(
            _ask(module, name)
            for module in (model, owner)
            for name in ("get_input_embeddings", "get_output_embeddings")
        ),
        *(_ask(module, "get_encoder", modality=other) for module in (model, owner) for other in sense.others),
    ]
    others = [_path_of(model, module) for module in asked]
    paths = {*decoders, *(path for path in others if path and not f"{tower_path}.".startswith(f"{path}."))}
    return _names_under(model, parameters, [_widest_without(path, tower_path) for path in sorted(paths)])


def _ask(model: nn.Module, method: str, **arguments: str) -> object:
    """What one of transformers' best-effort accessors finds; None where an architecture does without it."""
    find: Any = getattr(model, method, None)
    try:
        return None if find is None else find(**arguments)
    except (NotImplementedError, TypeError):
        # TypeError: an accessor of its own that knows no modalities.
        return None


def _widest_without(path: str, tower_path: str) -> str:
    """The outermost ancestor of `path` that does not contain `tower_path`."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        ancestor = ".".join(parts[:length])
        if tower_path != ancestor and not tower_path.startswith(ancestor + "."):
            return ancestor
    return path


def _outermost(names: set[str], others: set[str]) -> tuple[str, ...]:
    """The fewest module paths that cover `names` and none of `others`."""
    covers: dict[str, None] = {}
    for name in sorted(names):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length])
            if not any(other == prefix or other.startswith(prefix + ".") for other in others):
                covers[prefix] = None
                break
    return tuple(covers)


def _persistent_buffers(
    model: nn.Module, parameters: dict[str, nn.Parameter], tower_path: str, projector_names: set[str]
) -> tuple[str, ...]:
    modules = [tower_path, *_outermost(projector_names, set(parameters) - projector_names)]
    buffers = dict(model.named_buffers())
    return tuple(
        name
        for name in model.state_dict()
        if name in buffers and any(name.startswith(module + ".") for module in modules)
    )
