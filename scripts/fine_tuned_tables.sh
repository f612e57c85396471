#!/usr/bin/env bash
# Train and test the small models of docs/results.md's fine-tuned tables, from random weights.
#
#     scripts/fine_tuned_tables.sh train DATA RUNS     # about eight hours of one core; it can be resumed, and all
#                                                      # processes that run it share the work
#     scripts/fine_tuned_tables.sh test DATA RUNS      # on an idle machine, because it also measures time
#
# DATA holds esc10/ and fsdd/. RUNS gets a folder for each training, results/fine-tuned/ a JSON file for each model.
# Environment: FOLDS and SEEDS (of FSDD) take fewer than all, ESC10_SEEDS takes more than one, RESULTS is another folder
# for the JSON, and WIDTH trains wider models (384 is the width of ViT-Small).
set -euo pipefail
job=$1 data=$2 runs=$3
results=${RESULTS:-$(dirname "$0")/../results/fine-tuned}
seeds=${SEEDS:-12,34,56} folds=${FOLDS:-5,4,3,2,1} esc10_seeds=${ESC10_SEEDS:-0}
shape=()
if [ -n "${WIDTH:-}" ]; then
    range=$(python -c "print(0.9 * $WIDTH**-0.5)")
    shape=(--set config.hidden_size="$WIDTH" --set config.num_attention_heads=$((WIDTH / 64))
        --set config.intermediate_size=$((4 * WIDTH)) --set config.initializer_range="$range")
fi

train_esc10() {  # arguments: options that choose the folds
    local to=(--data "$data/esc10" --data-name esc10 --out "$runs/esc10" --seeds "$esc10_seeds" "${shape[@]}" "$@")
    audioprune sweep --no-wait -r esc10-audiomae-topk -r esc10-ast-topk -r esc10-ast-mp-topk "${to[@]}"
    # An unpruned model ranks nothing: the row of keep rate 1.0 is that of esc10-audiomae-topk.
    audioprune sweep --no-wait -r esc10-audiomae-cls "${to[@]}" --keep-rates 0.9,0.7,0.5
}

train_fsdd() {  # arguments: digits or speakers, seeds
    local to=(--data "$data/fsdd" --data-name "fsdd-$1" --out "$runs/fsdd-$1" --seeds "$2" "${shape[@]}")
    audioprune sweep --no-wait -r fsdd-audiomae-topk -r fsdd-ast-topk -r fsdd-ast-mp-topk "${to[@]}"
    audioprune sweep --no-wait -r fsdd-audiomae-cls "${to[@]}" --keep-rates 0.9,0.7,0.5
}

train() {
    # No process waits for another: each continues with the next sweep. A training that it could not take is taken by
    # the process that has just finished the training it starts from, or when this script is started again.
    # First come the models of checkpoints/. They do not hear two folds of ESC-10 and the test split of FSDD.
    audioprune sweep --no-wait -r esc10-audiomae -r esc10-ast --data "$data/esc10" --data-name esc10 --out "$runs/esc10" \
        --seeds "${esc10_seeds%%,*}" --folds 5 --hold-out 4 "${shape[@]}"
    audioprune sweep --no-wait -r fsdd-audiomae -r fsdd-ast --data "$data/fsdd" --data-name fsdd-digits \
        --out "$runs/fsdd-digits" --seeds "${seeds%%,*}" "${shape[@]}"
    train_esc10 --folds "${folds%%,*}"
    for seed in ${seeds//,/ }; do
        train_fsdd digits "$seed"
        train_fsdd speakers "$seed"
    done
    for fold in ${folds//,/ }; do
        train_esc10 --folds "$fold"
    done
}

test_one() {  # arguments: name of the JSON file, then those of audioprune eval
    local name=$1
    shift
    [ -f "$results/$name.json" ] || audioprune eval "$@" --out "$results/$name.json"
}

test_family() {  # arguments: data set (esc10, fsdd-digits, fsdd-speakers), recipe of the unpruned model, score, folds
    local set=$1 recipe=$2 score=$3 name=$4 prefix=${1%%-*}
    local where=(--data "$data/$prefix" --data-name "$set" --score "$score") which='seed{seed}'
    if [ "$set" = esc10 ]; then
        which='fold{fold}-seed{seed}'
        where+=(--folds "$folds" --seeds "$esc10_seeds")
    else
        where+=(--seeds "$seeds")
    fi
    local rates=1.0,0.9,0.7,0.5
    [ "$name" = "$prefix-audiomae-cls" ] && rates=0.9,0.7,0.5
    test_one "$set-$name" --model "$runs/$set/$name/$which-rate{rate}" "${where[@]}" --keep-rates $rates
    test_one "$set-$name-untuned" --model "$runs/$set/$recipe/$which" "${where[@]}" --bench-seconds 0
}

test_all() {
    local set prefix
    for set in esc10 fsdd-digits fsdd-speakers; do
        prefix=${set%%-*}
        test_family "$set" "$prefix-audiomae" attention "$prefix-audiomae-topk"
        test_family "$set" "$prefix-audiomae" cls "$prefix-audiomae-cls"
        test_family "$set" "$prefix-ast" cls "$prefix-ast-topk"
        test_family "$set" "$prefix-ast-mp" attention "$prefix-ast-mp-topk"
    done
}

case $job in
    train) train ;;
    test) test_all ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
