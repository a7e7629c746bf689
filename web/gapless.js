// @ts-check
/**
 * Sends a file of records to Gapless in numbered batches, from a browser or Node.
 *
 * The file is read twice, in pieces: first to check and count the records and to find where each batch
 * begins, then to send them. Each pass computes the CRC-32 of every batch, so that only checked records
 * are sent. JSON records are sent byte for byte. docs/web.md documents this module, docs/protocol.md
 * the API. The module has no dependency on the page, the DOM or storage.
 *
 * @module
 */

import { Records, ReadingError, oneLine } from "./readers.js";

const SESSIONS = "/api/upload/sessions";
const NDJSON = { "Content-Type": "application/x-ndjson" };

/** @type {MergedFormat[]} */
const FORMATS = ["ndjson", "ndjson.gz"];

/** The most batches in a session. */
export const MAX_BATCHES = 100_000;

// Limits of the service: docs/protocol.md.
const MAX_BODY = 4_500_000;
const MAX_INFLATED = 64 * 1024 * 1024;
// Within every limit of the service, even if it does not compress.
const SAFE_BATCH_BYTES = 4_000_000;
// Batch sizes in bytes that balance the cost of a request against the cost of repeating it.
const LARGEST_USUAL_BATCH = 1_000_000;
const SMALLEST_USUAL_BATCH = 64_000;
const USUAL_BATCHES = 100;
// The first pass notes the positions of at most this many records: in a long file of every 2nd, 4th, 8th …
const PLACES = 2 * MAX_BATCHES;

// A request times out after this long without any data. API Gateway answers within 30 seconds.
const SILENCE_SECONDS = 40;
const LONGEST_SILENCE = 320;
// Slower requests reduce the concurrency; faster ones raise it.
const SLOW_SECONDS = 10;
const QUICK_SECONDS = 5;
// An upload fails after this long without a success. Time offline or asleep does not count.
const PATIENCE_SECONDS = 300;
const PATIENCE_TO_BEGIN_SECONDS = 20;
const FIRST_PAUSE = 0.5;
const LONGEST_PAUSE = 20;
const FINISHING_SECONDS = 40; // without progress; then the finish attempt may have died
const RATE_SECONDS = 10;

// Sending stops after this many invalid records.
const MOST_INVALID = 100;

const LF = 10;
const LINE_FEED = Uint8Array.of(LF);

/** The state of a batch; the values of {@link Upload#batches}. */
export const Batch = Object.freeze({ WAITING: 0, SENDING: 1, STORED: 2, MISSING: 3, CONFLICT: 4 });

/**
 * @typedef {"new" | "scanning" | "ready" | "sending" | "paused" | "sent" | "finishing" | "finished"
 *   | "incomplete" | "failed" | "aborted"} State
 *
 * @typedef {"ndjson" | "ndjson.gz"} MergedFormat NDJSON, or NDJSON in one gzip file.
 *
 * @typedef {object} Options
 * @property {string} [url] Address of the API: `https://host`. Default: the page's origin.
 * @property {string} [token] A bearer token.
 * @property {number} [batchSize] Records in a batch. Default: depends on the file.
 * @property {number} [concurrency] The most concurrent requests; 8 by default.
 * @property {MergedFormat} [format] Of the merged object; `ndjson` by default.
 * @property {string} [schema] Name of the schema that the service validates the records against.
 * @property {Record<string, string>} [metadata] Of the session. `name` defaults to that of the merged
 *   file.
 * @property {import("./readers.js").Wanted} [reading] How to read the file if name and content are
 *   ambiguous.
 * @property {typeof request} [fetch] Replaces {@link request}, for example to sign requests.
 * @property {Saved} [saved] An upload to resume; see {@link Upload#saved}.
 * @property {Asked | null} [asked] An unanswered request for a session; see {@link Upload#asked}.
 *
 * @typedef {object} Saved What is needed to resume an upload, as JSON.
 * @property {string} sessionId
 * @property {string} url
 * @property {string} name
 * @property {number} [size]
 * @property {number} [lastModified]
 * @property {number} records
 * @property {number} batchSize
 * @property {number} [crc32] Of all records. Without it the file is not compared before sending; the
 *   service compares each batch, and `finish` the whole.
 * @property {MergedFormat} [format] Of the merged object; `ndjson` by default.
 * @property {string} [schema]
 * @property {string} [expiresAt] When the session ends, by the clock of the service.
 *
 * @typedef {{key: string, body: string}} Asked A request for a session: its `Idempotency-Key` and its
 *   body. Repeating it returns the same session.
 *
 * @typedef {object} Listed A session of the list.
 * @property {string} sessionId
 * @property {"OPEN" | "FINISHING" | "FINISHED" | "ABORTED"} state
 * @property {number | null} totalRecord
 * @property {number | null} batchSize
 * @property {MergedFormat} format
 * @property {Record<string, string>} metadata
 * @property {string} createdAt
 * @property {string} expiresAt
 * @property {string | null} fileDeletedAt
 *
 * @typedef {{line: number, path: string, message: string}} Invalid A record that violates the schema:
 *   its line in the file, from 1, and a JSON Pointer to the wrong value.
 *
 * @typedef {{from: number, to: number}} Gap A range of missing batches, both ends included.
 *
 * @typedef {object} Progress
 * @property {number} scanned Bytes read by the first pass.
 * @property {number} batches Number of batches.
 * @property {number} stored Number of stored batches.
 * @property {number} records Number of records.
 * @property {number} storedRecords Number of stored records.
 * @property {number} bytesPerSecond Of the file, over the last 10 seconds.
 * @property {number} recordsPerSecond Over the last 10 seconds.
 * @property {number | null} secondsLeft Null while unknown.
 *
 * @typedef {object} Result The answer of finish.
 * @property {"Success" | "Failed"} validationResult
 * @property {string} [reason] `missing_batches`, `record_count` or `merge_failed`.
 * @property {string} [detail]
 * @property {Gap[]} [missing]
 * @property {boolean} [missingTruncated]
 * @property {number} [receivedRecord]
 * @property {number} [bytes] Size of the merged object as stored.
 * @property {{algorithm: string, value: string}} [checksum] Of the merged object as stored.
 * @property {{bytes: number, checksum: {algorithm: string, value: string}}} [content] Of the
 *   uncompressed NDJSON, if the format is `ndjson.gz`.
 * @property {boolean} [verified] Set by this module: size and checksum of the NDJSON match the file.
 */

