// Sends an NDJSON file to Gapless: node send.mjs orders.ndjson http://localhost:3000
//
// One record a line, no blank lines. Node 20 or later, nothing to install. GAPLESS_TOKEN is the
// bearer token, if the service wants one.

import { randomUUID } from "node:crypto";
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";

const SIZE = Number(process.env.BATCH_SIZE ?? 10_000); // records: at most 4.5 MB when compressed
const TOKEN = { authorization: `Bearer ${process.env.GAPLESS_TOKEN ?? ""}` };

// Status and JSON of the answer; tries again where that can help.
async function call(method, url, body, more) {
  const headers = { ...TOKEN, ...more };
  for (let pause of [1, 2, 4, 8, 16, 32]) {
    try {
      const answer = await fetch(url, { method, body, headers, signal: AbortSignal.timeout(40_000) });
      const text = await answer.text();
      if (answer.ok) return [answer.status, JSON.parse(text || "{}")];
      if (answer.status !== 429 && answer.status < 500 && !text.includes("session_finishing"))
        throw new Error(`${answer.status}: ${text}`);
      pause = Math.max(pause, Number(answer.headers.get("retry-after")) || 0);
    } catch (error) {
      // No answer. The request may have worked; sending it again is safe.
      if (!(error instanceof TypeError || error.name === "TimeoutError")) throw error;
    }
    await sleep(pause * 1000);
  }
  throw new Error(`${url} does not answer`);
}

// [seqNum, lines] of each batch. Latin-1 keeps every byte: the service refuses what is not UTF-8.
async function* batches(path) {
  let lines = [], n = 0;
  for await (const line of (await open(path)).readLines({ encoding: "latin1" }))
    if (lines.push(line) === SIZE) { yield [n++, lines]; lines = []; }
  if (lines.length) yield [n, lines];
}

// The answer of the last finish.
async function send(path, api) {
  let total = 0, status, result;
  for await (const [, lines] of batches(path)) total += lines.length;
  const wanted = JSON.stringify({ totalRecord: total, batchSize: SIZE });
  const [, session] = await call("POST", api, wanted, { "idempotency-key": randomUUID() });
  const url = `${api}/${session.sessionId}`;
  let missing = [{ from: 0, to: Math.floor(total / SIZE) }];
  while (missing?.length) {
    for await (const [n, lines] of batches(path))
      if (missing.some((gap) => gap.from <= n && n <= gap.to)) {
        const body = gzipSync(Buffer.from(lines.join("\n"), "latin1"));
        await call("PUT", `${url}/batches/${n}`, body, { "content-encoding": "gzip" });
      }
    [status, result] = await call("POST", `${url}/finish`);
    while (status === 202 || result.reason === "merge_failed") {
      await sleep(2000);
      [status, result] = await call("POST", `${url}/finish`);
    }
    missing = result.missing;
    if (missing?.length) console.log(result.detail);
  }
  return result;
}

const [path, service] = process.argv.slice(2);
const result = await send(path, `${service}/api/upload/sessions`);
if (result.validationResult !== "Success") throw new Error(result.detail);
console.log(`${result.receivedRecord} records in ${result.batches} batches: ${result.key}`);
