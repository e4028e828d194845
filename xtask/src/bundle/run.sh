#!/usr/bin/env bash
# Checks or measures lacuna's kernels on this machine's GPU. It needs a driver, and tar with xz, or
# python3, to unpack what it runs: compute-sanitizer, nvcc and the peers' wheels are taken where they are,
# and left out by name where not.
set -uo pipefail

usage="usage: ./run --check|--bench [--only ROOM] [--out FOLDER] [--seconds N]

--check    every test on the GPU, bits of graph replays, of 20 runs, of other grids and batches, and
           each kernel once under compute-sanitizer's four tools
--bench    times beside a copy of the same bytes and beside peers: the published DFloat11 kernel (the
           wheel dfloat11, or LACUNA_DFLOAT11_PTX=decode.ptx) and nvCOMP's ANS (the wheel
           nvidia-libnvcomp-cu12 or -cu13, or LACUNA_NVCOMP=libnvcomp.so.6), torch.topk, torch's SDPA and
           FlashInfer's top_k and paged decode (the wheels torch and flashinfer-python, measured by
           peers/topk.py, peers/attention.py and peers/linear.py in processes of their own),
           CUB's top-k (peers/cub_topk.cu, compiled by nvcc, or LACUNA_NVCC=nvcc, against the headers of
           the wheel nvidia-cuda-cccl, or LACUNA_CCCL=include, or the toolkit's: from CUDA 13.2 on they
           have it)
--only     one room: @room_names@
--out      where results go, as JSON and logs; else results/ beside this script
--seconds  in all, 460 unless said; what does not fit is left out by name

exit status: 0 all well, 1 something failed, 2 wrong arguments, 3 no GPU"
rooms=(@rooms@)
house_tests=(@house_tests@)

here=$(cd "$(dirname "$0")" && pwd)
mode="" only="" out="$here/results" seconds=460
while [ $# -gt 0 ]; do
  case "$1" in
    --check | --bench) mode="${1#--}" ;;
    --only | --out | --seconds)
      [ $# -gt 1 ] || { echo "$1 what?" >&2; exit 2; }
      case "$1" in
        --only) only="$2" ;;
        --out) out="$2" ;;
        --seconds) seconds="$2" ;;
      esac
      shift
      ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
  shift
done
[ -n "$mode" ] || { echo "$usage" >&2; exit 2; }
[[ "$seconds" =~ ^[0-9]+$ ]] || { echo "--seconds $seconds: a number" >&2; exit 2; }
if [ -n "$only" ]; then
  [[ " ${rooms[*]} " == *" $only "* ]] || { echo "no room $only: ${rooms[*]}" >&2; exit 2; }
  rooms=("$only")
  house_tests=()
fi
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)

# Anew each time, so that no older bundle's programs run; elsewhere where this folder is not written to.
unpacked=$(mktemp -d "$here/unpacked.XXXXXX" 2>/dev/null || mktemp -d) || exit 1
trap 'rm -rf "$unpacked"' EXIT
tar -xJf "$here/@archive@" -C "$unpacked" || python3 -m tarfile -e "$here/@archive@" "$unpacked" || {
  echo "@archive@ cannot be unpacked into $unpacked: that takes tar and xz, or python3" >&2
  exit 1
}
programs="$unpacked/programs"

export LACUNA_REQUIRE_GPU=1 LACUNA_DATA="$unpacked/data" LACUNA_COMMIT="@commit@"
"$programs/lacuna" doctor --json >"$out/doctor.json" 2>"$out/doctor.log"
"$programs/lacuna" doctor --require-gpu
status=$?
if [ "$status" -eq 3 ]; then
  echo "no GPU that runs lacuna's kernels; nothing was run"
  exit 3
elif [ "$status" -ne 0 ]; then
  echo "lacuna itself does not start here (exit status $status); it was built for @glibc@ or newer" >&2
  exit 1
fi

# A toolkit's programs are not always on the path.
for program in compute-sanitizer nvcc; do
  command -v "$program" >/dev/null && continue
  for folder in "${CUDA_HOME:-/usr/local/cuda}/bin" /usr/local/cuda/bin /usr/local/cuda/compute-sanitizer; do
    [ -x "$folder/$program" ] && PATH="$PATH:$folder" && break
  done
done