/** Why an upload failed. */
export class UploadError extends Error {
  /**
   * @param {string} code A code of docs/errors.md; `http_<status>` if API Gateway answered;
   *   `no_answer`; `not_the_service` if something else answered; `bad_address`, `bad_token`;
   *   `stopped` if another method was called meanwhile; or about the file: `file_changed`,
   *   `different_file`, `too_many_batches`, `checksum_mismatch`, or a code of docs/web.md, "What is
   *   refused".
   * @param {string} message What is wrong and what to do, for people.
   * @param {{status?: number, line?: number, seqNums?: number[], invalid?: Invalid[], body?: any}} [about]
   */
  constructor(code, message, about = {}) {
    super(message);
    this.name = "UploadError";
    this.code = code;
    /** The HTTP status, if any. */
    this.status = about.status;
    /** The line of the file, from 1, if known. */
    this.line = about.line;
    /** The batches in conflict. */
    this.seqNums = about.seqNums;
    /** The first invalid records, by line. */
    this.invalid = about.invalid;
    /** The response, if it is JSON. */
    this.body = about.body;
  }
}

/**
 * The upload of one file.
 *
 * Events: `state`; `batch`, with `detail` `{seqNum, batch}`; `progress`, with a {@link Progress};
 * `merge`, with `{parts, done}`, while the service merges.
 */
export class Upload extends EventTarget {
  /** @type {State} */
  #state = "new";
  #saved;
  #asked;
  #metadata;
  #format;
  #schema;
  #url;
  #reading;
  /** @type {Records | null} */
  #reader = null;
  #held = /** @type {Promise<void> | null} */ (null);
  #release = () => {};
  #ended = new AbortController();
  /** The start of each batch, and the end of the last. @type {Place[]} */
  #places = [];
  #perBatch;
  #scanned = 0;
  #stored = 0;
  #concurrency;
  // The current concurrency. Doubles in each round until the first sign of a limit.
  #allowed = 2;
  #hasLimit = false;
  #running = 0;
  /** @type {((value: void) => void)[]} */
  #waiting = [];
  /** @type {Promise<void> | null} */
  #probing = null;
  #lastCut = 0;
  #silence = SILENCE_SECONDS;
  #lastHeard = 0;
  #successes = 0;
  /** @type {[number, number, number][]} */
  #samples = [];
  #fetch;
  #records = 0;
  #crc = 0;

