#!/usr/bin/env bash
# Unlearn, evaluate, attack, report: the evidence for one release, and a status that a pipeline can act on.
#
#   docs/release_pipeline.sh MODEL RECORDS OUT
#
# MODEL    the checkpoint directory
# RECORDS  a directory: forget.jsonl and retain.jsonl are trained on, forget_heldout.jsonl and retain_heldout.jsonl
#          measured on (other images of the same), text.jsonl asks without images
# OUT      a new directory: OUT/patched, OUT/results/*.json, OUT/report.html, OUT/card.md. OUT/state remembers which
#          steps are done.
#
# Run again with the same words and settings after an interruption or a failure, it goes on: steps that are done are
# kept with their statuses, `unlearn` goes on from its journal, the rest is done. Other records, recipe, bounds or
# models: status 2, name a new directory, so that evidence of two runs never mixes.
#
# From the environment:
#   GOLD           a model that was trained alike and never saw the forget set; without it nothing holds the attacks
#                  against what anybody would guess or learn
#   RECIPE         a recipe file for `unlearn`
#   EVAL_GATES     bounds on the evaluation, separated by spaces
#   RELEARN_GATES  bounds on `attack relearn`, likewise; with GOLD "relearn.ag<=gold+10" unless told otherwise: at most
#                  10 points more than gold gains
#   RESTORE_GATES  bounds on `attack restore`, likewise; with GOLD "restore.after.vqa.accuracy<=gold+0.05" unless told
#                  otherwise: at most 5 points more than gold knows
#   RESTORE_OUT_OF_SCOPE  "yes": `attack restore` is measured and not judged, see below
#   ACCEPT_UNJUDGED  "yes": attacks that no bound judges are good enough for you, see below
#   PROTOCOLS      of the relearning attack, "people pairs" unless told otherwise
#   VKDSURGEON     the command, if it is not `vkdsurgeon`
#
# What to expect of `attack restore`. It puts the original tower and projector back in front of the patched language
# model. Unlearning in feature mode changes only the tower and the projector, so the attack undoes all of it, and NO
# such patch survives it: with GOLD, this pipeline ends with status 3 for every visual-only patch. That is on purpose.
# There is one honest way on: RESTORE_OUT_OF_SCOPE=yes says that whoever gets this model cannot get the original's
# visual weights (it runs behind your own service, say). If the original or its vision encoder was ever published, that
# is not true. The report and the last line then name the attack as not judged.
#
# Only a recipe with a decoder pass (a section `decoder`), which edits the language model knowingly, can pass that bound.
# The pipeline demands that nothing outside tower and projector differs but what such a pass has on record, element for
# element. Where the language model was edited, its answers to text may no longer be equal bit by bit: the bound on them
# is "text.text.agreement>=0.95" then, that of the pass itself, and the last line says that it was edited.
#
# Without GOLD, unless you give bounds of your own (such as "relearn.ag<=20"), the attacks are measured, not judged. An
# attack that nobody judged was not withstood, so that is status 3, told apart by the last line: "not judged" where no
# bound was missed. ACCEPT_UNJUDGED=yes says that you read the report and decide yourself: status 0, and the report and
# the last line still say what was not judged. Run again with it, the same directory is taken up.
#
# Exit status: 0 every bound holds, and every attack had one or is excepted by your own word. 1 something failed: try
# again. 2 the input is wrong: trying again will not help. 3 a bound was missed, or an attack was not judged: the
# evidence is complete in OUT, do not release. 130 interrupted: the same command goes on.
set -euo pipefail

