"""Unlearning: by Visual Knowledge Distillation (VKD), or by another published method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from vkdsurgeon.api.arguments import (
    model_of,
    optional_model,
    optional_records,
    path_of,
    paths_of,
    recipe_of,
    records_of,
)
from vkdsurgeon.api.names import Dtype, PathLike, RecordSet
from vkdsurgeon.errors import UserError
from vkdsurgeon.training.events import Listener, unheard

if TYPE_CHECKING:
    from vkdsurgeon.baselines.registry import Scope
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon.data.modality import Modality
    from vkdsurgeon.data.suites.split import SuiteSplit
    from vkdsurgeon.model.device_map import MaxMemory
    from vkdsurgeon.pipeline.result import UnlearnResult
    from vkdsurgeon.pipeline.run_baseline import MethodResult


def unlearn(
    model: PathLike,
    forget: RecordSet | None,
    out: PathLike | None = None,
    *,
    retain: RecordSet | None = None,
    generic: RecordSet | None = None,
    text: PathLike | None = None,
    suite: SuiteSplit | None = None,
    recipe: Recipe | Mapping[str, Any] | PathLike | None = None,
    preset: str | None = None,
    forget_teacher: PathLike | None = None,
    retain_teacher: PathLike | None = None,
    seed: int = 0,
    device: str = "auto",
    device_map: str | None = None,
    max_memory: MaxMemory | None = None,
    dtype: Dtype = "auto",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    modality: Modality | Literal["both"] = "image",
    resume: bool = False,
    journal: PathLike | None = None,
    checkpoint_minutes: float = 1.0,
    drop_stale: bool = False,
    follow_links: bool = False,
    link_untouched: bool = False,
    replay: PathLike | Sequence[PathLike] | None = None,
    save_replay: PathLike | None = None,
    replay_key: PathLike | None = None,
    request_id: str | None = None,
    request_date: str | None = None,
    on_event: Listener | None = None,
) -> UnlearnResult:
    """Make the tower and the projector forget, and write a patched checkpoint.

        run = unlearn("model/", "forget.jsonl", "patched/", retain="retain.jsonl", preset="robust")
        run.passed, run.verdict.own, run.write.elements_changed

    Only weights that the saliency mask selects change. If the recipe has a `decoder` section, selected weights of the
    language model change as well. The output directory is either complete and verified, or it does not exist.

    Where a process group of `torch.distributed` is initialised, all its processes call this alike and make the run
    together. The first one alone writes and calls `on_event`.

    Args:
        model: A Hugging Face checkpoint directory; or `ORG/NAME` or `ORG/NAME@REVISION`, a model in the local Hugging
            Face cache. All models can be given in both ways. It is never written to.
        forget: The forget set: images of what to forget. If it shows several subjects, each record names its subject.
            None is allowed only with `suite`.
        out: The directory for the patched checkpoint. It must be empty or not exist. None only plans the run, with an
            estimate of its memory, and writes nothing.
        retain: The retain set: images of other subjects, which must be answered as before. Without `retain` and
            `generic`, drawn images of strangers are used.
        generic: Images of any other subjects, used together with `retain` or instead of it.
        text: A file of prompts without images that the decoder pass must keep answering as before.
        suite: A split of a published benchmark, used instead of `forget` and `retain`.
        recipe: The settings of the run: a `Recipe`, a mapping of recipe keys, or a YAML file. None uses the defaults.
        preset: The name of a preset that ships with the package. Keys in `recipe` override it.
        forget_teacher: A model that never knew the forget set. Its features are the targets of the forget target
            `reference`.
        retain_teacher: The teacher for the retain set; by default `model` itself.
        seed: Seed for all random choices.
        device: `auto` (CUDA if there is a GPU), `cpu`, `cuda` or `cuda:N`.
        device_map: For the decoder pass, which loads the whole model: as in `evaluate`. What it trains must lie on one
            device.
        max_memory: Same as in `evaluate`.
        dtype: The precision of training. `float32`; `bfloat16`, with float32 masters of the selected weights; `mixed`,
            float32 weights with matrix products in bfloat16; or `auto`: `mixed` where the device has such products and
            the tower has at least 5 million weights, `float32` elsewhere. The files keep the checkpoint's own dtype.
        tower: Module path of the vision tower; needed only if `inspect` shows the wrong one.
        projector: Module paths of the projector; needed only if `inspect` shows the wrong ones.
        modality: `image`, or `audio`: the tower of sound forgets what the clips of the sets have in common, such as a
            voice. There are no built-in clips, so `retain` or `generic` is needed. `both`: the vision tower forgets the
            images of the sets, then the audio tower their clips; the result is the audio tower's, and its `image_pass`
            the vision tower's.
        resume: Continue from the journal of an interrupted run. If there is no journal, the run starts normally.
        journal: Where progress is saved; by default next to the output, as OUT.journal.
        checkpoint_minutes: The shortest time between two saves, in minutes.
        drop_stale: Leave files out of the output that may contain a second copy of the old weights.
        follow_links: Allow symbolic links that point outside the model's directory, and copy their targets.
        link_untouched: Save disk space: weight files that do not change become hard links to those of `model`, where
            the file system allows it. Whoever writes to such a file later changes both checkpoints.
        replay: Files, or folders of files, that earlier requests on the same `model` wrote with `save_replay`: whom
            they forgot is forgotten again, without the images.
        save_replay: A file to write for later requests: what the frozen layers of the tower return for the forget
            images. Anyone who has the tower can learn something about the images from it, so keep it as you would keep
            them. Nothing is written unless you ask.
        replay_key: A file with 32 random bytes; `save_replay` is encrypted with it, and `replay` decrypted.
        request_id: An identifier of the request behind this run, such as a ticket number. It is published with the
            weights, so it must not contain anyone's name.
        request_date: The date of that request, as YYYY-MM-DD. It is published as well.
        on_event: Called with every stage, training step and warning.

    Returns:
        The result. `passed` is True if the stop rule was met and, with a decoder pass, its gate as well. The checkpoint
        is written in either case.

    Raises:
        UserError: The input is wrong. Wherever possible this is found before training.
        SurgeryError: Training or writing failed.
        KeyboardInterrupt: The run was interrupted. If `out` was given, its progress is saved in the journal.
    """
    from vkdsurgeon.data.request import request_tag
    from vkdsurgeon.model.device import resolve_device
    from vkdsurgeon.model.device_map import device_map_of
    from vkdsurgeon.model.precision import resolve_precision
    from vkdsurgeon.model.processes import Processes
    from vkdsurgeon.pipeline.both_towers import run_both
    from vkdsurgeon.pipeline.request import Request
    from vkdsurgeon.pipeline.run import run

    chosen = recipe_of(recipe, preset)
    if chosen.output_loss is not None:
        raise UserError(
            "unlearn() does not use the language model, and the recipe key output_loss needs it",
            where="recipe key 'output_loss'",
            value=chosen.output_loss, remedy='call run_method("vkd", ...)',
        )  # fmt: skip
    if device_map is not None and chosen.decoder is None:
        raise UserError(
            "a device map was given, but nothing loads the language model",
            where="`device_map`",
            value=device_map, remedy="leave it out, or ask for a decoder pass",
        )  # fmt: skip
    processes = Processes.of_group()
    request = Request(
        processes=processes,
        model=model_of(model),
        forget=optional_records(forget),
        retain=optional_records(retain),
        generic=optional_records(generic),
        out=path_of(out),
        recipe=chosen,
        text=path_of(text),
        suite=suite,
        forget_teacher=optional_model(forget_teacher),
        retain_teacher=optional_model(retain_teacher),
        journal=path_of(journal),
        resume=resume,
        checkpoint_minutes=checkpoint_minutes,
        drop_stale=drop_stale,
        follow_links=follow_links,
        link_untouched=link_untouched,
        replay=[] if replay is None else paths_of(replay),
        save_replay=path_of(save_replay),
        replay_key=path_of(replay_key),
        tag=request_tag(request_id, request_date),
        seed=seed,
        device=resolve_device(device, processes.local),
        device_map=device_map_of(device_map, max_memory),
        **resolve_precision(dtype),
        tower=tower,
        projector=projector,
        modality="image" if modality == "both" else modality,
    )
    return (run_both if modality == "both" else run)(request, on_event or unheard)


def run_method(
    method: str,
    model: PathLike,
    forget: RecordSet,
    out: PathLike | None = None,
    *,
    retain: RecordSet | None = None,
    generic: RecordSet | None = None,
    text: RecordSet | None = None,
    scope: Scope | Literal["visual", "llm", "all"] | None = None,
    recipe: Recipe | Mapping[str, Any] | PathLike | None = None,
    preset: str | None = None,
    seed: int = 0,
    device: str = "auto",
    device_map: str | None = None,
    max_memory: MaxMemory | None = None,
    dtype: Dtype = "auto",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    drop_stale: bool = False,
    follow_links: bool = False,
    link_untouched: bool = False,
    request_id: str | None = None,
    request_date: str | None = None,
    on_event: Listener | None = None,
) -> MethodResult:
    """Unlearn with another published method, or with VKD through the answers of the language model.

        run_method("npo", "model/", "forget.jsonl", "patched/", retain="retain.jsonl", scope="all")
        run_method("vkd", "model/", "forget.jsonl", "patched/", recipe={"output_loss": "npo"})

    Unlike `unlearn`, it loads the language model, has no stop rule and keeps no journal. Its result is another class.

    Args:
        method: `ga`, `graddiff`, `klmin`, `npo`, `idk`, `rmu`, `manu` or `mmunlearner`; or `vkd` with the recipe key
            `output_loss`.
        model: Same as in `unlearn`.
        forget: The forget set, with questions and answers.
        out: Same as in `unlearn`.
        retain: The retain set, with questions and answers.
        generic: Images of any other subjects. Only `vkd` uses it.
        text: Questions and answers without images. Only some methods use it.
        scope: Which weights may change: `visual` (tower and projector), `llm` (the language model) or `all`. None uses
            the scope of the method's publication.
        recipe: Same as in `unlearn`. Methods other than `vkd` read its section `baseline` only.
        preset: Same as in `unlearn`.
        seed: Seed for all random choices.
        device: Same as in `unlearn`.
        device_map: Same as in `evaluate`. The weights of the scope must lie on one device.
        max_memory: Same as in `evaluate`.
        dtype: What weights are held in: `float32`, which is also what `auto` means here, or `bfloat16`.
        tower: Same as in `unlearn`.
        projector: Same as in `unlearn`.
        drop_stale: Same as in `unlearn`.
        follow_links: Same as in `unlearn`.
        link_untouched: Same as in `unlearn`.
        request_id: Same as in `unlearn`.
        request_date: Same as in `unlearn`.
        on_event: Called with every stage, training step and warning.

    Returns:
        The result: what was trained, and what was written.

    Raises:
        UserError: The input is wrong, or an argument was given that the method does not use.
        SurgeryError: Training or writing failed.
    """
    from vkdsurgeon.baselines.registry import BASELINES, VKD, Scope
    from vkdsurgeon.data.request import request_tag
    from vkdsurgeon.model.device import resolve_device
    from vkdsurgeon.model.device_map import device_map_of
    from vkdsurgeon.model.precision import resolve_precision
    from vkdsurgeon.pipeline.run_baseline import MethodRequest
    from vkdsurgeon.pipeline.run_baseline import run_method as run

    chosen = recipe_of(recipe, preset)
    if method not in BASELINES and (method != VKD or chosen.output_loss is None):
        raise UserError(
            "unknown method", where="method", value=method,
            expected=f"{', '.join(BASELINES)}, or {VKD} with the recipe key output_loss",
            remedy="for VKD without output_loss call unlearn()",
        )  # fmt: skip
    if scope is not None and scope not in [each.value for each in Scope]:
        raise UserError("unknown scope", where="scope", value=scope, expected=", ".join(each.value for each in Scope))
    if dtype == "mixed":
        raise UserError(
            "mixed precision works only with VKD in feature mode",
            where="`dtype`", value=dtype, expected="float32 or bfloat16",
        )  # fmt: skip
    request = MethodRequest(
        model=model_of(model),
        forget=records_of(forget),
        retain=optional_records(retain),
        generic=optional_records(generic),
        text=optional_records(text),
        out=path_of(out),
        method=method,
        scope=None if scope is None else Scope(scope),
        recipe=chosen,
        drop_stale=drop_stale,
        follow_links=follow_links,
        link_untouched=link_untouched,
        tag=request_tag(request_id, request_date),
        seed=seed,
        device=resolve_device(device),
        device_map=device_map_of(device_map, max_memory),
        **resolve_precision(dtype),
        tower=tower,
        projector=projector,
    )
    return run(request, on_event or unheard)