  /**
   * @param {File | Blob} file NDJSON, JSON, CSV or TSV, in UTF-8 or UTF-16, optionally gzip. The name
   *   of a `File` helps to detect the format, and names the merged file.
   * @param {Options} [options]
   * @throws {UploadError} `bad_address` if `url` is invalid, or missing where there is no page; `option`
   *   for an invalid `format`.
   */
  constructor(file, options = {}) {
    super();
    this.file = "name" in file ? file : new File([file], "");
    /** A bearer token; may be replaced at any time. */
    this.token = options.token ?? "";
    const url = options.url || options.saved?.url || globalThis.location?.origin;
    if (!url) throw new UploadError("bad_address", "Set `url`, the address of the API: there is no page to take it from.");
    this.#url = serviceUrl(url);
    this.#reading = options.reading ?? {};
    this.#saved = options.saved ?? null;
    this.#asked = options.asked ?? null;
    this.#metadata = options.metadata ?? {};
    this.#format = this.#saved ? (this.#saved.format ?? FORMATS[0]) : knownFormat(options.format);
    this.#schema = (this.#saved ?? options).schema ?? "";
    this.#perBatch = options.saved?.batchSize ?? options.batchSize ?? 0;
    this.#concurrency = Math.min(options.concurrency ?? 8, mostConnections());
    this.#allowed = Math.min(this.#allowed, this.#concurrency);
    this.#fetch = options.fetch ?? request;
    /** The state of each batch, by `seqNum`: see {@link Batch}. */
    this.batches = new Uint8Array();
    /** @type {Result | null} The last answer of finish. */
    this.result = null;
    /** @type {unknown} Why the state is `failed`. */
    this.error = null;
    /** @type {UploadError | null} The error that is being retried. */
    this.trouble = null;
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /** Number of records in the file, after the scan. */
  get records() {
    return this.#records;
  }

  /** How the file is read, once known. */
  get reading() {
    return this.#reader?.reading ?? null;
  }

  /** Number of blank lines in the file, after the scan. They are not records. */
  get blank() {
    return this.#reader?.blank ?? 0;
  }

  /** Records in each batch except the last. */
  get batchSize() {
    return this.#perBatch;
  }

  /** Format of the merged object. Setting it has no effect on an open session. */
  get format() {
    return this.#saved?.format ?? this.#format;
  }

  set format(format) {
    this.#format = knownFormat(format);
  }

  /** Name of the schema, or an empty string. Setting it has no effect on an open session. */
  get schema() {
    return this.#schema;
  }

  set schema(name) {
    if (!this.#saved) this.#schema = name;
  }

  /** Id of the open session, or an empty string. */
  get sessionId() {
    return this.#saved?.sessionId ?? "";
  }

  /** @returns {Saved | null} Store this to resume the upload later; null without a session. */
  get saved() {
    return this.#saved;
  }

  /**
   * Store this to get the same session if the answer is lost.
   * @returns {Asked | null} The unanswered request for a session.
   */
  get asked() {
    return this.#asked;
  }

  /** @returns {Gap[]} What the service reported missing, less what was stored since. */
  get missing() {
    /** @type {Gap[]} */
    const gaps = [];
    this.batches.forEach((batch, seqNum) => {
      if (batch !== Batch.MISSING) return;
      const last = gaps.at(-1);
      if (last && last.to === seqNum - 1) last.to = seqNum;
      else gaps.push({ from: seqNum, to: seqNum });
    });
    return gaps;
  }

  /** @returns {Progress} */
  get progress() {
    const records = this.#records;
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    const seconds = first && last ? (last[0] - first[0]) / 1000 : 0;
    const bytesPerSecond = first && last && seconds ? (last[1] - first[1]) / seconds : 0;
    const recordsPerSecond = first && last && seconds ? (last[2] - first[2]) / seconds : 0;
    const storedRecords = this.#storedRecords();
    return {
      scanned: this.#scanned,
      batches: this.batches.length,
      stored: this.#stored,
      records,
      storedRecords,
      bytesPerSecond,
      recordsPerSecond,
      secondsLeft: recordsPerSecond ? (records - storedRecords) / recordsPerSecond : null,
    };
  }

  /**
   * Check and count the records, without sending anything. `start` calls this if needed.
   *
   * @throws {UploadError} A code of docs/web.md, "What is refused", with the line;
   *   `too_many_batches`, `file_changed`; with `saved`, `different_file` if the records differ.
   */
  async scan() {
    if (this.#state !== "new") return;
    this.#change("scanning");
    await this.#run(async () => {
      await this.#scan();
      const saved = this.#saved;
      if (saved && (saved.records !== this.#records || (saved.crc32 ?? this.#crc) !== this.#crc)) {
        this.#places = [];
        throw new UploadError(
          "different_file",
          `This is not the file of the upload to resume: ${saved.name}, with ${saved.records} records.`,
        );
      }
      this.#change("ready");
    });
  }

  /** Stop a running scan. The state is `new` again. */
  cancel() {
    if (this.#state !== "scanning") return;
    this.#ended.abort(new UploadError("stopped", "The check was cancelled."));
    this.#change("new");
  }

  /**
   * Ask the service what it has stored of the upload to resume; `start` does this too. If the session
   * is gone, `saved` becomes null and `start` opens a new session.
   *
   * @returns {Promise<UploadError | null>} Why the session is gone.
   * @throws {UploadError} If the service does not answer.
   */
  async look() {
    if (this.#state !== "ready" || !this.#saved) return null;
    const ended = this.#ended.signal;
    try {
      await this.#askMissing();
    } catch (error) {
      if (!(error instanceof UploadError) || !isGone(error) || ended.aborted) throw error;
      this.#saved = null;
      this.#change("ready");
      return error;
    }
    this.#change("ready");
    return null;
  }

  /**
   * Send every batch that is not stored yet. Returns true when all are stored, which may be after a
   * pause. It may be called again after an error: it first asks the service what is missing.
   *
   * @throws {UploadError}
   */
  async start() {
    if (this.#places.length === 0) {
      this.#state = "new";
      await this.scan();
    }
    return this.#run(async () => {
      this.#change("sending");
      if (this.#saved) await this.#askMissing();
      else await this.#open();
      await this.#send();
      this.#change("sent");
      return true;
    });
  }

  /** Start no new requests until `resume`. Running ones complete. */
  pause() {
    if (this.#state !== "sending") return;
    this.#held = new Promise((resolve) => (this.#release = resolve));
    this.#change("paused");
  }

  /** Continue after `pause`. */
  resume() {
    if (this.#state !== "paused") return;
    this.#unhold();
    this.#change("sending");
  }

  /**
   * Ask the service to check for gaps and to merge. `Failed` is an answer, not an error: see `missing`,
   * then call `start` and `finish` again. Repeatable.
   *
   * @returns {Promise<Result>}
   * @throws {UploadError} `checksum_mismatch` if the merged object differs from the file.
   */
  async finish() {
    return this.#run(async () => {
      this.#change("finishing");
      // Fails if the file was changed after it was sent.
      await this.file.slice(0, 1).arrayBuffer();
      const result = await this.#merged();
      this.result = result;
      if (result.validationResult === "Success") {
        const { bytes, checksum } = result.content ?? result;
        const isChecksum = checksum?.value === base64(bigEndian(this.#crc));
        result.verified = isChecksum && bytes === this.#places.at(-1)?.bytes;
        if (!result.verified) {
          throw new UploadError(
            "checksum_mismatch",
            `The ${isChecksum ? "size" : "checksum"} of the merged object differs from that of the file. Do not use it.`,
          );
        }
        for (let n = 0; n < this.batches.length; n++) this.#set(n, Batch.STORED);
      } else {
        this.#applyReport(result.missing ?? [], result.missingTruncated ?? false);
      }
      this.#change(result.validationResult === "Success" ? "finished" : "incomplete");
      return result;
    });
  }

  /**
   * A link to the merged object that works without a token, for some minutes. A browser downloads
   * NDJSON from it in either format, because it decompresses `Content-Encoding: gzip`.
   *
   * @returns {Promise<{url: string, expiresAt: string}>}
   */
  async link() {
    const path = `${this.#path}/file`;
    const answer = await this.#call("GET", path, [200], undefined, { Accept: "application/json" });
    return bodyOf(answer, "url");
  }

  /** Stop sending, and delete what the service has stored. Repeatable. */
  async abort() {
    return this.#run(async () => {
      if (this.#saved) {
        await this.#call("DELETE", this.#path, [204]).catch((error) => {
          if (!isGone(error)) throw error;
        });
      }
      this.#saved = null;
      for (let n = 0; n < this.batches.length; n++) this.#set(n, Batch.WAITING);
      this.#change("aborted");
    });
  }

  /** Delete the merged object and its manifest permanently. Repeatable. @throws {UploadError} */
  async deleteFile() {
    await this.#call("DELETE", `${this.#path}/file`, [204]);
  }

  /**
   * One page of the caller's sessions, newest first. To resume one, build a `saved` from it.
   *
   * @param {Pick<Options, "url" | "token" | "fetch"> & {state?: string, cursor?: string | null}} [options]
   *   `cursor` is that of the previous page.
   * @returns {Promise<{sessions: Listed[], cursor: string | null}>} `cursor` is null at the end.
   * @throws {UploadError} `no_list` if the service does not authenticate callers.
   */
  static async list({ state, cursor, ...options } = {}) {
    const query = new URLSearchParams({ ...(state && { state }), ...(cursor && { cursor }) }).toString();
    const reader = new Upload(new File([], "list"), options);
    const answer = await reader.#call("GET", SESSIONS + (query && `?${query}`), [200]);
    return bodyOf(answer, "sessions");
  }

  // --- The first pass ---

  async #scan() {
    const { signal } = this.#ended;
    const reader = (this.#reader = await Records.of(this.file, this.#reading));
    let step = this.#perBatch || 1;
    /** @type {Place[]} */
    let places = [];
    let records = 0;
    let crc = 0;
    let bytes = 0;
    /** @type {[Uint8Array<ArrayBuffer>, number][]} */
    const large = [];
    await reader.each(
      (record, at, line) => {
        const text = oneLine(record);
        if (text.length > SAFE_BATCH_BYTES) large.push([text, line]);
        if (records % step === 0) {
          places.push({ at, bytes, crc, line });
          if (places.length > PLACES) {
            if (this.#perBatch) throw tooManyBatches(this.file.size, reader.consumed, records);
            places = places.filter((_, i) => i % 2 === 0);
            step *= 2;
          }
        }
        records++;
        bytes += text.length + 1;
        crc = crc32(LINE_FEED, crc32(text, crc));
      },
      async () => {
        for (const [text, line] of large.splice(0)) await mustFit(text, line);
        signal.throwIfAborted();
        this.#scanned = reader.consumed;
        this.#emitProgress();
      },
    );
    places.push({ at: reader.end, bytes, crc, line: 0 });
    const together = this.#perBatch ? 1 : batchesOf(places, records / step);
    const count = Math.ceil(records / (step * together));
    if (count > MAX_BATCHES) throw tooManyBatches(1, 1, records);
    this.#perBatch = step * together;
    this.#records = records;
    this.#crc = crc;
    this.#places = Array.from(
      { length: count + 1 },
      (_, n) => places[Math.min(n * together, places.length - 1)],
    );
    this.batches = new Uint8Array(count);
  }

  // --- Sending ---

  get #path() {
    return `${SESSIONS}/${this.sessionId}`;
  }

