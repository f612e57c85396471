#!/usr/bin/env bash
# Fine-tune checkpoints/*-esc10 with every trainable method at 0.5, and all four checkpoints with the recommended method
# at a quarter of the multiply-accumulates. Then compare all methods on ESC-10's fold 5 and FSDD's test split.
#
#     scripts/method_tables.sh train DATA RUNS       # about an hour of one core; it can be resumed and shared
#     scripts/method_tables.sh compare DATA RUNS     # on an idle machine, because it also measures time
#
# DATA holds esc10/ and fsdd/. RUNS gets a folder for each training, results/ the JSON files, docs/ the pictures. Give
# DATA and RUNS relative to the project's folder: compare runs there.
set -euo pipefail
job=$1 data=$2 runs=$3
here=$(cd "$(dirname "$0")/.." && pwd)
models="audiomae-esc10 ast-esc10 audiomae-fsdd-digits ast-fsdd-digits"
rate=0.5

# Name → method. TopK ranks by the score that the paper uses for the model: attention received or CLS attention.
methods() {
    case $1 in
        audiomae*) echo "topk={method: TopK, keep_rate: $rate}" ;;
        *) echo "topk={method: TopK, keep_rate: $rate, score: cls}" ;;
    esac
    cat <<EOF
evit={method: EViT, keep_rate: $rate}
metr={method: METR, keep_rate: $rate}
ats={method: ATS, keep_rate: $rate}
dynamicvit={method: DynamicViT, keep_rate: $rate}
spvit={method: SPViT, keep_rate: $rate}
avit={method: AViT, keep_rate: $rate}
fastast={method: FastAST, keep_rate: $rate}
segments-merged={method: SegmentwiseTopK, keep_rate: $rate, dropped: merge}
EOF
}

# Print the recommended method at a quarter of a model's multiply-accumulates, as JSON. It gives a keep rate for each
# block, so that `compare` runs it only at this rate.
quarter_of() {
    python - "$here/checkpoints/$1" 2> /dev/null <<'PY'
import json, sys
import audioprune as ap
from audioprune.core.settings import describe
model = ap.load(sys.argv[1])
method = ap.recommended(model, macs=0.25)
print(json.dumps(describe(method.with_keep_rate([method.keep_rate] * model.config.num_hidden_layers))))
PY
}

clips_of() {  # options for a model's data and its test clips, for train or for compare
    case $1-$2 in
        *-esc10-train) echo --data "$data/esc10" --data-name esc10 --fold 5 --hold-out 4 ;;
        *-esc10-compare) echo --data "$data/esc10" --data-name esc10 --folds 5 ;;
        *) echo --data "$data/fsdd" --data-name fsdd-digits ;;
    esac
}

fine_tune() {  # arguments: model, name, method
    local out="$runs/$1/$2" family=${1%%-*} set=${1#*-}
    mkdir -p "$out"
    [ -f "$out/result.json" ] && return
    # If another process has taken this training, continue with the next.
    (
        flock -n 9 || exit 0
        # shellcheck disable=SC2046
        audioprune train -r "${set%%-*}-$family-topk" $(clips_of "$1" train) --init "$here/checkpoints/$1" \
            --set "method=$3" --out "$out"
    ) 9> "$out/.taken" < /dev/null
}

train() {
    for model in audiomae-esc10 ast-esc10; do
        methods "$model" | while IFS='=' read -r name method; do
            fine_tune "$model" "$name" "$method"
        done
    done
    for model in $models; do
        fine_tune "$model" recommended-quarter "$(quarter_of "$model")"
    done
}

compare() {
    cd "$here"
    for model in $models; do
        mkdir -p "$runs/$model"
        quarter_of "$model" > "$runs/$model/recommended-quarter.json"
        tuned=()
        for folder in "$runs/$model"/*/; do
            [ -f "$folder/result.json" ] && tuned+=(--fine-tuned "$(basename "$folder")=${folder%/}")
        done
        # shellcheck disable=SC2046
        audioprune compare --model "checkpoints/$model" $(clips_of "$model" compare) --keep-rates 0.9,0.7,0.5 \
            --methods "all,$runs/$model/recommended-quarter.json" "${tuned[@]}" --batch-size 1,16 \
            --out "results/compare-$model.json" --picture "docs/compare-$model.png"
    done
}

case $job in
    train) train ;;
    compare) compare ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
