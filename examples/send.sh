#!/usr/bin/env bash
# Sends an NDJSON file to Gapless: bash send.sh orders.ndjson http://localhost:3000
#
# One record a line, no blank lines. Needs curl, gzip and GNU split.
set -euo pipefail

size=10000 # records in a batch: at most 4.5 MB when compressed
file=$1 api=$2/api/upload/sessions
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# call METHOD URL [curl's options]: puts the answer into $status and $work/answer; tries again where that can help.
call() {
  for pause in 1 2 4 8 16 32; do
    status=$(curl -s -m 40 -o "$work/answer" -w '%{http_code}' -X "$@") || status=000
    case $status in
      2??) return ;;
      000 | 429 | 5??) ;; # 000 is no answer. The request may have worked; sending it again is safe.
      *) grep -q session_finishing "$work/answer" || { cat "$work/answer" >&2; exit 1; } ;;
    esac
    sleep $pause
  done
  echo "$2 does not answer" >&2
  exit 1
}

# member NAME: a string or a number of the answer.
member() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" "$work/answer"; }

[ -s "$file" ] || { echo "$file is empty" >&2; exit 1; }
split -l $size -d -a 5 --filter='gzip > $FILE' "$file" "$work/"
total=$(gunzip -c "$work"/[0-9]* | grep -c '')
call POST "$api" -d "{\"totalRecord\": $total, \"batchSize\": $size}" \
  -H "Idempotency-Key: $(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')"
session=$api/$(member sessionId)

missing="0 $(((total - 1) / size))"
while [ -n "$missing" ]; do
  while read -r from to; do
    for n in $(seq "$from" "$to"); do
      call PUT "$session/batches/$n" -H 'Content-Encoding: gzip' -T "$work/$(printf %05d "$n")"
    done
  done <<<"$missing"
  while call POST "$session/finish" && [ "$status" = 202 ]; do sleep 2; done
  missing=$(grep -oE '"from":[0-9]+,"to":[0-9]+' "$work/answer" | tr -c '0-9\n' ' ' || true)
  [ -z "$missing" ] || echo "$(member detail)"
done
[ "$(member validationResult)" = Success ] || { cat "$work/answer" >&2; exit 1; }
echo "$(member receivedRecord) records in $(member batches) batches: $(member key)"
