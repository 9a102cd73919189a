"""Options of tiny models that mix attention with layers that carry a state along the row."""

from typing import Any

_SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_SHAPE |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_EXACT = {"experts_implementation": "eager"}  # the default multiplies in no double precision
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
_MAMBA2 |= {"mamba_chunk_size": 16}

HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": _SHAPE
    | _LINEAR
    | _EXPERTS
    | _EXACT
    | {"layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 16},
    "falcon_h1": _SHAPE | _MAMBA2 | {"mamba_d_ssm": 64, "lm_head_multiplier": 0.4},
    "jamba": _SHAPE
    | _EXACT
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "expert_layer_period": 2}
    | {"expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_dt_rank": 4, "mamba_d_state": 8},
}
