#!/usr/bin/env bash
# Tell pre-training, pooling and score apart: one network, from the same weights with and without masked pre-training,
# pooled by CLS tokens or by the mean, pruned by the attention received or by the CLS token's attention.
#
#     scripts/contrast.sh train DATA RUNS      # it can be resumed
#     scripts/contrast.sh test DATA RUNS       # runs `audioprune analyze` for each arm
#
# DATA holds esc10/, fsdd/, commands/ and speech/. Environment: SEEDS, RATES of pruning, STARTS and FAMILIES (several
# processes can share the work), and WIDTH for a wider network (384 is the width of ViT-Small).
set -euo pipefail
job=$1 data=$2 runs=$3
here=$(dirname "$0") seeds=${SEEDS:-0,1,2} rates=${RATES:-0.5} starts=${STARTS:-untrained,pretrained}
families=${FAMILIES:-ast,ast-mp}
shape=()
if [ -n "${WIDTH:-}" ]; then
    range=$(python -c "print(0.9 * $WIDTH**-0.5)")
    shape=(--set config.hidden_size="$WIDTH" --set config.num_attention_heads=$((WIDTH / 64))
        --set config.intermediate_size=$((4 * WIDTH)) --set config.initializer_range="$range")
fi

prepare() {
    [ -f "$runs/sounds/manifest.csv" ] || python "$here/contrast_start.py" sounds "$data" "$runs/sounds"
    [ -f "$runs/untrained/config.json" ] || python "$here/contrast_start.py" untrained "$runs/untrained" "${shape[@]}"
    [[ $starts != *pretrained* ]] || pretrain
    for start in ${starts//,/ }; do
        [ -f "$runs/$start-ast/config.json" ] ||
            python "$here/contrast_start.py" ast "$runs/$start" "$runs/$start-ast"
    done
}

pretrain() {
    audioprune pretrain --recipe "$here/contrast/pretrain.yaml" --data "$runs/sounds" --data-name manifest \
        --init "$runs/untrained" "${shape[@]}" --out "$runs/pretrained"
}

train() {  # arguments: recipe, init, family, seed, out, further options
    local recipe=$1 init=$2 family=$3 seed=$4 out=$5
    shift 5
    audioprune train --recipe "$here/contrast/$recipe.yaml" --init "$init" --set family="$family" "${shape[@]}" \
        --data "$data/esc10" --data-name esc10 --fold 5 --seed "$seed" --out "$out" "$@"
}

train_all() {
    local seed start family score rate arm
    for seed in ${seeds//,/ }; do
        for start in ${starts//,/ }; do
            for family in ${families//,/ }; do
                arm=$runs/$start-$family/seed$seed
                train unpruned "$runs/$start-ast" $family "$seed" "$arm/unpruned"
                for score in attention cls; do
                    for rate in ${rates//,/ }; do
                        train pruned "$arm/unpruned" $family "$seed" "$arm/$score-$rate" \
                            --set method.score=$score --keep-rate "$rate"
                    done
                done
            done
        done
    done
}

test_all() {
    local seed start family score rate arm models
    for seed in ${seeds//,/ }; do
        for start in ${starts//,/ }; do
            for family in ${families//,/ }; do
                arm=$runs/$start-$family/seed$seed
                for score in attention cls; do
                    models=(--model "1.0=$arm/unpruned")
                    for rate in ${rates//,/ }; do models+=(--model "$rate=$arm/$score-$rate"); done
                    audioprune analyze "${models[@]}" --score $score --data "$data/esc10" --data-name esc10 --folds 5 \
                        --keep-rates "$rates" --out "$arm/analysis-$score"
                done
            done
        done
    done
}

case $job in
    train) prepare; train_all ;;
    test) test_all ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
