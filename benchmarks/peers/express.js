// The server that Gapless replaces, of the same three routes: records in memory and a JSON file for
// each batch; finish looks for gaps, merges all records into one array and writes it.
//
//   node express.js FOLDER                   serves, and prints its port
//   node express.js FOLDER BODY N AT_ONCE    does the routes' work on N bodies like the one in the
//                                            file BODY, without HTTP, AT_ONCE requests at a time,
//                                            and prints what it took

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import express from "express";

const [folder, body, count, atOnce] = process.argv.slice(2);
const sessions = new Map();

async function create({ totalRecord }) {
  const sessionId = randomUUID();
  sessions.set(sessionId, { totalRecord, batches: new Map() });
  await mkdir(join(folder, sessionId), { recursive: true });
  return { sessionId };
}

async function receive(sessionId, { seqNum, data }) {
  sessions.get(sessionId).batches.set(seqNum, data);
  await writeFile(join(folder, sessionId, `${seqNum}.json`), JSON.stringify(data));
}

async function finish(sessionId) {
  const { totalRecord, batches } = sessions.get(sessionId);
  const merged = [];
  for (let seqNum = 0; seqNum < batches.size; seqNum++) {
    const data = batches.get(seqNum);
    if (data === undefined) return { sessionId, validationResult: "Failed" };
    for (const record of data) merged.push(record);
  }
  if (merged.length !== totalRecord) return { sessionId, validationResult: "Failed" };
  await writeFile(join(folder, `${sessionId}.json`), JSON.stringify(merged));
  sessions.delete(sessionId);
  return { sessionId, validationResult: "Success" };
}

if (body) {
  const text = readFileSync(body, "utf8");
  const records = JSON.parse(text).data.length;
  const before = process.cpuUsage();
  const started = performance.now();
  const { sessionId } = await create({ totalRecord: records * count });
  let next = 0;
  const send = async () => {
    while (next < count) {
      const request = text.replace('"seqNum":0', `"seqNum":${next++}`);
      await receive(sessionId, JSON.parse(request));
    }
  };
  await Promise.all(Array.from({ length: atOnce }, send));
  const received = performance.now();
  const { validationResult } = await finish(sessionId);
  const ended = performance.now();
  const { user, system } = process.cpuUsage(before);
  console.log(
    JSON.stringify({
      success: validationResult === "Success",
      seconds: (ended - started) / 1000,
      finish: (ended - received) / 1000,
      cpu: (user + system) / 1e6,
      mib: process.resourceUsage().maxRSS / 1024,
    }),
  );
} else {
  const app = express();
  app.use(express.json({ limit: "10mb" }));
  app.post("/api/upload/sessions", async (request, response) => {
    response.status(201).json(await create(request.body));
  });
  app.post("/api/upload/sessions/:id", async (request, response) => {
    await receive(request.params.id, request.body);
    response.status(204).end();
  });
  app.post("/api/upload/sessions/:id/finish", async (request, response) => {
    response.json(await finish(request.params.id));
  });
  const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
}
