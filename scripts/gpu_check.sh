#!/usr/bin/env bash
# Everything that needs a GPU, in one command: the tests marked gpu, then the GPU benchmarks: mixers, training on a packed set.
# use: scripts/gpu_check.sh IMAGE_FOLDER OUT      IMAGE_FOLDER: root/class/image.jpg, packed at shorter side 256 into OUT
# PYTHON names the interpreter (default: python).
set -euo pipefail
cd "$(dirname "$0")/.."
images=${1:?use: gpu_check.sh IMAGE_FOLDER OUT} out=${2:?use: gpu_check.sh IMAGE_FOLDER OUT}
python=${PYTHON:-python}
mkdir -p "$out"
"$python" -m pytest -m gpu -q 2>&1 | tee "$out/test_gpu.log"
for layout in "" --channels-last; do
    # shellcheck disable=SC2086  # nothing, or one option
    "$python" benchmarks/mixers.py --device cuda $layout --out "$out/mixers$layout.json" 2>&1 | tee "$out/mixers$layout.log"
done
"$python" tools/make_rec.py imagefolder --root "$images" --split train --resize 256 --force --out "$out/sample"
"$python" benchmarks/gpu_train.py "$out/sample" --out "$out/gpu_train.json" 2>&1 | tee "$out/gpu_train.log"