  async #open() {
    const { format } = this;
    const asked = {
      ...{ totalRecord: this.#records, batchSize: this.#perBatch, format },
      ...(this.#schema && { schema: this.#schema }),
      metadata: { name: downloadName(this.file.name), ...this.#metadata },
    };
    const { sessionId, expiresAt } = await this.#opened(JSON.stringify(asked)).catch((error) => {
      // The saved request is of another version of this module, which wrote it differently.
      if (error.code !== "idempotency_key_reused") throw error;
      this.#asked = null;
      return this.#opened(JSON.stringify(asked));
    });
    this.#asked = null;
    const { name, size, lastModified } = this.file;
    this.#saved = {
      ...{ sessionId, url: this.#url, name, size, lastModified },
      ...{ records: this.#records, batchSize: this.#perBatch, crc32: this.#crc, format, expiresAt },
      ...(this.#schema && { schema: this.#schema }),
    };
    this.dispatchEvent(new Event("state"));
  }

  /** Open a session, or get the one that the same request opened before. @param {string} body */
  async #opened(body) {
    if (this.#asked?.body !== body) this.#asked = { key: randomKey(), body };
    // The caller can store `asked` before the request is sent.
    this.dispatchEvent(new Event("state"));
    const headers = { "Content-Type": "application/json", "Idempotency-Key": this.#asked.key };
    return bodyOf(await this.#call("POST", SESSIONS, [201], body, headers), "sessionId");
  }

  /** Ask the service which batches are missing. */
  async #askMissing() {
    const session = bodyOf(await this.#call("GET", this.#path, [200]), "state");
    if (session.state === "ABORTED") {
      throw new UploadError("session_aborted", "This upload was aborted. Start a new one.");
    }
    // While a session is finishing, only finish can tell what is missing.
    this.#applyReport(session.state === "OPEN" ? session.missing : [], session.missingTruncated ?? false, Batch.WAITING);
  }

  /**
   * Apply a gap report.
   * @param {Gap[]} missing
   * @param {boolean} truncated
   * @param {number} as The state of a missing batch.
   */
  #applyReport(missing, truncated, as = Batch.MISSING) {
    const known = truncated ? (missing.at(-1)?.to ?? -1) : Infinity;
    const found = new Uint8Array(this.batches.length);
    // Nothing is known of batches after the end of a truncated report; sending them again is safe.
    found.forEach((_, n) => (found[n] = n > known ? Batch.WAITING : Batch.STORED));
    for (const { from, to } of missing) found.fill(as, from, to + 1);
    found.forEach((batch, n) => this.#set(n, batch));
    this.#emitProgress();
  }

  async #send() {
    const { signal } = this.#ended;
    const conflicts = /** @type {number[]} */ ([]);
    const invalid = /** @type {Invalid[]} */ ([]);
    let refused = 0;
    /** @type {unknown} */
    let failure = null;
    const running = new Set();
    this.#samples = [];
    this.#sample();
    for (let n = 0; n < this.batches.length; n++) {
      if (this.batches[n] === Batch.STORED) continue;
      while (!failure && running.size >= Math.max(1, Math.floor(this.#allowed))) {
        await Promise.race(running);
      }
      if (this.#held) {
        await this.#held;
        this.#samples = [];
        this.#sample();
      }
      signal.throwIfAborted();
      // Invalid records do not stop the other batches: one run reports as many of them as possible.
      if (failure || refused >= MOST_INVALID) break;
      // Sequentially, because gzip and UTF-16 can only be read forward.
      const { body, lines } = await this.#body(n);
      const task = this.#sendBatch(n, body)
        .catch((error) => {
          if (error.code === "invalid_records") {
            this.#set(n, Batch.MISSING);
            refused += error.body.count;
            for (const { index, path, message } of error.body.errors) invalid.push({ line: lines[index], path, message });
          } else if (error.code === "batch_conflict") {
            this.#set(n, Batch.CONFLICT);
            conflicts.push(n);
          } else {
            failure ??= error;
            this.#unhold();
          }
        })
        .finally(() => running.delete(task));
      running.add(task);
    }
    while (running.size && !failure) await Promise.race(running);
    // Another client, perhaps another tab, has finished the session: finish returns its result.
    if (failure instanceof UploadError && failure.code === "session_finished") failure = null;
    if (failure) throw failure;
    if (refused) {
      const records = refused === 1 ? "1 record does" : `${refused}${refused < MOST_INVALID ? "" : " or more"} records do`;
      throw new UploadError(
        "invalid_records",
        `${records} not satisfy the schema, so their batches are not stored. Correct the file, and upload it as a new one.`,
        { status: 422, invalid: invalid.sort((a, b) => a.line - b.line).slice(0, MOST_INVALID) },
      );
    }
    if (conflicts.length) {
      throw new UploadError(
        "batch_conflict",
        `${conflicts.length} of ${this.batches.length} batches cannot be stored: other records are stored` +
          " under their numbers, and a stored batch never changes. Start a new upload.",
        { status: 409, seqNums: conflicts.sort((a, b) => a - b) },
      );
    }
  }

  /**
   * @param {number} n
   * @param {Uint8Array<ArrayBuffer>} body
   */
  async #sendBatch(n, body) {
    const packed = await gzip(body);
    const sent = packed ?? body;
    if (sent.length > MAX_BODY || body.length > MAX_INFLATED) {
      throw new UploadError(
        "batch_too_large",
        `Batch ${n} has ${body.length} bytes, ${sent.length} as sent. Put fewer records into each batch.`,
      );
    }
    const headers = { ...NDJSON, ...(packed && { "Content-Encoding": "gzip" }), ...(await contentDigest(sent)) };
    await this.#call("PUT", `${this.#path}/batches/${n}`, [204], sent, headers, n);
    this.#set(n, Batch.STORED);
    this.#sample();
    this.#emitProgress();
  }

  /**
   * The body of a batch, as NDJSON, and the line of each record in the file. Throws `file_changed` if
   * the records are not those of the scan.
   * @param {number} n
   */
  async #body(n) {
    const [start, end] = [this.#places[n], this.#places[n + 1]];
    const body = new Uint8Array(end.bytes - start.bytes);
    const lines = /** @type {number[]} */ ([]);
    let length = 0;
    let before = 0;
    try {
      await /** @type {Records} */ (this.#reader).eachBetween(start.at, end.at, (record, _, line) => {
        // The reader counts lines from the start of the batch.
        if (!lines.length) before = start.line - line;
        lines.push(before + line);
        const text = oneLine(record);
        body.set(text, length);
        length += text.length;
        body[length++] = LF;
      });
    } catch (error) {
      // The records no longer fit, or can no longer be read.
      if (error instanceof ReadingError || error instanceof RangeError) throw fileChanged();
      throw error;
    }
    if (length !== body.length || crc32(body, start.crc) !== end.crc) throw fileChanged();
    return { body, lines };
  }

  /** @returns {Promise<Result>} */
  async #merged() {
    let since = Date.now();
    const finish = () => this.#call("POST", `${this.#path}/finish`, [200, 202]);
    let answer = await finish();
    let pause = retryAfter(answer) ?? 2;
    if (answer.status === 200) return bodyOf(answer, "validationResult");
    let done = -1;
    for (;;) {
      await sleep(pause, this.#ended.signal);
      answer = await this.#call("GET", this.#path, [200]);
      const session = bodyOf(answer, "state");
      if (session.state !== "FINISHING" && session.finish) return session.finish;
      if (session.merge) {
        this.dispatchEvent(new CustomEvent("merge", { detail: session.merge }));
        if (session.merge.done > done) since = Date.now();
        done = session.merge.done;
      }
      if (Date.now() - since > FINISHING_SECONDS * 1000 || session.state !== "FINISHING") {
        answer = await finish();
        if (answer.status === 200) return bodyOf(answer, "validationResult");
        pause = retryAfter(answer) ?? 2;
        since = Date.now();
      }
    }
  }

  // --- Requests ---

  /**
   * Send a request, with retries. Returns a success, throws the error of any other final answer.
   *
   * @param {string} method
   * @param {string} path
   * @param {number[]} successes
   * @param {string | Uint8Array<ArrayBuffer>} [body]
   * @param {Record<string, string>} [headers]
   * @param {number} [seqNum] The batch that the request sends.
   * @returns {Promise<Answer>}
   */
  async #call(method, path, successes, body, headers = {}, seqNum = -1) {
    const ended = this.#ended.signal;
    const isBatch = seqNum >= 0;
    const was = this.batches[seqNum];
    let [tried, digests, spent] = [0, 0, 0];
    let before = this.#successes;
    for (;;) {
      // A retry waits for its turn, too, so that the concurrency limit holds.
      if (isBatch) {
        await this.#turn(ended);
        this.#set(seqNum, Batch.SENDING);
      }
      const startedAt = performance.now();
      /** @type {Answer | null} */
      let answer;
      let isTimeout;
      try {
        [answer, isTimeout] = await this.#once(method, path, body, headers, ended);
        // Adjust the concurrency before the next batch gets its turn.
        if (answer && successes.includes(answer.status)) {
          this.#succeeded(startedAt, isBatch);
          return answer;
        }
        if (isTimeout || answer?.status === 429 || answer?.status === 503) this.#cut(startedAt, isTimeout);
      } finally {
        if (isBatch) {
          this.#set(seqNum, was);
          this.#leave();
        }
      }
      const error = answer ? await problem(answer) : noAnswer();
      if (error.code === "digest_mismatch" && ++digests > 2) throw error;
      if (!mayBeRepeated(error)) throw error;
      // Capped, because the clock runs on while the machine sleeps.
      spent += Math.min((performance.now() - startedAt) / 1000, this.#silence);
      const isOffline = globalThis.navigator?.onLine === false;
      if (before !== this.#successes || isOffline) [spent, tried] = [0, 0];
      before = this.#successes;
      // Without a session, the address may be wrong.
      if (spent > (this.#saved ? PATIENCE_SECONDS : PATIENCE_TO_BEGIN_SECONDS)) throw error;
      this.#setTrouble(isOffline ? offline() : error);
      const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** tried++);
      const pause = (answer ? (retryAfter(answer) ?? 0) : 0) + Math.random() * longest;
      // Some browsers report that they are offline when they are not.
      await this.#pause(isOffline ? LONGEST_PAUSE : pause, ended);
      spent += pause;
      if (!answer && isBatch) await (this.#probing ??= this.#probe(ended).finally(() => (this.#probing = null)));
    }
  }

  /** Wait until one more batch may be sent. @param {AbortSignal} ended */
  async #turn(ended) {
    // `#leave` wakes all waiters when a running request ends, in whatever way.
    while (this.#held || this.#running >= Math.max(1, Math.floor(this.#allowed))) {
      await (this.#held ?? new Promise((resolve) => this.#waiting.push(resolve)));
      ended.throwIfAborted();
    }
    this.#running++;
  }

  #leave() {
    this.#running--;
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /**
   * Wait, at most until the browser is online again.
   *
   * @param {number} seconds
   * @param {AbortSignal} ended
   */
  async #pause(seconds, ended) {
    const waits = new AbortController();
    const stop = () => waits.abort();
    globalThis.addEventListener?.("online", stop); // Node has none
    ended.addEventListener("abort", stop);
    await sleep(seconds, waits.signal).catch(() => {});
    globalThis.removeEventListener?.("online", stop);
    ended.removeEventListener("abort", stop);
    ended.throwIfAborted();
  }

  /**
   * Check with a small request that the service is reachable before a batch is sent again. This also
   * detects a redirect to a login page, which looks like a lost connection when a batch is sent.
   *
   * @param {AbortSignal} ended
   */
  async #probe(ended) {
    const [answer] = await this.#once("GET", this.#path, undefined, {}, ended);
    if (!answer || answer.status === 200) return;
    const error = await problem(answer);
    if (!mayBeRepeated(error)) throw error;
  }

  /** @param {number} startedAt @param {boolean} isBatch */
  #succeeded(startedAt, isBatch) {
    this.#successes++;
    this.#setTrouble(null);
    if (!isBatch) return;
    const seconds = (performance.now() - startedAt) / 1000;
    this.#silence = Math.min(LONGEST_SILENCE, Math.max(SILENCE_SECONDS, 3 * seconds));
    if (seconds > SLOW_SECONDS) this.#cut(startedAt);
    else if (seconds < QUICK_SECONDS) {
      this.#allowed = Math.min(this.#concurrency, this.#allowed + (this.#hasLimit ? 1 / this.#allowed : 1));
    }
  }

  /**
   * Halve the concurrency: the connection or the service is too busy.
   *
   * @param {number} startedAt
   * @param {boolean} isTimeout
   */
  #cut(startedAt, isTimeout = false) {
    this.#hasLimit = true;
    // Ignore requests that were started before the last cut.
    if (startedAt < this.#lastCut) return;
    // A single request timed out: allow the next one more time.
    if (isTimeout && this.#allowed < 2) this.#silence = Math.min(LONGEST_SILENCE, 2 * this.#silence);
    this.#allowed = Math.max(1, this.#allowed / 2);
    this.#lastCut = performance.now();
  }

  /** @param {UploadError | null} error */
  #setTrouble(error) {
    if (this.trouble?.code === error?.code) return;
    this.trouble = error;
    this.dispatchEvent(new Event("state"));
  }

  /**
   * Send a request once. Returns the answer, or null, and whether the request timed out: no data
   * arrived for this request or any other.
   *
   * @param {string} method
   * @param {string} path
   * @param {string | Uint8Array<ArrayBuffer> | undefined} body
   * @param {Record<string, string>} headers
   * @param {AbortSignal} ended
   * @returns {Promise<[Answer | null, boolean]>}
   */
  async #once(method, path, body, headers, ended) {
    ended.throwIfAborted();
    // An invalid address or token must not look like a lost connection below.
    const url = new URL(this.#url + path);
    const named = new Headers(headers);
    const token = this.token.trim();
    if (token && !/^[\x21-\x7e]+$/.test(token)) {
      throw new UploadError("bad_token", "The token contains a character that is not allowed in a token.");
    }
    if (token) named.set("Authorization", `Bearer ${token}`);
    const sent = new AbortController();
    const stop = () => sent.abort();
    let isTimeout = false;
    const startedAt = performance.now();
    const listen = () => {
      const left = this.#silence * 1000 - (performance.now() - Math.max(startedAt, this.#lastHeard));
      if (left > 0) return (timer = setTimeout(listen, left));
      isTimeout = true;
      return stop();
    };
    let timer = setTimeout(listen, this.#silence * 1000);
    const onProgress = () => (this.#lastHeard = performance.now());
    ended.addEventListener("abort", stop);
    try {
      const answer = await this.#fetch(url, { method, body, headers: named, signal: sent.signal, onProgress });
      if (answer.type === "opaqueredirect" || answer.redirected) throw notTheService("it redirects to another address");
      // Read the body here: a truncated one counts as no answer.
      const text = await (await answer.blob()).text();
      onProgress();
      return [{ status: answer.status, headers: answer.headers, text }, false];
    } catch (error) {
      ended.throwIfAborted();
      if (error instanceof UploadError) throw error;
      return [null, isTimeout];
    } finally {
      clearTimeout(timer);
      ended.removeEventListener("abort", stop);
    }
  }

  // --- State and events ---

  /** @param {State} state */
  #change(state) {
    this.#state = state;
    this.dispatchEvent(new Event("state"));
  }

  /**
   * @param {number} seqNum
   * @param {number} batch
   */
  #set(seqNum, batch) {
    const before = this.batches[seqNum];
    if (before === batch) return;
    this.#stored += Number(batch === Batch.STORED) - Number(before === Batch.STORED);
    this.batches[seqNum] = batch;
    this.dispatchEvent(new CustomEvent("batch", { detail: { seqNum, batch } }));
  }

  #emitProgress() {
    this.dispatchEvent(new CustomEvent("progress", { detail: this.progress }));
  }

  #storedRecords() {
    const last = this.batches.length - 1;
    const short = this.batches.length * this.#perBatch - this.#records;
    return this.#stored * this.#perBatch - (this.batches[last] === Batch.STORED ? short : 0);
  }

  #sample() {
    const now = performance.now();
    const records = this.#storedRecords();
    const average = this.#records ? this.file.size / this.#records : 0;
    this.#samples.push([now, records * average, records]);
    while (this.#samples.length > 2 && now - this.#samples[0][0] > RATE_SECONDS * 1000) {
      this.#samples.shift();
    }
  }

