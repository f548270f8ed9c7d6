"""Releases: making one, verifying it, attesting it and reproducing it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vkdsurgeon.api.arguments import model_of, optional_model, optional_records, path_of, paths_of, records_of
from vkdsurgeon.api.checkpoints import diff
from vkdsurgeon.api.measurement import attack, evaluate
from vkdsurgeon.api.names import PathLike, RecordSet
from vkdsurgeon.api.reports import write_report
from vkdsurgeon.api.unlearning import unlearn
from vkdsurgeon.errors import UserError
from vkdsurgeon.training.events import Listener, unheard

if TYPE_CHECKING:
    from vkdsurgeon.config.release import ReleasePlan
    from vkdsurgeon.results.release import ReleaseResult
    from vkdsurgeon.results.reproduction import ReproduceResult
    from vkdsurgeon.results.verification import VerifyResult


def make_release(plan: ReleasePlan | PathLike, *, on_event: Listener | None = None) -> ReleaseResult:
    """Make a release from a plan: unlearn, verify, evaluate, attack, report, attest, sign and export the patch.

        make_release("release.yaml").raise_if_failed()

    To continue an interrupted release, make the same call again.

    Args:
        plan: A release file (YAML), or a `ReleasePlan`.
        on_event: Called with every stage and its progress.

    Returns:
        The verdict, with what the attacks brought back and the files that every stage wrote.

    Raises:
        UserError: The plan is wrong, or its output directory belongs to another release.
        SurgeryError: A stage failed. The same call continues with that stage.
        KeyboardInterrupt: The release was interrupted. The same call continues it.
    """
    from vkdsurgeon.config.release import load_release
    from vkdsurgeon.release.run import Tools, run_release

    chosen = load_release(Path(plan)) if isinstance(plan, (str, Path)) else plan
    chosen = chosen.model_copy(update={"model": model_of(chosen.model), "gold": optional_model(chosen.gold)})
    return run_release(chosen, Tools(unlearn, diff, evaluate, attack, write_report), on_event or unheard)


def verify(
    model: PathLike,
    *,
    base: PathLike | None = None,
    forget: RecordSet | None = None,
    replay: PathLike | Sequence[PathLike] | None = None,
    record: PathLike | None = None,
    signature: PathLike | None = None,
    public_key: PathLike | None = None,
) -> VerifyResult:
    """Check a patched checkpoint against its record and, if given, its base, a candidate forget set and a signature.

        verify("patched/", base="model/").raise_if_failed()

    Args:
        model: The patched checkpoint.
        base: The original checkpoint. Checks that it is the base named in the record, and that only values selected by
            the mask differ from it.
        forget: A candidate set. Checks whether it is the forget set of the run.
        replay: Replay files, or folders of them. Checks whether they are those of the run; no key is needed.
        record: A copy of the record that was kept elsewhere. None uses the newest record inside the checkpoint.
        signature: A signature over the checkpoint, made by `attest` or another tool for OpenSSF model signing.
        public_key: The public key of the signer, as a PEM file. Required with `signature`.

    Returns:
        Every check and its outcome. `failures` lists the checks that failed.

    Raises:
        UserError: There is no record, the record is too old to check, or an input cannot be read.
    """
    from vkdsurgeon.release.verify import Signed, verify_checkpoint

    if (signature is None) != (public_key is None):
        raise UserError("a signature and its public key must be given together", where="`signature` and `public_key`")
    signed = None if signature is None or public_key is None else Signed(Path(signature), Path(public_key))
    return verify_checkpoint(
        model_of(model),
        base=optional_model(base),
        forget=optional_records(forget),
        replay=[] if replay is None else paths_of(replay),
        record=path_of(record),
        signed=signed,
    )


def attest(
    model: PathLike,
    results: Iterable[PathLike],
    out: PathLike,
    *,
    base_name: str | None = None,
    card: bool = False,
    private_key: PathLike | None = None,
    signature: PathLike | None = None,
) -> list[Path]:
    """Write statements about a release in standard formats (in-toto, SLSA provenance, CycloneDX); optionally sign it.

        attest("patched/", ["unlearn.json", "eval.json", "relearn.json"], "attestations/", base_name="org/model")

    Args:
        model: The patched checkpoint.
        results: JSON files that the commands wrote, as in `write_report`.
        out: A directory for the statements. Earlier statements in it are replaced.
        base_name: The name of the base model. None uses its name on the hub, if the record has one.
        card: Also write the evidence into the checkpoint's README.md, between two markers. The rest of that file stays.
        private_key: An elliptic-curve private key as a PEM file. With it, every file of the checkpoint is signed.
        signature: Where to write the signature, outside the checkpoint. Required with `private_key`.

    Returns:
        The files that were written.

    Raises:
        UserError: The checkpoint has no record that names its base, the results are about different models, or the key
            or the signing library is missing.
    """
    from vkdsurgeon.files.directories import scratch
    from vkdsurgeon.release.attest import attest as write
    from vkdsurgeon.release.attest import base_name_of, with_record
    from vkdsurgeon.release.card import write_card
    from vkdsurgeon.release.sign import sign_checkpoint

    if (private_key is None) != (signature is None):
        raise UserError(
            "a private key and a path for the signature must be given together", where="`private_key` and `signature`"
        )
    place, documents = model_of(model), [Path(each) for each in results]
    written = []
    if card:
        with scratch() as folder:
            write_report(with_record(place, documents), folder / "card.md")
            section = (folder / "card.md").read_text(encoding="utf-8")
        written.append(write_card(place, base_name or base_name_of(place), section))
    written += write(place, documents, Path(out), base_name=base_name)
    if private_key is not None and signature is not None:
        sign_checkpoint(place, Path(private_key), Path(signature))
        written.append(Path(signature))
    return written


def reproduce(
    patched: PathLike,
    base: PathLike,
    forget: RecordSet,
    *,
    retain: RecordSet | None = None,
    generic: RecordSet | None = None,
    text: PathLike | None = None,
    replay: PathLike | Sequence[PathLike] | None = None,
    replay_key: PathLike | None = None,
    on_event: Listener | None = None,
) -> ReproduceResult:
    """Repeat the run that a patched checkpoint's record describes, in a temporary directory, and compare the results.

        reproduce("patched/", "model/", "forget.jsonl", retain="retain.jsonl").raise_if_failed()

    Args:
        patched: The patched checkpoint.
        base: The checkpoint it was made from.
        forget: The forget set of the run.
        retain: The retain set of the run, if it had one.
        generic: The generic set of the run, if it had one.
        text: The text retain set of the run's decoder pass, if it had one.
        replay: The replay files of earlier requests that the run used, if it did.
        replay_key: What they are encrypted with.
        on_event: Same as in `unlearn`.

    Returns:
        The grade: `bytes` (identical), `close` or `different`, with the figures behind it and how this environment
        differs from the recorded one. `passed` requires identical bytes on an equal machine, and a close result on any
        other.

    Raises:
        UserError: The record is missing, or the base or a set is not the recorded one. This is found before the run.
        SurgeryError: The run failed.
    """
    from vkdsurgeon.release.reproduce import reproduce_run

    sets = {"forget": records_of(forget), "retain": optional_records(retain), "generic": optional_records(generic)}
    again = functools.partial(unlearn, on_event=on_event)
    return reproduce_run(
        model_of(patched),
        model_of(base),
        sets,
        again,
        text=path_of(text),
        replay=[] if replay is None else paths_of(replay),
        replay_key=path_of(replay_key),
    )
