#!/usr/bin/env bash
# Sends an NDJSON file to Gapless: bash send.sh orders.ndjson http://localhost:3000
#
# One record a line, no blank lines. Needs curl 7.84, gzip and GNU split. GAPLESS_TOKEN is the bearer
# token, if the service wants one.
set -euo pipefail

size=${BATCH_SIZE:-10000} # records: at most 4.5 MB when compressed
file=$1 api=$2/api/upload/sessions
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# call METHOD URL [curl's options]: puts the answer into $status and $work/answer; tries again where that can help.
call() {
  for pause in 1 2 4 8 16 32; do
    : >"$work/answer"
    said=$(curl -s -m 40 -H "Authorization: Bearer ${GAPLESS_TOKEN:-}" -o "$work/answer" \
      -w '%{http_code} %header{retry-after}' -X "$@") || said=000
    read -r status wait <<<"$said"
    case $status in
      2??) return ;;
      000 | 429 | 5??) ;; # 000 is no answer. The request may have worked; sending it again is safe.
      *) grep -q session_finishing "$work/answer" || { cat "$work/answer" >&2; exit 1; } ;;
    esac
    [[ $wait =~ ^[0-9]+$ ]] || wait=0
    sleep $((wait > pause ? wait : pause))
  done
  echo "$2 does not answer" >&2
  exit 1
}

# member NAME: a string or a number of the answer.
member() { grep -oE "\"$1\": *(\"[^\"]*\"|[0-9]+)" "$work/answer" | head -n 1 | sed 's/^[^:]*: *//; s/"//g'; }

# shellcheck disable=SC2016 # split sets FILE
split -l "$size" -d -a 5 --filter='gzip > $FILE' "$file" "$work/"
total=$(grep -c '' "$file" || true)
call POST "$api" -d "{\"totalRecord\": $total, \"batchSize\": $size}" \
  -H "Idempotency-Key: $(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')"
session=$api/$(member sessionId)

missing="0 $((total / size))"
while [ -n "$missing" ]; do
  while read -r from to; do
    for n in $(seq "$from" "$to"); do
      batch=$work/$(printf %05d "$n")
      [ ! -e "$batch" ] || call PUT "$session/batches/$n" -H 'Content-Encoding: gzip' -T "$batch"
    done
  done <<<"$missing"
  call POST "$session/finish"
  while [ "$status" = 202 ] || [ "$(member reason)" = merge_failed ]; do
    sleep 2
    call POST "$session/finish"
  done
  missing=$(grep -oE '"from": *[0-9]+, *"to": *[0-9]+' "$work/answer" | tr -c '0-9\n' ' ' || true)
  [ -z "$missing" ] || member detail
done
[ "$(member validationResult)" = Success ] || { cat "$work/answer" >&2; exit 1; }
echo "$(member receivedRecord) records in $(member batches) batches: $(member key)"
