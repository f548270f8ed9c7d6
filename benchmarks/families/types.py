"""What the rule of `shrink` cannot know of single families."""

from __future__ import annotations

from typing import Any

_SAM = {"output_channels": 16, "downsample_channels": [24, 64], "num_pos_feats": 8, "global_attn_indexes": [1]}
_VQ = {"base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1, "embed_dim": 8, "num_embeddings": 64,
       "latent_channels": 8, "resolution": 64}  # fmt: skip
_COMPASS_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
_VOCABULARY = {f"IMGIMG{code}Z": 200 + number for number, code in enumerate("ABCDEFGHIJ")}

_GEMMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 4, "head_dim": 16, "position_embedding_size": 64}  # fmt: skip
_MROPE = {"text_config": {"rope_parameters": {"mrope_section": [4, 2, 2]}}}

# Model type -> values to put into its shrunk config, dictionaries merged.
CONFIGS: dict[str, dict[str, Any]] = {
    "aria": {
        "vision_config": {"patch_size": 70, "image_size": 490}, "projector_patch_to_query_dict": {49: 4, 196: 4},
    },
    "chameleon": {"vq_config": _VQ, "vocabulary_map": {**_VOCABULARY, "<image>": 100}},
    "cohere_compass": {
        "text_config": {"rope_parameters": {"full_attention": _COMPASS_ROPE, "sliding_attention": _COMPASS_ROPE}}
    },
    "diffusion_gemma": {
        "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}, "vision_config": _GEMMA,
    },
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4}, "vision_config": {"adapter_in_dim": 64},
        "audio_config": {"adapter_input_size": 64, "num_key_value_heads": 4},
    },
    "deepseek_ocr2": {
        "vision_config": {"sam_config": _SAM},
        "text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    },
    "deepseek_vl_hybrid": {"high_res_vision_config": _SAM},
    "emu3": {"vq_config": _VQ, "vocabulary_map": {**_VOCABULARY, "<image>": 100, "<|extra_200|>": 101}},
    "ernie4_5_vl_moe": {
        "text_config": {"moe_intermediate_size": [32, 32], "rope_parameters": {"mrope_section": [3, 3, 2]}}
    },
    "fast_vlm": {"vision_config": {"architecture": "fastvit_mci0", "hidden_size": 1024}},
    "florence2": {
        "vision_config": {
            "embed_dim": [16, 32, 48, 64], "num_heads": [2, 2, 2, 2], "num_groups": [2, 2, 2, 2],
            "depths": [1, 1, 1, 1], "window_size": 4, "projection_dim": 64,
        }
    },
    "gemma3n": {
        "text_config": {"num_kv_shared_layers": 0},
        "vision_config": {"architecture": "mobilenetv5_base", "hidden_size": 2048},
    },
    "gemma4": {"vision_config": {"model_type": "gemma4_vision", **_GEMMA}},
    "gemma4_unified": {
        "vision_config": {"model_type": "gemma4_unified_vision", "mm_embed_dim": 64, "output_proj_dims": 64,
                          "mm_posemb_size": 64}
    },
    "glm5_next": {"text_config": {"num_key_value_heads": 4, "index_kpool": 4}},
    "granite4_vision": {
        "downsample_rate": "1/2", "deepstack_layer_map": [[-2, 0], [-1, 1]], "spatial_target_layers": [0, 1, 0, 1],
        "image_grid_pinpoints": [[128, 256], [256, 128], [256, 256]],
    },
    "hunyuan_vl": {"text_config": {"head_dim": 16, "rope_parameters": {"mrope_section": [2, 2, 2, 2]}}},
    "janus": {"vq_config": _VQ},
    "mistral_large4": {"text_config": {"kv_source_layers": [0, 1], "num_key_value_heads": 4}},
    "molmo2": {
        "vision_config": {"image_size": [168, 168], "num_position_embeddings": 144},
        "adapter_config": {"vision_feature_layer": [1, 0]}, "text_config": {"rope_scaling_layers": [0, 1]},
    },
    "phi4_multimodal": {"vision_config": {"crop_size": 448, "image_size": 448}},
    "step3p7": {"text_config": {"sliding_window": 16}},
    "kimi_k25": {"text_config": {"num_key_value_heads": 4}},
    "kosmos-2.5": {"vision_config": {"patch_embed_hidden_size": 768}},
    "llama4": {"vision_config": {"intermediate_size": 256}},
    "pix2struct": {"vision_config": {"patch_embed_hidden_size": 768}},
    "mllama": {
        "vision_config": {
            "intermediate_layers_indices": [0, 1], "vision_output_dim": 192, "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2]],
        },
        "text_config": {"cross_attention_layers": [1]},
    },
    "muse_glimmer": {"out_hidden_size": 256},
    "nemotron_h_omni": {"text_config": {"n_groups": 1}},
    "muse_spark": {
        "out_hidden_size": 256,
        "audio_config": {"patch_sizes": [16, 6], "hidden_sizes": [16, 32], "depths": [1, 1], "num_hidden_layers": 2}
    },
    "perception_lm": {
        "vision_config": {
            "architecture": "vit_pe_core_tiny_patch16_384", "do_pooling": False,
            "model_args": {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": [64, 64], "global_pool": ""},
        }
    },
    "pp_formulanet": {
        "vision_config": {"output_channels": 16, "post_conv_in_channels": 16, "post_conv_mid_channels": 24,
                          "post_conv_out_channels": 64, "image_size": 64}
    },
    "qwen2_5_omni": {
        "token2wav_config": {
            "dit_config": {"enc_channels": [16, 16, 48], "enc_kernel_sizes": [5, 3, 1], "enc_dilations": [1, 2, 1],
                           "num_embeds": 64, "enc_dim": 16, "enc_emb_dim": 16, "emb_dim": 32},
            "bigvgan_config": {"upsample_initial_channel": 64},
        }
    },
    "qwen3_omni_moe": {
        "talker_config": {"spatial_merge_size": 2, "text_config": {"shared_expert_intermediate_size": 32}},
        "code2wav_config": {"decoder_dim": 64, "codebook_size": 64},
    },
    "vipllava": {"vision_feature_layers": [-2, -1]},
    "unlimited_ocr": {"vision_config": {"sam_config": _SAM}},
}  # fmt: skip

for _name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker",
              "glm4v", "glm46v", "glm_ocr", "glmga", "paddleocr_vl", "qwen3_5", "qwen3_5_moe"):  # fmt: skip
    CONFIGS[_name] = _MROPE