  #unhold() {
    this.#held = null;
    this.#release();
  }

  /**
   * Stop what runs and run `work`. If it fails, the state is `failed`.
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  async #run(work) {
    this.#ended.abort(new UploadError("stopped", "Another method of this upload was called."));
    this.#unhold();
    const ended = (this.#ended = new AbortController());
    this.error = null;
    try {
      return await work();
    } catch (error) {
      const known = asUploadError(error);
      if (!ended.signal.aborted) {
        ended.abort(known);
        this.#unhold();
        this.error = known;
        this.#change("failed");
      }
      throw known;
    }
  }
}

// --- Batches ---

/** @typedef {{at: number, bytes: number, crc: number, line: number}} Place The start of a record: its
 *  position and line in the text of the file, and the size and CRC-32 of all records before it as
 *  NDJSON. */

/**
 * How many steps go into a batch. A step is the records from one place to the next.
 *
 * @param {Place[]} places The start of each step, and the end of the last.
 * @param {number} exactSteps Number of steps; the last may be a fraction.
 */
function batchesOf(places, exactSteps) {
  const steps = Math.ceil(exactSteps);
  const size = places[places.length - 1].bytes;
  const usual = Math.min(Math.max(size / USUAL_BATCHES, SMALLEST_USUAL_BATCH), LARGEST_USUAL_BATCH);
  const fewest = Math.max(1, Math.ceil(exactSteps / MAX_BATCHES));
  let together = Math.max(fewest, Math.floor((usual * steps) / Math.max(1, size)));
  // Some records may be much larger than the average.
  const largest = () => {
    let most = 0;
    for (let i = 0; i < steps; i += together) {
      most = Math.max(most, places[Math.min(i + together, steps)].bytes - places[i].bytes);
    }
    return most;
  };
  while (together > fewest && largest() > SAFE_BATCH_BYTES) {
    together = Math.max(fewest, Math.floor(together / 2));
  }
  return together;
}

