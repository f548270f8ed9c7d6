"""Which of a model's parameters see, which translate, and which speak.

Works alike on a skeleton without weights (the `meta` device) and on a model that is really loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vkdsurgeon.errors import UserError

# Model types whose modules are named such that the rule below splits them wrongly.
AMBIGUOUS = frozenset({"janus", "video_llava"})


@dataclass(frozen=True)
class Placement:
    """The three parts of a multimodal LLM, by the names of the module's parameters.

    Attributes:
        tower: Module path of the vision tower.
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


def locate_visual(model: nn.Module, tower: str | None = None, projector: Sequence[str] | None = None) -> Placement:
    """Split a multimodal LLM into tower, projector and language model.

    The tower is what transformers calls the image encoder. The language side is the widest module around the decoder
    that does not contain the tower, together with the embeddings and the other towers. The projector is what is left.

    Args:
        model: A transformers model for image-text-to-text.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module (or parameter) paths of the projector, where the rule gets it wrong; everything outside
            tower and projector is then the language side.

    Returns:
        The placement; every parameter of the model is in exactly one part.

    Raises:
        UserError: No tower, a path that does not exist, or a tower that holds parts of the language model.
    """
    model_type = str(getattr(getattr(model, "config", None), "model_type", "this model"))
    if model_type in AMBIGUOUS and not (tower and projector):
        raise UserError(
            f"the parts of {model_type} cannot be told apart by rule",
            expected="`tower` and `projector`",
            remedy="name them: " + ", ".join(_candidates(model)),
        )
    tower_path = _given_tower(model, tower) if tower else _find_tower(model, model_type)
    parameters = dict(model.named_parameters())
    inside = _names_under(model, parameters, [tower_path])
    language = _language_names(model, parameters, tower_path, certain=not projector)
    if inside & language:
        raise UserError(
            "the vision tower contains parts of the language model",
            where=f"module {tower_path}",
            value=sorted(inside & language)[0],
            expected="a tower of its own",
            remedy="name another module with `tower`: " + ", ".join(_candidates(model)),
        )
    if projector:
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
        outside = set(parameters) - inside - language
    speaking = [name for name in parameters if name not in inside and name not in outside]
    if not inside or not speaking:
        problem = "a vision tower without parameters" if not inside else "no language model beside the tower"
        raise UserError(problem, where=f"module {tower_path}", remedy="name the tower with `tower`")
    return Placement(
        tower=tower_path,
        projector=tuple(projector) if projector else _outermost(outside, set(parameters) - outside),
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


def _find_tower(model: nn.Module, model_type: str) -> str:
    path = _path_of(model, _ask(model, "get_encoder", modality="image"))
    if not path:
        raise UserError(
            f"no vision tower found in {model_type}",
            expected="a model with a tower of its own, such as LLaVA or Qwen-VL",
            remedy="name it with `tower`: " + ", ".join(_candidates(model)),
        )
    return path


def _path_of(model: nn.Module, wanted: object) -> str:
    return next((path for path, module in model.named_modules() if module is wanted), "")


def _names_under(model: nn.Module, parameters: dict[str, nn.Parameter], paths: Sequence[str]) -> set[str]:
    # By identity, so that a parameter with two names is found under both.
    owned = {
        id(value)
        for path, value in model.named_parameters(remove_duplicate=False)
        if any(path == prefix or path.startswith(prefix + ".") for prefix in paths)
    }
    return {name for name, value in parameters.items() if id(value) in owned}


def _language_names(
    model: nn.Module, parameters: dict[str, nn.Parameter], tower_path: str, *, certain: bool
) -> set[str]:
    decoder = _path_of(model, _ask(model, "get_decoder"))
    modules = []
    if decoder and not tower_path.startswith(decoder + "."):
        modules.append(_widest_without(decoder, tower_path))
    elif certain:
        raise UserError(
            "no telling where the language model begins: its decoder cannot be told from what is around the tower",
            where=f"module {decoder or '(the whole model)'}",
            expected="`projector`, the module(s) between tower and language model",
            remedy="name them: " + ", ".join(_candidates(model)),
        )
    modules.extend(_path_of(model, _ask(model, name)) for name in ("get_input_embeddings", "get_output_embeddings"))
    others = (_path_of(model, _ask(model, "get_encoder", modality=modality)) for modality in ("audio", "video"))
    modules.extend(path for path in others if path != tower_path)
    return _names_under(model, parameters, [path for path in modules if path])


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
