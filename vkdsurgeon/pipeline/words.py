"""Results of an unlearning run, as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vkdsurgeon.decoder_pass.gate import DecoderVerdict
    from vkdsurgeon.vision_pass.stop_rule import Verdict
    from vkdsurgeon.vision_pass.target_readings import TargetReading
    from vkdsurgeon.vision_pass.teacher_quality import TeacherQuality


def describe_verdict(verdict: Verdict) -> str:
    """The stop rule's verdict, in words."""
    forget, retain = (
        f"{count} {'held-out' if held_out else 'held-out or altered'} {name}"
        for count, held_out, name in zip(verdict.pictures, verdict.held_out, ("forget", "retain"), strict=True)
    )
    # Copies of images that were trained on say nothing of others.
    others = (
        f"; with {verdict.originals} different images, up to {verdict.not_excluded:.0%} of others may do so unnoticed"
        if verdict.met and verdict.held_out[0]
        else ""
    )
    return (
        f"{'met' if verdict.met else 'not met'}: {verdict.own} of {forget} images still read as their own subject "
        f"({verdict.base_own} did before, {verdict.own_allowed} may by chance{others}); "
        f"of {retain} images {verdict.readable} could be read before, and {verdict.agree} of these still read "
        f"alike (at least {verdict.agree_needed} must); retain drift {verdict.retain_drift:.4f}"
    )


def describe_targets(reading: TargetReading) -> str:
    """How well identities are still read from the forget targets, in words."""
    where = f"; identities were moved at {reading.at}" if reading.at else ""
    farther = "" if reading.trust == reading.stretch == 1 else ", some farther than at first"
    return (
        f"{reading.own} of the {reading.images} forget images that are not held out read as their own subject "
        f"({reading.original} did before, chance is 1 in {reading.subjects}){where}{farther}"
    )


def describe_teacher(quality: TeacherQuality) -> str:
    """How well the teacher tells images and subjects apart, in words."""
    told = [f"variance over images {quality.variation:.3f} of their power"]
    if quality.token_variation is not None:
        told.append(f"over tokens {quality.token_variation:.3f}")
    if quality.separation is not None:
        told.append(f"variance between subjects {quality.separation:.3f} of that within one")
    if quality.apart is not None:
        told.append(f"forget and retain images lie {quality.apart:.1f} times as far apart as by chance")
    return f"features of {quality.pictures} images: {', '.join(told)}"


def describe_decoder(verdict: DecoderVerdict) -> str:
    """The gate of the decoder pass, in words."""
    forget, retain, text = verdict.questions
    return (
        f"{'met' if verdict.met else 'not met'}: KL on original forget features at {verdict.forget_ratio:.3f} of its "
        f"start, on kept images {verdict.retain_kl:.4f} nats, on text {verdict.text_kl:.4f} nats, "
        f"{100 * verdict.text_agreement:.1f} % of text answers the same; {forget} forget, {retain} retain and {text} "
        "text questions"
    )