# Where Python has installed a peer's file.
find_peer() {
  command -v python3 >/dev/null && python3 - "$1" 2>/dev/null <<'PYTHON'
import glob, os, sys
for folder in sys.path:
    found = sorted(glob.glob(os.path.join(folder or ".", sys.argv[1])))
    if found:
        print(os.path.realpath(found[0]))
        break
PYTHON
}
if [ "$mode" = bench ]; then
  export LACUNA_DFLOAT11_PTX="${LACUNA_DFLOAT11_PTX-$(find_peer dfloat11/decode.ptx)}"
  export LACUNA_TOPK_PEERS="${LACUNA_TOPK_PEERS-$unpacked/peers/topk.py}"
  cub=$(find_peer nvidia/cu13/include/cccl/cub/device/device_topk.cuh)
  export LACUNA_CCCL="${LACUNA_CCCL-${cub%/cub/device/device_topk.cuh}}"
  export LACUNA_ATTENTION_PEERS="${LACUNA_ATTENTION_PEERS-$unpacked/peers/attention.py}"
  export LACUNA_LINEAR_PEERS="${LACUNA_LINEAR_PEERS-$unpacked/peers/linear.py}"
  export LACUNA_NVCOMP="${LACUNA_NVCOMP-$(find_peer 'nvidia/libnvcomp/lib64/libnvcomp.so.6')}"
fi

parts=() n_failed=0 n_left_out=0
end=$((SECONDS + seconds))
mode_is_bench=0
[ "$mode" = bench ] && mode_is_bench=1

# part NAME COMMAND...: runs it in what time is left; its words go to a log, and to the screen.
part() {
  local name="$1" start="$SECONDS" left=$((end - SECONDS)) result why=""
  shift
  if [ "$left" -le 0 ]; then
    result="left out" why="the time was over"
    n_left_out=$((n_left_out + 1))
  else
    printf '\n== %s\n' "$name"
    timeout -k 5 "$left" "$@" 2>&1 | tee "$out/$name.log"
    local code="${PIPESTATUS[0]}"
    case "$code" in
      0) result="pass" ;;
      124 | 137) result="left out" why="stopped when the time was over" ;;
      77) result="left out" why="it says that it has no device" ;;
      *) result="fail" why="exit status $code: see $name.log" ;;
    esac
    [ "$result" = "left out" ] && n_left_out=$((n_left_out + 1))
    [ "$result" = fail ] && n_failed=$((n_failed + 1))
  fi
  parts+=("{\"part\": \"$name\", \"result\": \"$result\", \"why\": \"$why\", \"seconds\": $((SECONDS - start))}")
}

n_left=${#rooms[@]}
for room in "${rooms[@]}"; do
  # Measurements stop by themselves a little before they would be stopped, and leave the rooms after them as much
  # time as they had.
  share=$(((end - SECONDS) / (mode_is_bench ? n_left : 1)))
  part "$room-$mode" "$programs/bench-$room" kernels "$mode" \
    --json "$out/$room-$mode.json" --until $((share > 30 ? share - 20 : 1))
  n_left=$((n_left - 1))
done
if [ "$mode" = bench ] && [[ " ${rooms[*]} " == *" huffman "* ]]; then
  cublas=$(find_peer nvidia/cublas/lib/libcublas.so.1?)
  cublas=${cublas:-$(find_peer nvidia/cu13/lib/libcublas.so.1?)}
  for model in ${LACUNA_MODELS-Llama-3.1-8B Qwen3-32B}; do
    part "model-$(basename "$model")" env \
      LD_LIBRARY_PATH="$(dirname "${cublas:-/none/none}")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
      "$programs/lacuna" bench "$model"
  done
fi
if [ "$mode" = check ]; then
  for test in "${rooms[@]}" "${house_tests[@]}"; do
    part "$test-tests" "$programs/test-$test"
  done
  # Beside the CUDA runtime, by the C interface.
  for program in "$programs"/cuda_*; do
    [ -z "$only" ] || [ "$only" = huffman ] || continue
    part "$(basename "$program")" "$program" "$LACUNA_DATA/df11/minilm-layer0.df11.safetensors"
  done
fi

{
  printf '{\n  "mode": "%s",\n  "commit": "@commit@",\n  "parts": [\n' "$mode"
  for ((i = 0; i < ${#parts[@]}; i++)); do
    comma=","
    [ $((i + 1)) -eq ${#parts[@]} ] && comma=""
    printf '    %s%s\n' "${parts[i]}" "$comma"
  done
  printf '  ]\n}\n'
} >"$out/summary-$mode.json"
printf '\n'
printf '%s\n' "${parts[@]}"
echo "$n_failed failed, $n_left_out left out; results are in $out"
[ "$n_failed" -eq 0 ]
