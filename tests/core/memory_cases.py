"""Models to work out the memory of: the catalogue's, the twin of one that never was, and made up by the dozen."""

from __future__ import annotations

from hypothesis import strategies as st

from catalog import MODEL_CATALOG
from model_core.memory import KvType, MemoryProfile, profile_of
from model_core.records import GIB, Architecture

LLAMA_2_13B = Architecture(
    parameters=13_020_000_000,
    layers=40,
    embedding_length=5120,
    heads=40,
    kv_heads=40,
    key_length=128,
    value_length=128,
    feed_forward_length=13824,
    vocabulary=32_000,
)

NOT_IN_THE_CATALOGUE = {
    ("llama2:13b", "q4"): MemoryProfile(file_bytes=int(6.86 * GIB), architecture=LLAMA_2_13B, file_type="Q4_0"),
    ("llama2:13b", "q8"): MemoryProfile(file_bytes=int(12.88 * GIB), architecture=LLAMA_2_13B, file_type="Q8_0"),
}


def the_profile(name, quantization="q4"):
    if (name, quantization) in NOT_IN_THE_CATALOGUE:
        return NOT_IN_THE_CATALOGUE[name, quantization]
    entry = MODEL_CATALOG[name]
    return profile_of(entry, next(v for v in entry.variants if v.quantization == quantization))


sizes = st.integers(0, 200 * GIB)
architectures = st.builds(
    Architecture,
    parameters=st.just(1),
    layers=st.integers(1, 128),
    embedding_length=st.integers(64, 16384),
    heads=st.integers(1, 128),
    kv_heads=st.integers(1, 128),
    key_length=st.integers(1, 256),
    value_length=st.integers(1, 256),
    feed_forward_length=st.integers(1, 32768),
    vocabulary=st.integers(1, 300_000),
    tied_embeddings=st.booleans(),
    experts=st.sampled_from([0, 8]),
)
profiles = st.builds(
    MemoryProfile,
    file_bytes=sizes,
    architecture=st.none() | architectures,
    file_type=st.sampled_from([None, "Q4_K_M", "Q4_0", "Q8_0", "F16"]),
    context_limit=st.none() | st.integers(1, 1_000_000),
)
contexts = st.integers(1, 1_000_000)
kv_types = st.sampled_from(KvType)