/**
 * Throw `too_large` if the service would not accept `record` even as a batch of one.
 *
 * @param {Uint8Array<ArrayBuffer>} record
 * @param {number} line
 */
async function mustFit(record, line) {
  const packed = (await gzip(record)) ?? record;
  if (packed.length <= MAX_BODY && record.length < MAX_INFLATED) return;
  throw new UploadError(
    "too_large",
    `Line ${line} holds a record of ${record.length} bytes. That is more than the service accepts in a request.`,
    { line },
  );
}

/** Name of the downloaded file, which is NDJSON whatever the format of the source. @param {string} name */
export function downloadName(name) {
  const stem = name.replace(/\.gz$/i, "").replace(/\.(ndjson|jsonl|json|csv|tsv|tab|txt)$/i, "");
  return `${stem.replace(/[\p{C}/\\]/gu, "_").slice(0, 100) || "records"}.ndjson`;
}

/** @param {MergedFormat} [format] */
function knownFormat(format = FORMATS[0]) {
  if (FORMATS.includes(format)) return format;
  throw new UploadError("option", `“${format}” is not a format of the merged object. Use ${FORMATS.join(" or ")}.`);
}

/** 32 random hexadecimal digits. `crypto.randomUUID` requires HTTPS. */
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- Bodies ---

