"""DINOv2-small from an ONNX file: weights by the names of the nodes that use them, checked against the graph itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from vkdsurgeon.errors import UserError

PATCH, PRETRAINED_SIDE = 14, 518
# Of the images the tower was trained on.
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BACKBONE = "backbone."
_FINAL = "/backbone/layernorm/"


def config(side: int) -> Dinov2Config:
    """DINOv2-small for square images of `side` pixels."""
    return Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=side, patch_size=PATCH,
        use_mask_token=False,
    )  # fmt: skip


def read_tower(onnx_file: bytes) -> Dinov2Model:
    """The tower as it was pretrained: position embeddings of 37 x 37 patches, float32.

    Args:
        onnx_file: A graph whose backbone was exported from transformers' `Dinov2Model`.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(onnx_file).graph
    values = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    state = {
        name.removeprefix(_BACKBONE): value for name, value in values.items() if name.startswith(_BACKBONE)
    } | _products(graph, values)
    # Constant folding split them and took their name.
    positions = [value for value in values.values() if value.shape == (1, (PRETRAINED_SIDE // PATCH) ** 2, 384)]
    (before,) = (
        value for name, value in values.items() if value.shape == (1, 1, 384) and not name.startswith(_BACKBONE)
    )
    state["embeddings.position_embeddings"] = torch.cat([before, *positions], dim=1)
    # The file has the names of older versions, which from_pretrained knows to translate.
    tower, report = Dinov2Model.from_pretrained(
        None, config=config(PRETRAINED_SIDE), state_dict=state, dtype=torch.float32, output_loading_info=True
    )
    wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[kind]]
    if wrong:
        raise UserError("the ONNX file holds another tower", value=sorted(map(str, wrong))[:3], expected="DINOv2-small")
    return tower.eval()


def at_side(tower: Dinov2Model, side: int) -> Dinov2Model:
    """The same tower for images of another size, its position embeddings interpolated once for all.

    Args:
        tower: As pretrained.
        side: Pixels, a multiple of the patch.

    Returns:
        A new tower; on images of that size it gives what the pretrained one gives by interpolating in every pass.
    """
    resized = Dinov2Model(config(side)).float().eval()
    state = tower.state_dict()
    patches = torch.empty(1, 1 + (side // PATCH) ** 2, 384)
    with torch.no_grad():
        state["embeddings.position_embeddings"] = tower.embeddings.interpolate_pos_encoding(patches, side, side)
    resized.load_state_dict(state)
    return resized


def difference(tower: Dinov2Model, onnx_file: bytes) -> float:
    """Largest difference between the tower's last features and those of the graph, run by onnxruntime.

    Args:
        tower: From `read_tower`.
        onnx_file: What it was read from.
    """
    import onnx
    import onnxruntime

    model = onnx.load_from_string(onnx_file)
    last = [output for node in model.graph.node if node.name.startswith(_FINAL) for output in node.output][-1]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (expected,) = session.run([last], {model.graph.input[0].name: images.numpy()})
    with torch.inference_mode():
        found = tower(images).last_hidden_state
    return float((found - torch.from_numpy(expected)).abs().max())


def _products(graph: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of linear layers: in the graph they are transposed and nameless, but the nodes have paths."""
    found = {}
    for node in graph.node:
        weights = [values[name] for name in node.input if name in values]
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and weights:
            path = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{path}.weight"] = weights[0].T.contiguous()
    return found


def statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of every channel.

    Args:
        features: float32 [B, N, D].

    Returns:
        Two float32 tensors [D].
    """
    flat = features.flatten(0, 1)
    return flat.mean(0), flat.std(0)


def patch_features(tower: nn.Module, images: torch.Tensor, layer: int) -> torch.Tensor:
    """Patch tokens of one hidden state, without the class token.

    Args:
        tower: A tower.
        images: float32 [B, 3, H, W], normalised.
        layer: Which hidden state, as `vision_feature_layer`.

    Returns:
        float32 [B, N, 384].
    """
    hidden: torch.Tensor = tower(images, output_hidden_states=True).hidden_states[layer]
    return hidden[:, 1:]
