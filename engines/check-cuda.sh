#!/usr/bin/env bash
# Type-checks lacuna-candle with CUDA on a machine that has neither a GPU nor CUDA: pinned nvcc wheels, `cargo check`.
# A link would need libcuda, cublas and curand, which the wheels do not have; nothing is run. `check-cuda.sh clippy` lints too.
#
# Here, on two cores (2026-11-26): the wheels 15 s and 271 MB; candle's kernels and what is built on them 150 s of processor time, beside
# much else 15 minutes; again, with nothing but this crate changed, seconds. What is downloaded and built stays in target/check-cuda (0.9 GB).
set -euo pipefail
cd "$(dirname "$0")"

target="${CARGO_TARGET_DIR:-$PWD/target}/check-cuda"
wheels="$target/wheels"
# The wheels do not pin each other: without all five of one release, headers are missing or of another.
pinned="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.88 nvidia-cuda-cccl==13.0.85"
if [ "$(cat "$wheels/pinned" 2>/dev/null)" != "$pinned" ]; then
  rm -rf "$wheels"
  # shellcheck disable=SC2086 # five words
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$wheels" $pinned
  echo "$pinned" >"$wheels/pinned"
fi

export CUDA_HOME="$wheels/nvidia/cu13"
export CUDA_PATH="$CUDA_HOME" CUDA_ROOT="$CUDA_HOME" CUDA_TOOLKIT_ROOT_DIR="$CUDA_HOME"
export PATH="$CUDA_HOME/bin:$PATH"
# What candle's kernels are compiled for, in place of what nvidia-smi says.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
# Nothing of candle's kernels is run, or linked: they need not be fast, and this halves the minutes.
export NVCC_APPEND_FLAGS="-Xcicc -O0 -Xptxas -O0"
# cudarc takes the version of its bindings from nvcc, unless this is set.
unset CUDARC_CUDA_VERSION
export CARGO_TARGET_DIR="$target"

if [ "${1:-check}" = clippy ]; then
  cargo clippy --locked -p lacuna-candle --features cuda --all-targets -- -D warnings
else
  cargo check --locked -p lacuna-candle --features cuda --all-targets
fi
