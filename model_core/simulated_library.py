"""The library that the stand-in for Ollama pulls from: models as layers with digests and sizes, and no bytes behind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model_core import names
from model_core.go_dialect import go_json, human_number
from model_core.memory import tensor_bytes
from model_core.records import Architecture, CatalogEntry, Tensor, Variant

# Plain tags of Ollama's library and what they point to; llama3.2:1b is the 8-bit form, the others are 4-bit.
ALIASES: Mapping[str, str] = {
    "llama3.1:latest": "llama3.1:8b-instruct-q4_K_M",
    "llama3.1:8b": "llama3.1:8b-instruct-q4_K_M",
    "llama3.1:70b": "llama3.1:70b-instruct-q4_K_M",
    "llama3.2:latest": "llama3.2:3b-instruct-q4_K_M",
    "llama3.2:3b": "llama3.2:3b-instruct-q4_K_M",
    "llama3.2:1b": "llama3.2:1b-instruct-q8_0",
    "gemma3:4b": "gemma3:4b-it-q4_K_M",
    "llama3.2-vision:latest": "llama3.2-vision:11b-instruct-q4_K_M",
    "llama3.2-vision:11b": "llama3.2-vision:11b-instruct-q4_K_M",
    "qwen2.5vl:7b": "qwen2.5vl:7b-q4_K_M",
    "mixtral:latest": "mixtral:8x7b-instruct-v0.1-q4_0",
    "mixtral:8x7b": "mixtral:8x7b-instruct-v0.1-q4_0",
    "mixtral:instruct": "mixtral:8x7b-instruct-v0.1-q4_0",
}

# general.file_type of a GGUF file (llama.cpp, enum llama_ftype).
FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 12: "Q3_K_M",
    14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip

_TEMPLATE = (
    "{{ if .System }}<|start_header_id|>system<|end_header_id|>\n\n{{ .System }}<|eot_id|>{{ end }}"
    "<|start_header_id|>user<|end_header_id|>\n\n{{ .Prompt }}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{{ .Response }}"
)
_LICENSE = "A simulated copy of this model: the licence of the real one applies to the real one."
_QUANTIZATION = re.compile(r"(?:^|-)(q\d[0-9a-z_]*|fp16|bf16)$", re.IGNORECASE)


# The figures of a model where nobody knows better ones: small, so that what is computed from them stays small, too.
_TINY = Architecture(
    parameters=139_584, layers=2, embedding_length=64, heads=4, kv_heads=2, key_length=16, value_length=16,
    feed_forward_length=128, vocabulary=512,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a manifest.

    kind        what stands after application/vnd.ollama.image. in its media type; "config" for the configuration
    digest      sha256:<64 hex digits>
    size_bytes  what it is said to weigh
    text        what it says, for the layers that are text
    """

    kind: str
    digest: str
    size_bytes: int
    text: str | None = None

    @classmethod
    def of_text(cls, kind: str, text: str) -> Layer:
        """Return the layer that really holds this text: its digest and its size are true."""
        data = text.encode()
        return cls(kind, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), text)


