"""Configuration of the vLLM engine: the model, and how much of the machine it may use."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

OWN_ENGINE_ARGS = frozenset(
    {
        "model",
        "tokenizer",
        "revision",
        "dtype",
        "load_format",
        "max_model_len",
        "max_num_seqs",
        "tensor_parallel_size",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "enforce_eager",
        "seed",
    }
)
"""vLLM's engine arguments that have a field of their own here, and are refused in `engine_args`."""


class VllmEngineConfig(BaseModel):
    """One model in vLLM. What is left out is vLLM's own default, unless the field says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    kind: Literal["vllm"] = "vllm"
    """Chooses this engine."""
    model: str = Field(min_length=1)
    """Hugging Face id, or path of a local model folder; with a folder nothing is looked up on the Hub."""
    tokenizer: str | None = None
    """Tokenizer's id or folder; None takes the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; None is the default branch."""
    chat_template: str | None = None
    """Jinja chat template in place of the tokenizer's own; None keeps that one."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] | None = None
    """Number type of weights and activations. None is float32 on the CPU, where bfloat16 of small models answers
    nonsense, and the checkpoint's own type elsewhere."""
    load_format: str = "auto"
    """How weights are read. `dummy` draws random ones, for load tests: the folder then needs no weights."""
    max_model_len: int | None = Field(default=None, ge=2)
    """Context window in tokens: prompt and output together; None is the model's own, which may need much memory."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Sequences in the running batch; more wait. A request with n choices has n sequences."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share each layer; the replica's `ray_actor_options` must ask for as many."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Fraction of the GPU's memory for weights, activations and KV cache. Unused on the CPU."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Memory of the KV cache in GiB. None is what is left of the GPU's share; on the CPU it is 1, since vLLM would
    otherwise take most of the machine's memory."""
    cpu_threads: int | None = Field(default=None, ge=1)
    """Threads that compute on the CPU. None is one for each core of the machine but the last, which is left to the
    router and to the replica itself. Ray's `num_cpus` does not count here: it reserves, and limits no thread."""
    enforce_eager: bool | None = None
    """True runs the model without compiling it. None is true on the CPU, where compiling needs a C++ compiler and
    makes the start a minute longer, and false elsewhere, where it makes tokens cheaper."""
    seed: int = 0
    """Seed of sampling for requests that bring none."""

    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables set before vLLM is imported, such as `VLLM_LOGGING_LEVEL`; they override what the
    engine sets itself."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further fields of vLLM's `AsyncEngineArgs` by name, such as `quantization`; unknown ones fail the start."""

    @model_validator(mode="after")
    def _engine_args_repeat_no_field(self) -> Self:
        repeated = sorted(OWN_ENGINE_ARGS & self.engine_args.keys())
        if repeated:
            raise ValueError(
                f"engine_args must not hold {', '.join(repeated)}: set the field of that name beside engine_args "
                "(kv_cache_memory_bytes is kv_cache_gib)"
            )
        return self
