#!/usr/bin/env bash
# Fine-tune checkpoints/*-esc10 with every trainable method at 0.5, and all four checkpoints with the recommended one at
# a quarter of the multiply-accumulates; then compare all methods on ESC-10's fold 5 and FSDD's test split.
#
#     scripts/method_tables.sh train DATA RUNS       # about an hour of one core; resumable, shared by as many as run it
#     scripts/method_tables.sh compare DATA RUNS     # on an idle machine: it also times
#
# DATA holds esc10/ and fsdd/. RUNS gets a folder for each training, results/ the JSON files, docs/ the pictures: give
# both relative to the project's folder, from which compare runs.
set -euo pipefail
job=$1 data=$2 runs=$3
here=$(cd "$(dirname "$0")/.." && pwd)
models="audiomae-esc10 ast-esc10"
rate=0.5

# Name → method. Where CLS attention or attention received can rank, it is the model's own of the paper.
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

train() {
    for model in $models; do
        recipe="${model%-esc10}"
        methods "$model" | while IFS='=' read -r name method; do
            out="$runs/$model/$name"
            mkdir -p "$out"
            [ -f "$out/result.json" ] && continue
            # Taken by another process: go on to the next.
            (
                flock -n 9 || exit 0
                audioprune train -r "esc10-$recipe-topk" --data "$data/esc10" --data-name esc10 --fold 5 --hold-out 4 \
                    --init "$here/checkpoints/$model" --set "method=$method" --out "$out"
            ) 9> "$out/.taken" < /dev/null
        done
    done
}

# A quarter of the multiply-accumulates, by what is recommended.
quarter() {
    for model in audiomae-esc10 ast-esc10 audiomae-fsdd-digits ast-fsdd-digits; do
        out="$runs/$model/recommended-quarter"
        mkdir -p "$out"
        [ -f "$out/result.json" ] && continue
        method=$(python -c "
import sys, json, audioprune as ap
from audioprune.pruning import describe
print(json.dumps(describe(ap.recommended(ap.load(sys.argv[1]), macs=0.25))))" "$here/checkpoints/$model" 2> /dev/null)
        case $model in
            *-esc10) where=(-r "esc10-${model%-esc10}-topk" --data "$data/esc10" --data-name esc10 --fold 5 --hold-out 4) ;;
            *) where=(-r "fsdd-${model%-fsdd-digits}-topk" --data "$data/fsdd" --data-name fsdd-digits) ;;
        esac
        (
            flock -n 9 || exit 0
            audioprune train "${where[@]}" --init "$here/checkpoints/$model" --set "method=$method" --out "$out"
        ) 9> "$out/.taken" < /dev/null
    done
}

compare() {
    cd "$here"
    for model in audiomae-esc10 ast-esc10 audiomae-fsdd-digits ast-fsdd-digits; do
        case $model in
            *-esc10) where=(--data "$data/esc10" --data-name esc10 --folds 5) ;;
            *) where=(--data "$data/fsdd" --data-name fsdd-digits) ;;
        esac
        tuned=()
        for folder in "$runs/$model"/*/; do
            [ -f "$folder/result.json" ] && tuned+=(--fine-tuned "$(basename "$folder")=${folder%/}")
        done
        audioprune compare --model "checkpoints/$model" "${where[@]}" \
            --keep-rates 0.9,0.7,0.5 "${tuned[@]}" --out "results/compare-$model.json" \
            --picture "docs/compare-$model.png"
    done
}

case $job in
    train) train && quarter ;;
    compare) compare ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