@dataclass(frozen=True)
class LibraryModel:
    """A manifest: its layers, the configuration last, and what Ollama would read out of them.

    digest      64 hex digits of the manifest itself
    model_info  the keys of the GGUF file as /api/show gives them, lists included
    parent      for a model made from another one: the other's name
    tied        the output uses the token embedding, and the file has it once
    """

    layers: tuple[Layer, ...]
    digest: str
    parameter_size: str
    quantization: str
    model_info: Mapping[str, Any] = field(default_factory=dict)
    family: str = "llama"
    capabilities: tuple[str, ...] = ("completion",)
    parent: str = ""
    tied: bool = False

    @property
    def size_bytes(self) -> int:
        """What /api/tags says: all layers together."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def weights(self) -> Layer:
        """The GGUF file; a runner is known by its digest."""
        return next(layer for layer in self.layers if layer.kind == "model")

    def text(self, kind: str) -> str:
        """Return the text of the layers of a kind, joined by line ends; empty where there is none."""
        return "\n".join(layer.text for layer in self.layers if layer.kind == kind and layer.text is not None)

    @property
    def parameters(self) -> dict[str, Any]:
        """The options that the model itself brings, such as its stop words."""
        text = self.text("params")
        return dict(json.loads(text)) if text else {}

    def number(self, key: str, default: int = 0) -> int:
        """Return a number of model_info by the key without its architecture, such as "block_count"; of several the
        largest.
        """
        found = self.model_info.get(f"{self.family}.{key}")
        return int((max(found, default=0) if isinstance(found, list) else found) or default)


def make_model(
    name: str,
    *,
    size_bytes: int,
    parameter_size: str = "1.2B",
    quantization: str = "Q4_K_M",
    model_info: Mapping[str, Any] | None = None,
    capabilities: tuple[str, ...] = ("completion",),
    weights_bytes: int | None = None,
    digest_prefix: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    template: str = _TEMPLATE,
    license_text: str = _LICENSE,
    edition: int = 1,
    tied: bool = False,
) -> LibraryModel:
    """Return a model of that total size; the same arguments give the same digests.

    size_bytes     all layers together
    weights_bytes  the GGUF file alone; the licence then weighs what is left. None: all that is left
    digest_prefix  how the manifest's digest begins
    edition        another number gives other weights under the same name: the tag has moved
    """
    info = dict(model_info) if model_info is not None else _model_info(_TINY, quantization, 2048)
    small = [
        Layer.of_text("template", template),
        Layer.of_text("license", license_text),
        Layer.of_text("params", go_json(dict(parameters or {"stop": ["<|eot_id|>"]}))),
    ]
    weights_digest = f"sha256:{_hex('weights', name, edition)}"
    config = _config(parameter_size, quantization, [weights_digest, *(layer.digest for layer in small)])
    left = size_bytes - sum(layer.size_bytes for layer in (*small, config))
    if weights_bytes is not None and weights_bytes <= left:
        small[1] = replace(small[1], size_bytes=small[1].size_bytes + left - weights_bytes)
        left = weights_bytes
    layers = (Layer("model", weights_digest, max(left, 1)), *small, config)
    digest = (digest_prefix or "") + _hex("manifest", *(layer.digest for layer in layers))
    return LibraryModel(layers, digest[:64], parameter_size, quantization, info, "llama", capabilities, tied=tied)


def _config(parameter_size: str, quantization: str, digests: list[str]) -> Layer:
    described = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": parameter_size,
        "file_type": quantization,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": digests},
    }
    return Layer.of_text("config", go_json(described))


def _hex(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def library_from_catalog(catalog: Mapping[str, CatalogEntry]) -> dict[str, LibraryModel]:
    """Return every published variant of the catalogue under its tag, and the library's plain tags that point to one."""
    library = {
        variant.tag: _of_variant(entry, variant)
        for entry in catalog.values()
        if entry.published
        for variant in entry.variants
    }
    return library | {alias: library[tag] for alias, tag in ALIASES.items() if tag in library and alias not in library}


def _of_variant(entry: CatalogEntry, variant: Variant) -> LibraryModel:
    found = _QUANTIZATION.search(names.parse(variant.tag).tag)
    quantization = found[1].upper() if found else variant.quantization.upper()
    architecture = entry.architecture
    return make_model(
        variant.tag,
        size_bytes=variant.size_bytes,
        weights_bytes=variant.weights_bytes,
        parameter_size=human_number(architecture.parameters) if architecture else entry.size.upper(),
        quantization="F16" if quantization == "FP16" else quantization,
        model_info=_model_info(architecture or _TINY, quantization, entry.context_tokens),
        capabilities=entry.capabilities,
        digest_prefix=variant.digest_prefix,
        tied=bool(architecture and architecture.tied_embeddings),
    )


def _model_info(architecture: Architecture, quantization: str, context_tokens: int | None) -> dict[str, Any]:
    file_type = next((number for number, name in FILE_TYPES.items() if name == quantization), 1)
    info: dict[str, Any] = {
        "general.architecture": "llama",
        "general.file_type": file_type,
        "general.parameter_count": architecture.parameters,
        "general.quantization_version": 2,
        "llama.attention.head_count": architecture.heads,
        "llama.attention.head_count_kv": architecture.kv_heads,
        "llama.attention.key_length": architecture.key_length,
        "llama.attention.layer_norm_rms_epsilon": 0.00001,
        "llama.attention.value_length": architecture.value_length,
        "llama.block_count": architecture.layers,
        "llama.context_length": context_tokens or 4096,
        "llama.embedding_length": architecture.embedding_length,
        "llama.feed_forward_length": architecture.feed_forward_length,
        "llama.rope.dimension_count": architecture.key_length,
        "llama.vocab_size": architecture.vocabulary,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.scores": [0.0],
        "tokenizer.ggml.token_type": [1],
        "tokenizer.ggml.tokens": ["!"],
    }
    if architecture.experts:
        info |= {"llama.expert_count": architecture.experts, "llama.expert_used_count": architecture.experts_used}
    return info