/**
 * Returns null if the browser has no CompressionStream.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<Uint8Array<ArrayBuffer> | null>}
 */
async function gzip(bytes) {
  if (typeof CompressionStream === "undefined") return null;
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(packed).arrayBuffer());
}

/**
 * The header, or nothing if the page was not loaded over HTTPS.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<Record<string, string>>}
 */
async function contentDigest(bytes) {
  if (!globalThis.crypto?.subtle) return {};
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return { "Content-Digest": `sha-256=:${base64(digest)}:` };
}

/** @param {Uint8Array} bytes */
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));

/** @param {number} value */
const bigEndian = (value) => Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/**
 * Continue the CRC-32 `crc` with `bytes`.
 *
 * @param {Uint8Array} bytes
 * @param {number} crc
 */
function crc32(bytes, crc) {
  crc = ~crc;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// --- Answers ---

/** @typedef {{status: number, headers: Headers, text: string}} Answer */

/**
 * Send a request: a `fetch` that reports progress and does not follow redirects. Without
 * XMLHttpRequest, as in Node, it reports no progress of a body.
 *
 * @param {URL} url
 * @param {{method: string, body?: string | Uint8Array<ArrayBuffer>, headers: Headers,
 *   signal: AbortSignal, onProgress: () => unknown}} init
 * @returns {Promise<Pick<Response, "status" | "headers" | "type" | "redirected" | "blob">>}
 */
export function request(url, { method, body, headers, signal, onProgress }) {
  // Only XMLHttpRequest reports upload progress; only fetch can refuse redirects.
  if (!(body instanceof Uint8Array) || typeof XMLHttpRequest === "undefined") {
    return fetch(url, {
      ...{ method, body, headers, signal },
      ...{ cache: "no-store", credentials: "omit", redirect: "manual" },
    });
  }
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const sent = new XMLHttpRequest();
    sent.open(method, url);
    headers.forEach((value, name) => sent.setRequestHeader(name, value));
    sent.responseType = "blob";
    const stop = () => sent.abort();
    signal.addEventListener("abort", stop);
    sent.upload.addEventListener("progress", onProgress);
    sent.addEventListener("readystatechange", onProgress);
    sent.addEventListener("progress", onProgress);
    sent.addEventListener("loadend", () => {
      signal.removeEventListener("abort", stop);
      if (!sent.status) return reject(new TypeError("There was no answer."));
      const lines = sent.getAllResponseHeaders().trim().split("\r\n").filter(Boolean);
      const answered = lines.map((line) => /** @type {[string, string]} */ (line.split(/: ?(.*)/s, 2)));
      resolve({
        ...{ status: sent.status, headers: new Headers(answered), type: "cors" },
        ...{ redirected: sent.responseURL !== url.href, blob: async () => sent.response },
      });
    });
    sent.send(body);
  });
}