# One command to the shell, which reads it whole before it begins: the file may be upgraded while this runs for hours.
{
if [[ $# -ne 3 ]]; then
  echo "usage: $0 MODEL RECORDS OUT" >&2
  exit 2
fi
model=$1 records=$2 out=$3
if [[ -n ${ATTACK_GATES:-} ]]; then
  echo "ATTACK_GATES: no longer read; each attack has its own, RELEARN_GATES and RESTORE_GATES" >&2
  exit 2
fi
for word in RESTORE_OUT_OF_SCOPE ACCEPT_UNJUDGED; do
  case ${!word:-} in
    "" | yes) ;;
    *)
      echo "$word: '${!word}' is neither yes nor empty" >&2
      exit 2
      ;;
  esac
done
if [[ -n ${RESTORE_OUT_OF_SCOPE:-} && -n ${RESTORE_GATES:-} ]]; then
  echo "RESTORE_OUT_OF_SCOPE and RESTORE_GATES contradict each other: give one of them" >&2
  exit 2
fi

read -ra vkdsurgeon <<<"${VKDSURGEON:-vkdsurgeon}"
eval_default="forget.vqa.accuracy<=0.10 retain.vqa.accuracy>=reference-0.03 text.text.agreement==1"
read -ra eval_gates <<<"${EVAL_GATES:-$eval_default}"
relearn_default="" restore_default=""
if [[ -n ${GOLD:-} ]]; then
  relearn_default="relearn.ag<=gold+10"
  if [[ -z ${RESTORE_OUT_OF_SCOPE:-} ]]; then restore_default="restore.after.vqa.accuracy<=gold+0.05"; fi
fi
read -ra relearn_gates <<<"${RELEARN_GATES:-$relearn_default}"
read -ra restore_gates <<<"${RESTORE_GATES:-$restore_default}"
# Hours before it happens.
if [[ -z ${ACCEPT_UNJUDGED:-} ]] &&
  [[ ${#relearn_gates[@]} -eq 0 || (${#restore_gates[@]} -eq 0 && -z ${RESTORE_OUT_OF_SCOPE:-}) ]]; then
  echo "== without GOLD or bounds of yours on both attacks this ends with status 3, unless ACCEPT_UNJUDGED=yes" >&2
fi
read -ra protocols <<<"${PROTOCOLS:-people pairs}"

recipe=()
if [[ -n ${RECIPE:-} ]]; then recipe=(--recipe "$RECIPE"); fi
gold=()
if [[ -n ${GOLD:-} ]]; then gold=(--gold "$GOLD"); fi
results=$out/results state=$out/state

# Everything that a result depends on and that documents do not check against each other in the report.
settings() {
  printf '%s\n' "model $model" "records $records" "gold ${GOLD:-}" "recipe ${RECIPE:-}" "eval ${eval_gates[*]}" \
    "relearn ${relearn_gates[*]-}" "restore ${restore_gates[*]-}" "protocols ${protocols[*]}"
  local file
  for file in "$records"/*.jsonl ${RECIPE:+"$RECIPE"}; do
    if [[ -f $file ]]; then cksum <"$file"; fi
  done
}
if [[ -e $out || -L $out ]]; then
  if [[ ! -f $state/settings ]]; then
    echo "$out: exists already, and this pipeline did not make it; name a new directory" >&2
    exit 2
  fi
  # A run that failed before anything was done leaves nothing to mix with.
  if [[ $(settings) != "$(<"$state/settings")" ]] &&
    { compgen -G "$out/patched*" || compgen -G "$state/*.status"; } >/dev/null; then
    echo "$out: made with other records or settings; name a new directory, so that evidence of two runs never mixes" >&2
    settings | diff "$state/settings" - >&2 || true
    exit 2
  fi
  echo "== going on in $out" >&2
fi
mkdir -p "$results" "$state"
# What is there under its own name is whole, whenever this is killed.
settings >"$state/settings.part"
mv "$state/settings.part" "$state/settings"

missed=0
# Statuses 0 and 3 both leave a result behind; after 3 the rest is still measured, because a release manager has to see
# all of it. Everything else ends the pipeline with that very status.
#
#   step NAME RESULT WORDS...    the command writes RESULT itself, or, where WORDS has --json, its stdout becomes RESULT
step() {
  local name=$1 result=$2 status=0
  shift 2
  local kept
  kept=$state/$(basename "$result").status
  if [[ -s $result && -s $kept ]]; then
    status=$(<"$kept")
    echo "== $name: done before" >&2
  else
    rm -f "$kept"
    echo "== $name" >&2
    if [[ " $* " == *" --json "* ]]; then
      "${vkdsurgeon[@]}" "$@" >"$state/stdout" || status=$?
      if [[ $status -eq 0 || $status -eq 3 ]]; then mv "$state/stdout" "$result"; fi
    else
      "${vkdsurgeon[@]}" "$@" >&2 || status=$?
    fi
    if [[ $status -eq 0 || $status -eq 3 ]]; then
      echo "$status" >"$kept.part"
      mv "$kept.part" "$kept"
    fi
  fi
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

# Only where there is something to go on from: recipes with an output loss keep no journal and refuse the option.
resume=()
if [[ -e $out/patched || -e $out/patched.journal ]]; then resume=(--resume); fi
step "unlearn" "$results/unlearn.json" unlearn "$model" --forget "$records/forget.jsonl" \
  --retain "$records/retain.jsonl" ${recipe[@]+"${recipe[@]}"} ${resume[@]+"${resume[@]}"} -o "$out/patched" --json

step "prove what is identical" "$results/diff.json" diff "$model" "$out/patched" --only-declared --json

edited=""
if grep -q '"language_identical": false' "$results/diff.json"; then
  edited=" (the language model was edited, as its record declares)"
  if [[ -z ${EVAL_GATES:-} ]]; then eval_gates=("${eval_gates[@]/text.text.agreement==1/text.text.agreement>=0.95}"); fi
fi

step "evaluate" "$results/eval.json" eval "$out/patched" --base "$model" ${gold[@]+"${gold[@]}"} \
  --forget "$records/forget_heldout.jsonl" --retain "$records/retain_heldout.jsonl" --text "$records/text.jsonl" \
  "${eval_gates[@]/#/--gate=}" -o "$results/eval.json"

step "attack: restore" "$results/restore.json" attack restore "$out/patched" --base "$model" \
  ${gold[@]+"${gold[@]}"} --forget "$records/forget_heldout.jsonl" --retain "$records/retain_heldout.jsonl" \
  ${restore_gates[@]+"${restore_gates[@]/#/--gate=}"} -o "$results/restore.json"

for protocol in "${protocols[@]}"; do
  step "attack: relearn $protocol" "$results/relearn-$protocol.json" attack relearn "$out/patched" \
    --protocol "$protocol" ${gold[@]+"${gold[@]}"} --base "$model" --forget "$records/forget.jsonl" \
    --heldout "$records/forget_heldout.jsonl" --retain "$records/retain_heldout.jsonl" \
    ${relearn_gates[@]+"${relearn_gates[@]/#/--gate=}"} -o "$results/relearn-$protocol.json"
done

# Always anew: they cost seconds, and say what all the others found.
rm -f "$state/card.md.status" "$state/report.json.status"
step "model card" "$out/card.md" report "$results"/*.json "$out/patched/vkdsurgeon.json" -o "$out/card.md"
step "report" "$state/report.json" report "$results"/*.json "$out/patched/vkdsurgeon.json" -o "$out/report.html" --json

if [[ $missed -ne 0 ]] || grep -q '"verdict": "failed"' "$state/report.json"; then
  echo "== do not release: see $out/report.html" >&2
  exit 3
fi
if grep -q '"verdict": "passed"' "$state/report.json"; then
  echo "== every bound holds, and every attack had one: $out/patched$edited" >&2
  exit 0
fi
# The report knows which attacks had no bound on what they brought back.
echo "== $(sed -n 's/^ *"headline": "\(.*\)",\{0,1\}$/\1/p' "$state/report.json")" >&2
unjudged=$(sed -n '/"unjudged": \[$/,/^ *\]/s/^ *"\([^"]*\)",\{0,1\}$/\1/p' "$state/report.json")
excepted=${ACCEPT_UNJUDGED:-}
if [[ $unjudged == "Original visual weights put back" ]]; then excepted+=${RESTORE_OUT_OF_SCOPE:-}; fi
if [[ -z $excepted ]]; then
  echo "== not judged, so do not release: give GOLD, or RELEARN_GATES and RESTORE_GATES, and a new directory; or read" \
    "$out/report.html and run this again with ACCEPT_UNJUDGED=yes" >&2
  exit 3
fi
echo "== measured, not judged: whether that is good enough is for you to say, from $out/report.html:" \
  "$out/patched$edited" >&2
exit 0
}
# A release by one command: docs/tutorials/ship.md explains the plan. Exit status: 0 within the bounds, 3 do not release
# (the evidence is complete), 2 the plan is wrong, 1 something failed and 130 interrupted (the same command goes on).
exec ${VKDSURGEON:-vkdsurgeon} release "$@"
