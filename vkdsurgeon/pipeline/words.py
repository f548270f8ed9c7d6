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
        f"{count} {'held-out' if held_out else 'altered'} {name}"
        for count, held_out, name in zip(verdict.pictures, verdict.held_out, ("forget", "retain"), strict=True)
    )
    return (
        f"{'met' if verdict.met else 'not met'}: {verdict.own} of {forget} images read as their own subject (before "
        f"{verdict.base_own}, by chance up to {verdict.own_allowed}), {verdict.agree} of {verdict.readable} readable "
        f"ones of {retain} images as before (at least {verdict.agree_needed}), retain drift "
        f"{verdict.retain_drift:.4f}"
    )


def describe_targets(reading: TargetReading) -> str:
    """How well identities are still read from the forget targets, in words."""
    where = f"; moved at {reading.at}" if reading.at else ""
    farther = "" if reading.trust == reading.stretch == 1 else ", some farther than at first"
    return (
        f"{reading.own} of {reading.images} read as their own subject (unchanged features: {reading.original}), chance "
        f"1 in {reading.subjects}{where}{farther}"
    )


def describe_teacher(quality: TeacherQuality) -> str:
    """How well the teacher tells images and subjects apart, in words."""
    told = [f"variance over images {quality.variation:.3f} of the power"]
    if quality.token_variation is not None:
        told.append(f"over tokens {quality.token_variation:.3f}")
    if quality.separation is not None:
        told.append(f"between subjects {quality.separation:.3f} of that within")
    if quality.apart is not None:
        told.append(f"forget from kept images {quality.apart:.1f} times as far as by chance")
    return f"{', '.join(told)} ({quality.pictures} images)"


def describe_decoder(verdict: DecoderVerdict) -> str:
    """The gate of the decoder pass, in words."""
    forget, retain, text = verdict.questions
    return (
        f"{'met' if verdict.met else 'not met'}: KL on original forget features at {verdict.forget_ratio:.3f} of its "
        f"start, on kept images {verdict.retain_kl:.4f} nats, on text {verdict.text_kl:.4f} nats, "
        f"{100 * verdict.text_agreement:.1f} % of text answers the same; {forget} forget, {retain} retain and {text} "
        "text questions"
    )