/**
 * The JSON of a success. Throws `not_the_service` if it lacks this member.
 *
 * @param {Answer} answer
 * @param {string} member
 */
function bodyOf(answer, member) {
  const body = parsed(answer);
  if (body && member in body) return body;
  throw notTheService(`the answer (${answer.status}) is not one of the service`);
}

/** @param {Answer} answer */
function parsed(answer) {
  try {
    const body = JSON.parse(answer.text);
    return body !== null && typeof body === "object" ? body : null;
  } catch {
    return null;
  }
}

/**
 * The error of an unsuccessful answer: of the service, of API Gateway, or of something in between.
 * @param {Answer} answer
 */
async function problem(answer) {
  const { status } = answer;
  const body = parsed(answer);
  const said = body?.detail ?? body?.title ?? body?.message;
  const isBusy = BUSY.includes(status);
  if (status < 400 || (!said && !isBusy)) {
    return notTheService(`the answer (${status}) is not one of the service`, status);
  }
  return new UploadError(body?.code ?? `http_${status}`, said || `The answer was ${status}.`, { status, body });
}

const BUSY = [429, 500, 502, 503, 504];

/** docs/errors.md, "What to send again". @param {UploadError} error */
const mayBeRepeated = (error) =>
  ["no_answer", "session_finishing", "digest_mismatch"].includes(error.code) || BUSY.includes(error.status ?? 0);

/** Whether the session can no longer be filled. @param {UploadError} error */
const isGone = (error) =>
  ["session_not_found", "session_expired", "session_aborted", "batches_gone"].includes(error.code);

/**
 * Over HTTP/1.1 a browser opens 6 connections to a host. One is left free, so that the page can be
 * reloaded during an upload.
 */
function mostConnections() {
  const [page] = globalThis.performance?.getEntriesByType?.("navigation") ?? [];
  const protocol = /** @type {PerformanceNavigationTiming | undefined} */ (page)?.nextHopProtocol;
  return protocol?.startsWith("http/1") ? 5 : Infinity;
}

/**
 * The address of the API, without a trailing slash or the path of the sessions.
 *
 * @param {string} url
 */
export function serviceUrl(url) {
  const bad = (/** @type {string} */ why) => new UploadError("bad_address", `“${url.trim()}” ${why}.`);
  let found;
  try {
    found = new URL(url.trim(), globalThis.location?.href);
  } catch {
    throw bad("is not a valid URL");
  }
  if (!/^https?:$/.test(found.protocol)) throw bad("is not an HTTP or HTTPS URL");
  if (found.search || found.hash) throw bad("must not have a part after ? or #");
  if (found.username || found.password) throw new UploadError("bad_address", "The URL must not contain a password. Set a token.");
  return found.origin + found.pathname.replace(/\/+$/, "").replace(/\/api\/upload\/sessions$/, "");
}

/** @param {Answer} answer */
function retryAfter(answer) {
  const given = answer.headers.get("Retry-After");
  if (given === null) return null;
  const seconds = /^\d+$/.test(given) ? Number(given) : (Date.parse(given) - Date.now()) / 1000;
  return seconds > 0 ? seconds : null;
}

/**
 * @param {number} seconds
 * @param {AbortSignal} ended
 * @returns {Promise<void>}
 */
function sleep(seconds, ended) {
  return new Promise((resolve, reject) => {
    if (ended.aborted) return reject(ended.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(ended.reason);
    };
    const timer = setTimeout(() => {
      ended.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    ended.addEventListener("abort", stop, { once: true });
  });
}

const noAnswer = () =>
  new UploadError("no_answer", "The service cannot be reached. Check the connection and the address.");

const offline = () => new UploadError("offline", "The upload continues when the connection is back.");

/** @param {string} what @param {number} [status] */
const notTheService = (what, status) =>
  new UploadError(
    "not_the_service",
    `Something else answered: ${what}. It may be the login page of a network or a proxy, or the address is wrong.`,
    { status },
  );

/** @param {unknown} error */
function asUploadError(error) {
  if (error instanceof ReadingError) return new UploadError(error.code, error.message, { line: error.line });
  return error instanceof DOMException ? fileChanged() : error;
}

const fileChanged = () =>
  new UploadError("file_changed", "The file has changed since it was checked, or it cannot be read. Choose it again.");

/**
 * @param {number} size
 * @param {number} position
 * @param {number} records Up to `position`.
 */
function tooManyBatches(size, position, records) {
  const least = Math.ceil(((size / position) * records) / MAX_BATCHES);
  return new UploadError(
    "too_many_batches",
    `A session can have at most ${MAX_BATCHES} batches: put at least ${least} records into each.`,
  );
}
