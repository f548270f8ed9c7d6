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


def split_pooled(subjects: tuple[str, ...], share: float) -> tuple[list[int], list[int]]:
    """Hold out images of a set of which no subject has to be trained on, such as a retain set.

    Subjects with at least `1 / share` images are split as in `split_validation`. The images of all others are counted
    together, and `share` of that number is held out: one image each of as many subjects, of those with three images or
    more first, then of those with two, then of those with one.

    Args:
        subjects: The subject of each image.
        share: Share to hold out.

    Returns:
        Indices to train on and indices held out, both in order.
    """
    train, held_out = split_validation(subjects, share)
    spared = {subjects[index] for index in held_out}
    few: dict[str, list[int]] = {}
    for index in train:
        if subjects[index] not in spared:
            few.setdefault(subjects[index], []).append(index)
    due = int(sum(map(len, few.values())) * share)
    # Who has two images is then trained on by one, and who has one by none.
    for several in (3, 2, 1):
        last = [indices[-1] for indices in few.values() if min(len(indices), 3) == several]
        taken = min(due, len(last))
        # Evenly over the set, whose order may mean something.
        held_out += [last[place * len(last) // taken] for place in range(taken)]
        due -= taken
    chosen = set(held_out)
    return [index for index in range(len(subjects)) if index not in chosen], sorted(chosen)
