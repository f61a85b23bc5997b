"""Environment variables that would change results: none of them reaches a stage, so that a study is what its file says.

The package calls `settle` when it is first imported: before numpy and torch, which read many of them once, and in
Snakemake's own process too, whose jobs inherit its environment.
"""

import os
import sys
from collections.abc import MutableMapping
from fnmatch import fnmatchcase

PROCESSES = "PERSUASION_RL_PROCESSES"
"""Set by `runtime.leases` for a training by several processes: their rank variables are ours."""
RANKS = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_*",
)  # fmt: skip
"""Who a process is among several that train together."""
DROPPED = (
    *RANKS,
    # Other launchers' ranks, which accelerate and transformers heed.
    "PMI_*", "PMIX_*", "OMPI_COMM_WORLD_*", "MV2_COMM_WORLD_*", "MPI_LOCAL*", "TORCHCOMM_*", "SMDATAPARALLEL_*",
    "SM_FRAMEWORK_PARAMS", "SM_HP_MP_PARAMETERS",
    # Precision, accumulation, device, sharding, kernels and code from elsewhere; nothing here is compiled.
    "ACCELERATE_*", "FSDP_*", "PARALLELISM_CONFIG_*", "MEGATRON_LM_*", "XLA_*", "USE_TORCH_XLA", "PJRT_DEVICE",
    "FORK_LAUNCHED", "USE_HUB_KERNELS", "DISABLE_KERNEL_MAPPING", "TRUST_REMOTE_CODE", "TRANSFORMERS_SDPA_*",
    "TRANSFORMERS_DISABLE_*", "TRL_USE_*", "PEFT_*", "BNB_*", "BITSANDBYTES_*", "HF_DATASETS_IN_MEMORY_MAX_SIZE",
    "PYTORCH_JIT*", "TORCH_DISABLE_NATIVE_JIT", "TORCH_DISTRIBUTED_USE_TORCHCOMMS", "TRITON_INTERPRET",
    "TRITON_LIBDEVICE_PATH", "TORCH_DEVICE_BACKEND_AUTOLOAD", "TORCH_FORCE_*",
    # How numbers are computed: TF32, bfloat16 in float32's place, other kernels, orders of sums.
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32*", "TORCH_BLAS_*", "TORCH_LINALG_*", "TORCH_LINEAR_*",
    "TORCH_MKLDNN_*", "TRITON_F32_*", "TRITON_DEFAULT_*", "VLLM_ATTENTION_*", "VLLM_USE_*", "VLLM_FLOAT32_*", "TORCH_CUDNN_*",
    "PYTORCH_TUNABLEOP_*", "PYTORCH_DDP_*", "CUBLASLT_*", "CUDNN_*", "MKL_*", "DNNL_*", "ONEDNN_*", "NPY_*", "SCIPY_ARRAY_API",
    "KMP_DETERMINISTIC_REDUCTION", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_NESTED",
    "OMP_SCHEDULE",
    # Python's own: orders of sets, checks that are left out.
    "PYTHONHASHSEED", "PYTHONOPTIMIZE",
)  # fmt: skip
"""Names of variables, with * for any end, without those of `THREADS` and `RECORDED`."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS")  # fmt: skip
"""Numbers of threads, which Snakemake sets for each job by its --cores. Stages with a model set torch's own."""
RECORDED = (
    "CUBLAS_WORKSPACE_CONFIG", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "NCCL_ALGO", "NCCL_PROTO",
)  # fmt: skip
"""Variables that choose instructions, or the order of sums between GPUs, and with them the last digits. They are the user's to set,
so that two machines agree. They stand in the log of each stage, in recipe.json of each training, and on the report."""


def settle(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove the variables that change results, note each on standard error, and return their names.

    numpy's linear algebra gets one thread, without a note. Rank variables stay where this project's launcher set them.
    """
    ours = RANKS if PROCESSES in environment else ()
    dropped = [
        name
        for name in sorted(environment)
        if _is_one_of(name, DROPPED) and not _is_one_of(name, (*THREADS, *RECORDED, *ours))
    ]
    for name in dropped:
        value = environment.pop(name)
        print(
            f"{name}={value} is in the environment and would change results: it is not heeded",
            file=sys.stderr,
        )
    for name in THREADS:
        environment.pop(name, None)
    environment["OPENBLAS_NUM_THREADS"] = "1"
    return dropped


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def recorded() -> dict[str, str]:
    """Those of `RECORDED` that are set, with their values."""
    return {name: os.environ[name] for name in RECORDED if name in os.environ}
