// Writes what Node reads out of a gzip file, or of a URL, to standard output.
import { createReadStream, readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, gunzipSync } from "node:zlib";

const [way, source] = process.argv.slice(2);
const content = {
  gunzipSync: () => Readable.from([gunzipSync(readFileSync(source))]),
  createGunzip: () => createReadStream(source).pipe(createGunzip()),
  DecompressionStream: () =>
    Readable.toWeb(createReadStream(source)).pipeThrough(new DecompressionStream("gzip")),
  fetch: async () => (await fetch(source)).body,
}[way];
await pipeline(await content(), process.stdout);
