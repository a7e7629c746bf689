// The adapter of the ES module, in Node 20 and later: see docs/conformance.md.
// gapless conformance --client "node examples/adapters/javascript_client.mjs" URL
import { openAsBlob } from "node:fs";
import { writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { Upload } from "../../web/gapless.js";

const ROUNDS = 3;

/** What the service knows of a session, as far as an upload needs it to go on. */
async function savedOf({ url, token, sessionId, batchSize }) {
  const headers = { Authorization: `Bearer ${token}` };
  const response = await fetch(`${url}/api/upload/sessions/${sessionId}`, { headers });
  return { sessionId, url, name: "in.ndjson", batchSize, records: (await response.json()).totalRecord };
}

/** Do what one request says. */
async function respond(request) {
  const { command, url, token, file, batchSize, output } = request;
  if (!["upload", "resume", "download"].includes(command)) return { outcome: "unsupported" };
  try {
    const saved = command === "upload" ? null : await savedOf(request);
    const source = new File([await openAsBlob(file)], "in.ndjson");
    const upload = new Upload(source, { url, token, batchSize, saved });
    if (command === "download") {
      const link = await upload.link();
      await writeFile(output, Buffer.from(await (await fetch(link.url)).arrayBuffer()));
      return { outcome: "success" };
    }
    for (let round = 0; round < ROUNDS; round++) {
      await upload.start();
      const { validationResult } = await upload.finish();
      if (validationResult === "Success") return { outcome: "success", sessionId: upload.sessionId };
    }
    return { outcome: "failed", code: upload.result.reason, detail: upload.result.detail };
  } catch (error) {
    return { outcome: "failed", code: String(error.code ?? ""), detail: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await respond(JSON.parse(line))));
}
