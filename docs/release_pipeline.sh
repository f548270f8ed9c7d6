#!/usr/bin/env bash
# Unlearn, evaluate, attack, report: the evidence for one release, and a status that a pipeline can act on.
#
#   docs/release_pipeline.sh MODEL RECORDS OUT
#
# MODEL    the checkpoint directory
# RECORDS  a directory: forget.jsonl and retain.jsonl are trained on, forget_heldout.jsonl and retain_heldout.jsonl
#          measured on (other pictures of the same), text.jsonl asks without pictures
# OUT      a new directory: OUT/patched, OUT/results/*.json, OUT/report.html, OUT/card.md
#
# From the environment:
#   GOLD          a model that was trained alike and never saw the forget set; without it the report says what is missing
#   RECIPE        a recipe file for `unlearn`
#   EVAL_GATES    bounds on the evaluation, separated by spaces
#   ATTACK_GATES  bounds on the attacks, likewise, such as "gap.relearn.ag<=5" (needs GOLD)
#   PROTOCOLS     of the relearning attack, "people pairs" unless told otherwise
#   VKDSURGEON    the command, if it is not `vkdsurgeon`
#
# Exit status: 0 every bound holds: release OUT/patched. 1 something failed: try again. 2 the input is wrong: trying
# again will not help. 3 a bound was missed: the evidence is complete in OUT, do not release. 130 interrupted.
set -euo pipefail

if [[ $# -ne 3 ]]; then
  echo "usage: $0 MODEL RECORDS OUT" >&2
  exit 2
fi
model=$1 records=$2 out=$3
if [[ -e $out ]]; then
  echo "$out: exists already; name a new directory, so that evidence of two runs never mixes" >&2
  exit 2
fi
read -ra vkdsurgeon <<<"${VKDSURGEON:-vkdsurgeon}"
read -ra eval_gates <<<"${EVAL_GATES:-forget.vqa.accuracy<=0.10 retain.vqa.accuracy>=reference-0.03 text.text.agreement==1}"
read -ra attack_gates <<<"${ATTACK_GATES:-}"

missed=0
# Statuses 0 and 3 both leave a result behind; after 3 the rest is still measured, because a release manager has to see
# all of it. Everything else ends the pipeline with that very status.
step() {
  local name=$1 status=0
  shift
  echo "== $name" >&2
  "${vkdsurgeon[@]}" "$@" || status=$?
  case $status in
    0) ;;
    3)
      missed=1
      echo "== $name: a bound was missed" >&2
      ;;
    *)
      echo "== $name ended with status $status" >&2
      exit "$status"
      ;;
  esac
}

recipe=()
if [[ -n ${RECIPE:-} ]]; then recipe=(--recipe "$RECIPE"); fi
gold=()
if [[ -n ${GOLD:-} ]]; then gold=(--gold "$GOLD"); fi
results=$out/results
mkdir -p "$results"

step "unlearn" unlearn "$model" --forget "$records/forget.jsonl" --retain "$records/retain.jsonl" \
  ${recipe[@]+"${recipe[@]}"} -o "$out/patched" --json >"$results/unlearn.json"

step "prove what is identical" diff "$model" "$out/patched" --only-visual --json >"$results/diff.json"

step "evaluate" eval "$out/patched" --reference "$model" ${gold[@]+"${gold[@]}"} \
  --forget "$records/forget_heldout.jsonl" --retain "$records/retain_heldout.jsonl" --text "$records/text.jsonl" \
  "${eval_gates[@]/#/--gate=}" -o "$results/eval.json" >&2

for protocol in ${PROTOCOLS:-people pairs}; do
  step "attack: relearn $protocol" attack relearn "$out/patched" --protocol "$protocol" ${gold[@]+"${gold[@]}"} \
    --reference "$model" --forget "$records/forget.jsonl" --heldout "$records/forget_heldout.jsonl" \
    --retain "$records/retain_heldout.jsonl" ${attack_gates[@]+"${attack_gates[@]/#/--gate=}"} \
    -o "$results/relearn-$protocol.json" >&2
done

step "report" report "$results"/*.json "$out/patched/vkdsurgeon.json" -o "$out/report.html" >&2
step "model card" report "$results"/*.json "$out/patched/vkdsurgeon.json" -o "$out/card.md" >&2

if [[ $missed -ne 0 ]]; then
  echo "== do not release: see $out/report.html" >&2
  exit 3
fi
echo "== every bound holds: $out/patched" >&2
