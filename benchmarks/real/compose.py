"""A LLaVA of the two pretrained halves, with a fresh projector between them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from benchmarks.real.emblems import SIDE
from benchmarks.real.language import IMAGE, IMAGE_TOKENS, TEMPLATE
from benchmarks.real.tower import MEAN, PATCH, SPREAD, statistics

# As LLaVA reads CLIP.
LAYER = -2


def compose(tower: nn.Module, language: Any, tokenizer: Any) -> Any:
    """Put the model together.

    Args:
        tower: DINOv2 for images of `SIDE` pixels.
        language: `Gemma3ForCausalLM`.
        tokenizer: Its tokenizer.

    Returns:
        `LlavaForConditionalGeneration` in float32; its projector is random, `scale_projector` makes it fit.
    """
    text = language.config.to_dict()
    for unwanted in ("quantization_config", "_name_or_path", "architectures"):
        text.pop(unwanted, None)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=LAYER,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlavaForConditionalGeneration(config).float()
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval()


@torch.no_grad()
def scale_projector(model: Any, features: torch.Tensor, seed: int = 0) -> None:
    """Start the projector so that it takes features of any scale and gives vectors as long as Gemma's embeddings.

    The outputs are put in place of embeddings that Gemma has already scaled; others than of their length would drown in
    the first layers, or drown the words.

    Args:
        model: From `compose`, in float32.
        features: float32 [B, N, 384], patch tokens of some images.
        seed: Of the weights.
    """
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    source = torch.Generator().manual_seed(seed)
    mean, spread = statistics(features)
    drawn = torch.randn(first.weight.shape, generator=source) / first.in_features**0.5
    first.weight.copy_(drawn / spread)
    first.bias.copy_(-first.weight @ mean)
    second.weight.copy_(torch.randn(second.weight.shape, generator=source) / second.in_features**0.5)
    second.bias.zero_()
    embeddings = model.get_input_embeddings()
    wanted = embeddings(torch.arange(1000, 21000)).square().mean().sqrt()
    second.weight.mul_(wanted / model.model.multi_modal_projector(features).square().mean().sqrt())


def processor(tokenizer: Any) -> LlavaProcessor:
    """The processor: images by PIL alone."""
    side = {"height": SIDE, "width": SIDE}
    images = BitImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=side, image_mean=list(MEAN), image_std=list(SPREAD)
    )
    # The class token is the additional one, and the default strategy drops it again.
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token=IMAGE,
    )


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Round the model to bfloat16 in place and write it with its processor; a half-written one never bears its name."""
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.bfloat16)
    model.save_pretrained(partial)
    processor(tokenizer).save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def load(root: Path) -> tuple[Any, Any]:
    """What `save` wrote: the model in float32 and the tokenizer."""
    model = LlavaForConditionalGeneration.from_pretrained(root, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(root, local_files_only=True)
