"""Identity heads: frozen readers of subjects, which forget images must not be read by.

    z = head( (mean over tokens of h(x)  -  m) / s )            m, s over the teacher's features
    hinge(x) = softplus( z_p - logsumexp_{q != p} z_q + margin )        x a forget image of subject p

Heads are trained once, by cross-entropy, on the teacher's features of forget and kept images, to tell all their
subjects apart; then they are frozen. They stand in for how a language model reads an identity off features, without
having one, as adversarial censoring does (arXiv 1505.07818, with the adversary frozen). Zero is necessary, not
sufficient: other readers may see more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_HIDDEN = 128
_STEPS = 200
_LR, _DECAY = 1e-2, 1e-2
_VIEW_NOISE = 0.3


class IdentityHeads(nn.Module):
    """Trained on construction; no parameter asks for a gradient afterwards.

    Args:
        forget: Teacher features [N, D] of each forget image at `layer`.
        forget_subjects: The subject of each.
        keep: The same of kept images.
        keep_subjects: The subject of each.
        layer: Where the heads read.
        margin: Of the hinge, in nats of log-odds.
        generator: Source of initial weights and noise; equal seeds give equal heads.
        device: Where they run.
    """

    def __init__(
        self,
        forget: Sequence[Tensor],
        forget_subjects: Sequence[str],
        keep: Sequence[Tensor],
        keep_subjects: Sequence[str],
        *,
        layer: str,
        margin: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.layer, self.margin = layer, margin
        # A subject of both sets is to be forgotten.
        self.subjects = tuple(dict.fromkeys((*forget_subjects, *keep_subjects)))
        number = {subject: index for index, subject in enumerate(self.subjects)}
        self.labels = torch.tensor([number[subject] for subject in forget_subjects])
        examples = torch.stack([value.float().mean(dim=0) for value in (*forget, *keep)])
        wanted = torch.tensor([number[subject] for subject in (*forget_subjects, *keep_subjects)])
        self.register_buffer("middle", examples.mean(dim=0))
        self.register_buffer("scale", examples.std(dim=0, correction=0).clamp_min(1e-6))
        width, count = examples.shape[1], len(self.subjects)
        linear = _linear(width, count, generator)
        deep = nn.Sequential(_linear(width, _HIDDEN, generator), nn.GELU(), _linear(_HIDDEN, count, generator))
        self.heads = nn.ModuleList([linear, deep])
        self._learn(self._normalised(examples), wanted, generator)
        self.requires_grad_(False)
        self.to(device)

    def read(self, features: Tensor) -> list[Tensor]:
        """Logits [B, subjects] of each head for features [B, N, D]."""
        pooled = self._normalised(features.float().mean(dim=1))
        return [head(pooled) for head in self.heads]

    def hinge(self, features: Mapping[str, Tensor], indices: Sequence[int]) -> Tensor:
        """The hinge of forget images, mean over the heads.

        Args:
            features: Layer -> features [B, N, D]; `layer` is among them.
            indices: Which forget images they are.

        Returns:
            [B] float32.
        """
        logits = self.read(features[self.layer])
        own = self.labels[list(indices)].to(logits[0].device).unsqueeze(1)
        if len(self.subjects) == 1:
            return features[self.layer].float().sum(dim=(1, 2)) * 0
        hinges = []
        for values in logits:
            others = values.scatter(1, own, -torch.inf).logsumexp(dim=1)
            odds = values.gather(1, own).squeeze(1) - others
            hinges.append(nn.functional.softplus(odds + self.margin))
        return torch.stack(hinges).mean(dim=0)

    def surprise(self, features: Mapping[str, Tensor], indices: Sequence[int]) -> Tensor:
        """Cross-entropy of the right subject, mean over the heads; arguments and result as of `hinge`."""
        logits = self.read(features[self.layer])
        own = self.labels[list(indices)].to(logits[0].device)
        losses = [nn.functional.cross_entropy(values, own, reduction="none") for values in logits]
        return torch.stack(losses).mean(dim=0)

    def _normalised(self, pooled: Tensor) -> Tensor:
        return (pooled - self.get_buffer("middle")) / self.get_buffer("scale")

    def _learn(self, examples: Tensor, wanted: Tensor, generator: torch.Generator) -> None:
        optimizer = torch.optim.AdamW(self.heads.parameters(), lr=_LR, weight_decay=_DECAY)
        with torch.enable_grad():
            for _ in range(_STEPS):
                # Few views per subject: without noise a head reads the images and not the people.
                seen = examples + _VIEW_NOISE * torch.randn(examples.shape, generator=generator)
                losses = [nn.functional.cross_entropy(head(seen), wanted) for head in self.heads]
                optimizer.zero_grad(set_to_none=True)
                torch.stack(losses).sum().backward()
                optimizer.step()


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
        layer.bias.zero_()
    return layer
