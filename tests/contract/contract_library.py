"""The models that the recorded scenes speak of, as the simulator's library: their sizes, texts and figures."""

from __future__ import annotations

from dataclasses import replace

from model_core.simulated_library import LibraryModel, make_model

TEMPLATE = (
    "{{ if .System }}<|start_header_id|>system<|end_header_id|>\n\n{{ .System }}<|eot_id|>{{ end }}"
    "{{ .Prompt }}{{ .Response }}"
)
LICENSE = "LLAMA 3 COMMUNITY LICENSE AGREEMENT"

# name: (all layers, of the recorded model), parameter size, quantization
MODELS = {
    "llama3.1:8b-instruct-q4_K_M": (248_349_742, "8.0B", "Q4_K_M"),
    "llama3.2:latest": (15_478_990, "3.2B", "Q4_K_M"),
    "llama3.2:3b-instruct-q4_K_M": (369_038, "3.2B", "Q4_K_M"),
    "llama3.2:1b-instruct-q4_K_M": (294_254, "1.2B", "Q4_K_M"),
    "llama3.2:1b-instruct-q8_0": (294_254, "1.2B", "Q8_0"),
}

_MODEL_INFO = {
    "general.architecture": "llama",
    "general.file_type": 1,
    "general.parameter_count": 139_584,
    "general.quantization_version": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 0.00001,
    "llama.block_count": 2,
    "llama.context_length": 2048,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.rope.dimension_count": 16,
    "llama.vocab_size": 512,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.scores": [0.0],
    "tokenizer.ggml.token_type": [2],
    "tokenizer.ggml.tokens": ["<unk>"],
    "tokenizer.ggml.unknown_token_id": 0,
}


def recorded_model(name: str, *, edition: int = 1, license_text: str = LICENSE) -> LibraryModel:
    """Return one of MODELS; another edition has other weights."""
    size_bytes, parameter_size, quantization = MODELS[name]
    return make_model(
        name,
        size_bytes=size_bytes,
        parameter_size=parameter_size,
        quantization=quantization,
        model_info=_MODEL_INFO,
        template=TEMPLATE,
        license_text=license_text,
        edition=edition,
    )


def recorded_library() -> dict[str, LibraryModel]:
    """Return MODELS by their names."""
    return {name: recorded_model(name) for name in MODELS}


def embedding_model() -> LibraryModel:
    """Return a model that embeds and does not write."""
    return replace(recorded_model("llama3.2:1b-instruct-q8_0"), capabilities=("embedding",))
