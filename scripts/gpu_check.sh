#!/usr/bin/env bash
# Run everything that needs a GPU: the tests marked gpu, then the benchmarks of mixers and of training on a packed set.
# usage: scripts/gpu_check.sh OUT [IMAGE_FOLDER] [PART ...]
#   OUT           folder for logs, JSON and summary.txt (a few small files)
#   IMAGE_FOLDER  images for part train as IMAGE_FOLDER/class/image.jpg, packed with a shorter side of 256; without it,
#                 train is skipped
#   PART          tests, mixers, mixers_channels_last, train (default: all four). Each part is stopped after
#                 LIMIT seconds (540), so that it fits into a job of ten minutes.
# If a part fails, the next one still runs; the exit status is 1 if any part failed. PYTHON is the interpreter (default:
# python). If dali_mix is not installed, this checkout is installed first, without its dependencies.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
out=${1:?usage: gpu_check.sh OUT [IMAGE_FOLDER] [PART ...]} images=""
shift
if [[ -d ${1:-} ]]; then images=$1 && shift; fi
python=${PYTHON:-python} limit=${LIMIT:-540} failed=0
mkdir -p "$out"
if ! "$python" -c "import dali_mix.pipelines" 2>"$out/install.log"; then
    "$python" -m pip install -q --no-index --no-deps --no-build-isolation -e . >>"$out/install.log" 2>&1
    "$python" -c "import dali_mix.pipelines" || { echo "cannot import dali_mix; see $out/install.log"; exit 1; }
fi

part() { # NAME COMMAND ...: run the command with a log and a line in the summary
    local name=$1 started=$SECONDS
    shift
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.log"
    local status=${PIPESTATUS[0]}
    ((status)) && failed=1
    echo "$name: exit $status after $((SECONDS - started)) s" | tee -a "$out/summary.txt"
    return "$status"
}

train() { # packs into a temporary folder, so that OUT stays small
    local set
    set=$(mktemp -d)/sample
    "$python" tools/make_rec.py imagefolder --root "$images" --split train --resize 256 --out "$set" &&
        "$python" benchmarks/gpu_train.py "$set" --out "$out/gpu_train.json"
    local status=$?
    rm -rf "$(dirname "$set")"
    return "$status"
}
export -f train
export python out images

for name in "${@:-tests mixers mixers_channels_last train}"; do
    for each in $name; do
        case $each in
        tests) part tests "$python" -m pytest -m gpu -q -ra ;;
        mixers) part mixers "$python" benchmarks/mixers.py --device cuda --out "$out/mixers.json" ;;
        mixers_channels_last)
            part "$each" "$python" benchmarks/mixers.py --device cuda --channels-last --out "$out/$each.json"
            ;;
        train)
            if [[ -n $images ]]; then part train bash -c train; else echo "train: no IMAGE_FOLDER, skipped" | tee -a "$out/summary.txt"; fi
            ;;
        *) echo "unknown part: $each" >&2 && failed=1 ;;
        esac
    done
done
rm -f "$out/install.log"
exit "$failed"