CONFIGS["glm4v_moe"] = {"text_config": {"rope_parameters": {"mrope_section": [2, 1, 1]}}}
for _name in ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"):
    CONFIGS[_name] = {"vision_config": {"insert_layer_id": 0}, "insert_layer_id": 0}
for _name in ("gemma3", "shieldgemma2"):
    CONFIGS[_name] = {"mm_tokens_per_image": 4}
CONFIGS["t5gemma2"] = {"encoder": {"mm_tokens_per_image": 4}}
for _name in ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"):
    CONFIGS[_name] = {**_MROPE, "vision_start_token_id": 120}
CONFIGS["qwen2_5_omni"]["thinker_config"] = {**_MROPE, "vision_start_token_id": 120}
CONFIGS["qwen3_omni_moe"]["thinker_config"] = {**_MROPE, "vision_start_token_id": 120}

# Model type -> the class that owners save with, where the mapping has another.
SAVED_AS = {"shieldgemma2": "ShieldGemma2ForImageClassification"}

# Model type -> the image processor's class, where transformers' mapping has none or several would do.
PROCESSORS = {
    "diffusion_gemma": "Gemma4ImageProcessorPil",
    "fast_vlm": "CLIPImageProcessorPil",
    "glm4v_moe": "Glm4vImageProcessorPil",
    "glm_ocr": "Glm46VImageProcessorPil",
    "instructblipvideo": "BlipImageProcessorPil",
    "llava": "CLIPImageProcessorPil",
    "qwen2_5_omni_thinker": "Qwen2VLImageProcessorPil",
    "qwen3_omni_moe_thinker": "Qwen2VLImageProcessorPil",
    "qwen3_vl_moe": "Qwen2VLImageProcessorPil",
    "vision-encoder-decoder": "ViTImageProcessorPil",
}

# Model type -> settings of the image processor beyond the sizes of the config.
SETTINGS: dict[str, dict[str, Any]] = {
    "aria": {"max_image_size": 490},
    "deepseek_vl_hybrid": {"high_res_size": {"height": 64, "width": 64}},
    "diffusion_gemma": {"max_soft_tokens": 70},
    "dots3_note": {"temporal_patch_size": 1},
    "gemma4": {"max_soft_tokens": 70},
    "granite_docling": {"max_patches": 2},
    "inkling2": {"size": {"height": 40, "width": 40}},
    "kosmos-2.5": {"max_patches": 16},
    "llama4": {"max_patches": 2},
    "mllama": {"max_image_tiles": 2},
    "molmo2": {"max_crops": 2, "size": {"height": 168, "width": 168}},
    "muse_glimmer": {"max_image_tokens": 16},
    "muse_spark": {"max_image_tokens": 16},
    "nemotron_h_omni": {"min_num_patches": 16, "max_num_patches": 64},
    "perception_lm": {"tile_size": 64, "max_num_tiles": 4},
    "pix2struct": {"max_patches": 16},
    "step3p7": {"patch_size": 28, "max_image_size": 112},
    "unlimited_ocr": {"tile_size": 64, "max_patches": 4},
}