def tensors(model: LibraryModel) -> list[dict[str, Any]]:
    """Return the list of tensors that /api/show adds, from the model's figures; long for a large model, as there."""
    width, hidden = model.number("embedding_length"), model.number("feed_forward_length")
    kv_width = model.number("attention.head_count_kv", 1) * model.number("attention.key_length", 16)
    wide = [
        (name, [width, model.number("vocab_size", 32000)])
        for name in ("token_embd", *([] if model.tied else ["output"]))
    ]
    block = [
        ("attn_q", [width, width]), ("attn_k", [width, kv_width]), ("attn_v", [width, kv_width]),
        ("attn_output", [width, width]),
        ("ffn_gate", [width, hidden]), ("ffn_up", [width, hidden]), ("ffn_down", [hidden, width]),
    ]  # fmt: skip
    kind = _storage(model)
    listed = [{"name": f"{name}.weight", "type": kind, "shape": shape} for name, shape in wide]
    listed.append({"name": "output_norm.weight", "type": "F32", "shape": [width]})
    for number in range(model.number("block_count")):
        norms = [
            {"name": f"blk.{number}.{norm}.weight", "type": "F32", "shape": [width]}
            for norm in ("attn_norm", "ffn_norm")
        ]
        listed += norms + [
            {"name": f"blk.{number}.{name}.weight", "type": kind, "shape": shape} for name, shape in block
        ]
    return listed


def _storage(model: LibraryModel) -> str:
    named = FILE_TYPES.get(int(model.model_info.get("general.file_type", 1)), "F16")
    return named.removesuffix("_M").removesuffix("_S")


def loaded_bytes(model: LibraryModel, context_tokens: int) -> int:
    """Return what Ollama counts of a loaded model: the weights, the KV cache in 16 bit, the buffers of a batch of 512.

    The token embedding stays in RAM, and is not counted, where the output has a tensor of its own.
    """
    key = model.number("attention.key_length") or model.number("embedding_length") // max(
        1, model.number("attention.head_count", 1)
    )
    value = model.number("attention.value_length") or key
    cache = (
        model.number("block_count") * context_tokens * model.number("attention.head_count_kv", 1) * (key + value) * 2
    )
    buffers = 4 * min(context_tokens, 512) * (model.number("embedding_length") + model.number("vocab_size", 32000))
    values = model.number("embedding_length") * model.number("vocab_size", 32000)
    embedding = 0 if model.tied else tensor_bytes(Tensor(storage=_storage(model), values=values)) or 0
    return max(0, model.weights.size_bytes - embedding) + cache + buffers


def bytes_on_card(model: LibraryModel, total_bytes: int, free_bytes: int) -> int:
    """Return how much of a loaded model lies on the card: all of it, or as many of its layers as there is room for."""
    if total_bytes <= free_bytes:
        return total_bytes
    layers = max(1, model.number("block_count", 1))
    return total_bytes // layers * max(0, min(layers, free_bytes * layers // total_bytes))


def made_from(base: LibraryModel, base_name: str, changes: Mapping[str, Any]) -> tuple[LibraryModel, list[str]]:
    """Return the model that /api/create makes from another one, and the digests of the layers that are new.

    changes  of the request: template, system, messages replace; parameters are merged; license is added
    """
    layers = [layer for layer in base.layers if layer.kind != "config"]
    new: list[Layer] = []

    def put(kind: str, text: str, *, instead: bool = True) -> None:
        nonlocal layers
        if instead:
            layers = [layer for layer in layers if layer.kind != kind]
        layers.append(Layer.of_text(kind, text))
        new.append(layers[-1])

    for kind in ("template", "system"):
        if changes.get(kind):
            put(kind, changes[kind])
    licenses = changes.get("license") or []
    for text in [licenses] if isinstance(licenses, str) else licenses:
        put("license", text, instead=False)
    if changes.get("parameters"):
        put("params", go_json(dict(sorted({**base.parameters, **changes["parameters"]}.items()))) + "\n")
    if changes.get("messages"):
        put("messages", go_json(changes["messages"]) + "\n")
    count = int(base.model_info.get("general.parameter_count") or 0)
    size = human_number(count) if count else base.parameter_size
    quantization = FILE_TYPES.get(int(base.model_info.get("general.file_type", -1)), base.quantization)
    config = _config(size, quantization, [layer.digest for layer in layers])
    digest = _hex("manifest", *(layer.digest for layer in (*layers, config)))
    made = replace(
        base, layers=(*layers, config), digest=digest, parameter_size=size, quantization=quantization, parent=base_name
    )
    return made, [layer.digest for layer in new]


def manifest_text(model: LibraryModel) -> bytes:
    """Return the manifest of a model as its registry would send it."""
    blobs = [
        {
            "mediaType": f"application/vnd.ollama.image.{layer.kind}",
            "digest": layer.digest,
            "size": layer.size_bytes,
        }
        for layer in model.layers
    ]
    config = {**blobs[-1], "mediaType": "application/vnd.docker.container.image.v1+json"}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": blobs[:-1]}).encode()
