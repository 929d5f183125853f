#!/usr/bin/env bash
# Pack real images, train with ResizeMix, evaluate and draw pictures.
# usage: scripts/quickstart.sh [digits|cifar10]      (needs `dali-mix` on the PATH; `make quickstart` ensures that)
set -euo pipefail
cd "$(dirname "$0")/.."

dataset=${1:-digits}
out=quickstart/$dataset
case $dataset in
digits)  # 1,797 scans of handwritten digits that come with scikit-learn: nothing is downloaded
    recipe=quickstart
    source=()
    next="make quickstart DATASET=cifar10" ;;
cifar10)  # downloads 170 MB
    recipe=quickstart_cifar10
    source=(--root data/cifar10 --download)
    next="dali-mix recipes" ;;
*)
    echo "quickstart: unknown DATASET '$dataset'; choose digits or cifar10" >&2
    exit 2 ;;
esac

step() { printf '\n\033[1m%s\033[0m\n' "$*"; "$@"; }

rm -rf "$out"
mkdir -p "$out"
for split in train val; do
    step dali-mix pack "$dataset" "${source[@]}" --split $split --out "$out/$split"
done
sets=(train_set="$out/train" val_set="$out/val")
step dali-mix gallery "$out/train" --mixers resizemix,cutmix,mixup,cutout --out "$out/gallery.png"
step dali-mix train $recipe --work-dir "$out/run" --cfg-options "${sets[@]}"
step dali-mix evaluate $recipe "$out/run/checkpoints/best.pt" --json "$out/metrics.json" --cfg-options "${sets[@]}"
step dali-mix curves "$out/run" --out "$out/curves.png"

cat <<END

Done. Look at
  $out/metrics.json   the result: $(python -c 'import json, sys; print("top-1 {top1:.2f}%".format(**json.load(open(sys.argv[1]))))' "$out/metrics.json")
  $out/curves.png     learning curves
  $out/gallery.png    what the mixers do to the training images
  $out/run/           log, metrics and checkpoints of the run

Next
  $next

Your own photos, with a subfolder per class in photos/train and photos/val: docs/quickstart.md, or
  source .venv/bin/activate
  dali-mix pack imagefolder --root photos/train --split train --out data/photos_train
  dali-mix pack imagefolder --root photos/val --split val --out data/photos_val
  dali-mix train imagenet/photos_resnet18 --work-dir work_dirs/photos
END
