"""What is held out of a set of images."""

from __future__ import annotations


def split_validation(subjects: tuple[str, ...], share: float) -> tuple[list[int], list[int]]:
    """Hold out images of every subject that has enough of them.

    Args:
        subjects: The subject of each image.
        share: Share to hold out; a subject with fewer than `1 / share` images is trained on entirely.

    Returns:
        Indices to train on and indices held out, both in order. With nothing held out, the second is empty.
    """
    seen: dict[str, int] = {}
    train: list[int] = []
    held_out: list[int] = []
    for index, subject in enumerate(subjects):
        seen[subject] = seen.get(subject, 0) + 1
        # The last of each full run of 1 / share images, so that the share never exceeds what was asked.
        due = share > 0 and int(seen[subject] * share) > int((seen[subject] - 1) * share)
        (held_out if due else train).append(index)
    return train, held_out
