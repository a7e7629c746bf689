// @ts-check
/**
 * Sends a file of records to Gapless in numbered batches, from a browser.
 *
 * The file is read twice, a piece at a time and never whole: once to check and count the records and
 * to note where each batch begins, once to send them. Both times the CRC-32 of each batch is taken,
 * so that nothing is sent but what was checked. JSON travels as the bytes it is in the file.
 * docs/web.md tells how to use this module, docs/protocol.md what it speaks.
 *
 * @module
 */

import { Records, ReadingError, oneLine } from "./readers.js";

const SESSIONS = "/api/upload/sessions";
const NDJSON = { "Content-Type": "application/x-ndjson" };

/** @type {MergedFormat[]} */
const FORMATS = ["ndjson", "ndjson.gz"];

/** A session takes no more batches than this. */
export const MAX_BATCHES = 100_000;

// As the service says in docs/protocol.md.
const MAX_BODY = 4_500_000;
const MAX_INFLATED = 64 * 1024 * 1024;
// A batch of this many bytes is within every limit of the service, however badly it compresses.
const SAFE_BATCH_BYTES = 4_000_000;
// Large enough that requests cost little, small enough that a lost one costs little.
const LARGEST_USUAL_BATCH = 1_000_000;
const SMALLEST_USUAL_BATCH = 64_000;
const USUAL_BATCHES = 100;
// Of so many records the first pass remembers the place; of a longer file of every 2nd, 4th, 8th …
const PLACES = 2 * MAX_BATCHES;

// API Gateway answers within 30 seconds. So long may nothing at all be heard of the service.
const SILENCE_SECONDS = 40;
const LONGEST_SILENCE = 320;
// Requests that take so long are too many for the line; where they take less, there may be more.
const SLOW_SECONDS = 10;
const QUICK_SECONDS = 5;
// So long nothing need succeed before an upload gives up. Time offline or asleep does not count.
const PATIENCE_SECONDS = 300;
const PATIENCE_TO_BEGIN_SECONDS = 20;
const FIRST_PAUSE = 0.5;
const LONGEST_PAUSE = 20;
const FINISHING_SECONDS = 40; // After that whoever was at work may have died.
const RATE_SECONDS = 10;

// So many refused records are told; then nothing more is sent.
const MOST_INVALID = 100;

const LF = 10;
const LINE_FEED = Uint8Array.of(LF);

/** What is known of a batch; the values of {@link Upload#batches}. */
export const Batch = Object.freeze({ WAITING: 0, SENDING: 1, STORED: 2, MISSING: 3, CONFLICT: 4 });

/**
 * @typedef {"new" | "scanning" | "ready" | "sending" | "paused" | "sent" | "finishing" | "finished"
 *   | "incomplete" | "failed" | "aborted"} State
 *
 * @typedef {"ndjson" | "ndjson.gz"} MergedFormat Lines, or these in one gzip file.
 *
 * @typedef {object} Options
 * @property {string} [url] Where the API is: `https://host`. The page's own origin by default.
 * @property {string} [token] A bearer token.
 * @property {number} [batchSize] Records in a batch. Chosen to suit the file by default.
 * @property {number} [concurrency] The most requests at a time; 8 by default.
 * @property {MergedFormat} [format] Of the merged object; `ndjson` by default.
 * @property {string} [schema] The name of the schema that the service holds the records against.
 * @property {Record<string, string>} [metadata] Of the session, beside its `name`, which is that of
 *   the merged file unless it is given.
 * @property {import("./readers.js").Wanted} [reading] What decides where the file can be read in
 *   more than one way.
 * @property {typeof request} [fetch] Used instead of {@link request}, to sign requests for example.
 * @property {Saved} [saved] An upload to go on with; see {@link Upload#saved}.
 * @property {Asked | null} [asked] A request for a session that was not answered; see
 *   {@link Upload#asked}.
 *
 * @typedef {object} Saved What an upload needs to be gone on with, as JSON.
 * @property {string} sessionId
 * @property {string} url
 * @property {string} name
 * @property {number} [size]
 * @property {number} [lastModified]
 * @property {number} records
 * @property {number} batchSize
 * @property {number} [crc32] Of all records. Without it no record is compared before it is sent; the
 *   service compares each batch, and `finish` all of them.
 * @property {MergedFormat} [format] Of the merged object; `ndjson` where there is none.
 * @property {string} [schema]
 * @property {string} [expiresAt] When the session ends, by the clock of the service.
 *
 * @typedef {{key: string, body: string}} Asked A request for a session: its `Idempotency-Key`, and its
 *   body. The same once more gives the same session.
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
 * @typedef {{line: number, path: string, message: string}} Invalid A record that does not satisfy the
 *   schema: its line in the file, from 1, and a JSON Pointer to what is wrong in it.
 *
 * @typedef {{from: number, to: number}} Gap A range of batches; both ends are included.
 *
 * @typedef {object} Progress
 * @property {number} scanned Bytes that the first pass has read.
 * @property {number} batches How many there are.
 * @property {number} stored How many of them are stored.
 * @property {number} records How many there are.
 * @property {number} storedRecords How many of them are stored.
 * @property {number} bytesPerSecond Of the file, lately.
 * @property {number} recordsPerSecond Lately.
 * @property {number | null} secondsLeft Null while nobody can tell.
 *
 * @typedef {object} Result The answer of finish.
 * @property {"Success" | "Failed"} validationResult
 * @property {string} [reason] `missing_batches`, `record_count` or `merge_failed`.
 * @property {string} [detail]
 * @property {Gap[]} [missing]
 * @property {boolean} [missingTruncated]
 * @property {number} [receivedRecord]
 * @property {number} [bytes] Of the merged object as it is stored, as the checksum is.
 * @property {{algorithm: string, value: string}} [checksum]
 * @property {{bytes: number, checksum: {algorithm: string, value: string}}} [content] Of the lines
 *   in a merged object of the format `ndjson.gz`.
 * @property {boolean} [verified] Whether size and checksum of the lines are those of the file. Set by
 *   this module.
 */

/** Why an upload cannot go on. */
export class UploadError extends Error {
  /**
   * @param {string} code A code of docs/errors.md; `http_<status>` where API Gateway answered;
   *   `no_answer`; `not_the_service` where something else answered; `bad_address`, `bad_token`;
   *   `stopped` where another method was called meanwhile; or one about the file: `file_changed`,
   *   `different_file`, `too_many_batches`, `checksum_mismatch`, or a code of docs/web.md, "What is
   *   refused".
   * @param {string} message What to do, for people.
   * @param {{status?: number, line?: number, seqNums?: number[], invalid?: Invalid[], body?: any}} [about]
   */
  constructor(code, message, about = {}) {
    super(message);
    this.name = "UploadError";
    this.code = code;
    /** The HTTP status, where there is one. */
    this.status = about.status;
    /** The line of the file, counted from 1, where that is known. */
    this.line = about.line;
    /** The batches that are in conflict. */
    this.seqNums = about.seqNums;
    /** The first records that the service refused, by line. */
    this.invalid = about.invalid;
    /** The answer, where it is JSON. */
    this.body = about.body;
  }
}

/**
 * One file on its way.
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
  #sendsHeld = /** @type {Promise<void> | null} */ (null);
  #release = () => {};
  #ended = new AbortController();
  /** Where each batch begins, and the end. @type {Place[]} */
  #places = [];
  #perBatch;
  #scanned = 0;
  #stored = 0;
  #concurrency;
  // Doubled in each round until something tells the limit.
  #allowed = 2;
  #hasLimit = false;
  #underWay = 0;
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
    /** What is known of each batch, by `seqNum`: see {@link Batch}. */
    this.batches = new Uint8Array();
    /** @type {Result | null} The last answer of finish. */
    this.result = null;
    /** @type {unknown} Why the state is `failed`. */
    this.error = null;
    /** @type {UploadError | null} Why nothing goes on just now, while it is tried again. */
    this.trouble = null;
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /** Records in the file, once it is scanned. */
  get records() {
    return this.#records;
  }

  /** How the file is read, once that is known. */
  get reading() {
    return this.#reader?.reading ?? null;
  }

  /** Blank lines of the file, once it is scanned. They are no records. */
  get blank() {
    return this.#reader?.blank ?? 0;
  }

  /** Records in every batch but the last. */
  get batchSize() {
    return this.#perBatch;
  }

  /** Of the merged object. May be set as long as no session is open, which keeps the one it has. */
  get format() {
    return this.#saved?.format ?? this.#format;
  }

  set format(format) {
    this.#format = knownFormat(format);
  }

  /** The name of a schema, or an empty string. Once a session is open it is fixed. */
  get schema() {
    return this.#schema;
  }

  set schema(name) {
    if (!this.#saved) this.#schema = name;
  }

  /** The open session's id, or an empty string. */
  get sessionId() {
    return this.#saved?.sessionId ?? "";
  }

  /** @returns {Saved | null} Keep this, to go on after the page is gone; null without a session. */
  get saved() {
    return this.#saved;
  }

  /**
   * Where the page is gone before a session is answered, keep this to get the same one.
   * @returns {Asked | null} The request that is not answered yet.
   */
  get asked() {
    return this.#asked;
  }

  /** @returns {Gap[]} What the service said is missing, and has not been stored since. */
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
   * Check and count the records; nothing is sent. `start` does this where it was not done.
   *
   * @throws {UploadError} A code of docs/web.md, "What is refused", with the line;
   *   `too_many_batches`, `file_changed`; with `saved`, `different_file` where the records are not
   *   the same ones.
   */
  async scan() {
    if (this.#state !== "new") return;
    this.#change("scanning");
    await this.#failing(async () => {
      await this.#scan();
      const saved = this.#saved;
      if (saved && (saved.records !== this.#records || (saved.crc32 ?? this.#crc) !== this.#crc)) {
        this.#places = [];
        throw new UploadError(
          "different_file",
          `This is not the file whose upload was begun: ${saved.name}, of ${saved.records} records.`,
        );
      }
      this.#change("ready");
    });
  }

  /** Stop a scan that runs: the state is `new` again, and nothing is lost. */
  cancel() {
    if (this.#state !== "scanning") return;
    this.#ended.abort(new UploadError("stopped", "The check was cancelled."));
    this.#change("new");
  }

  /**
   * Ask the service what it has of the upload that was given as `saved`; `start` does so too. Where
   * the session is gone `saved` becomes null, so that `start` opens another.
   *
   * @returns {Promise<UploadError | null>} Why the session is gone.
   * @throws {UploadError} Where there is no answer.
   */
  async look() {
    if (this.#state !== "ready" || !this.#saved) return null;
    const ended = this.#ended.signal;
    try {
      await this.#look();
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
   * Send every batch that the service does not have. Gives true once all are stored, which may be
   * after a pause. After an error it may be called again; it asks the service what is missing.
   *
   * @throws {UploadError}
   */
  async start() {
    if (this.#places.length === 0) {
      this.#state = "new";
      await this.scan();
    }
    return this.#failing(async () => {
      this.#change("sending");
      if (this.#saved) await this.#look();
      else await this.#open();
      await this.#send();
      this.#change("sent");
      return true;
    });
  }

  /** Send nothing more until `resume`. What is under way arrives. */
  pause() {
    if (this.#state !== "sending") return;
    this.#sendsHeld = new Promise((resolve) => (this.#release = resolve));
    this.#change("paused");
  }

  /** Go on after `pause`. */
  resume() {
    if (this.#state !== "paused") return;
    this.#go();
    this.#change("sending");
  }

  /**
   * Have the service check for gaps and merge; nothing more is sent. `Failed` is an answer, not an
   * error: see `missing`, `start` again, finish again. Repeatable.
   *
   * @returns {Promise<Result>}
   * @throws {UploadError} `checksum_mismatch` if the merged object is not what was sent.
   */
  async finish() {
    return this.#failing(async () => {
      this.#change("finishing");
      // What was sent is what was checked. That it is still what is in the file, the browser knows.
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
            `The merged object has another ${isChecksum ? "size" : "checksum"} than the file. Do not use it.`,
          );
        }
        for (let n = 0; n < this.batches.length; n++) this.#set(n, Batch.STORED);
      } else {
        this.#take(result.missing ?? [], result.missingTruncated ?? false);
      }
      this.#change(result.validationResult === "Success" ? "finished" : "incomplete");
      return result;
    });
  }

  /**
   * A link to the merged object. It works without a token, for some minutes. A browser gets lines
   * by it in either format: it inflates what comes as gzip.
   *
   * @returns {Promise<{url: string, expiresAt: string}>}
   */
  async link() {
    const path = `${this.#path}/file`;
    const answer = await this.#call("GET", path, [200], undefined, { Accept: "application/json" });
    return bodyOf(answer, "url");
  }

  /** Give up: stop sending, and have the service delete what it has. Repeatable. */
  async abort() {
    return this.#failing(async () => {
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

  /** Delete the merged object and its manifest, for good. Repeatable. @throws {UploadError} */
  async deleteFile() {
    await this.#call("DELETE", `${this.#path}/file`, [204]);
  }

  /**
   * The caller's sessions, newest first, a page of them. An upload into one of them is made with a
   * `saved` of its numbers.
   *
   * @param {Pick<Options, "url" | "token" | "fetch"> & {state?: string, cursor?: string | null}} [options]
   *   `cursor` is that of the page before.
   * @returns {Promise<{sessions: Listed[], cursor: string | null}>} No `cursor` at the end.
   * @throws {UploadError} `no_list` where the service does not know who calls.
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
        this.#tell();
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
      // Another version of this module wrote that request in another way.
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

  /** Open a session, or get the one that the same request has opened. @param {string} body */
  async #opened(body) {
    if (this.#asked?.body !== body) this.#asked = { key: randomKey(), body };
    // Now it can be kept: what is lost from here on is the answer alone.
    this.dispatchEvent(new Event("state"));
    const headers = { "Content-Type": "application/json", "Idempotency-Key": this.#asked.key };
    return bodyOf(await this.#call("POST", SESSIONS, [201], body, headers), "sessionId");
  }

  /** Ask the service what it has. */
  async #look() {
    const session = bodyOf(await this.#call("GET", this.#path, [200]), "state");
    if (session.state === "ABORTED") {
      throw new UploadError("session_aborted", "This upload was aborted. Start a new one.");
    }
    // A session that finishes has what it needs, or finish will tell what it lacks.
    this.#take(session.state === "OPEN" ? session.missing : [], session.missingTruncated ?? false, Batch.WAITING);
  }

  /**
   * Take over a gap report.
   * @param {Gap[]} missing
   * @param {boolean} truncated
   * @param {number} as What a batch is that the service does not have.
   */
  #take(missing, truncated, as = Batch.MISSING) {
    const known = truncated ? (missing.at(-1)?.to ?? -1) : Infinity;
    const found = new Uint8Array(this.batches.length);
    // Of what comes after a truncated report nothing is known; sending it again is safe.
    found.forEach((_, n) => (found[n] = n > known ? Batch.WAITING : Batch.STORED));
    for (const { from, to } of missing) found.fill(as, from, to + 1);
    found.forEach((batch, n) => this.#set(n, batch));
    this.#tell();
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
      if (this.#sendsHeld) {
        await this.#sendsHeld;
        this.#samples = [];
        this.#sample();
      }
      signal.throwIfAborted();
      // The other batches are sent all the same, so that all of their records are told.
      if (failure || refused >= MOST_INVALID) break;
      // One after the other: what is not plain text can be read forward only.
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
            this.#go();
          }
        })
        .finally(() => running.delete(task));
      running.add(task);
    }
    while (running.size && !failure) await Promise.race(running);
    // Somebody else has finished it meanwhile, another tab perhaps: finish tells what is in it.
    if (failure instanceof UploadError && failure.code === "session_finished") failure = null;
    if (failure) throw failure;
    if (refused) {
      const records = refused === 1 ? "1 record does" : `${refused}${refused < MOST_INVALID ? "" : " or more"} records do`;
      throw new UploadError(
        "invalid_records",
        `${records} not satisfy the schema, so nothing of their batches is stored. Correct them in the` +
          " file, and upload it as a new one.",
        { status: 422, invalid: invalid.sort((a, b) => a.line - b.line).slice(0, MOST_INVALID) },
      );
    }
    if (conflicts.length) {
      throw new UploadError(
        "batch_conflict",
        `${conflicts.length} of ${this.batches.length} batches cannot be stored: others have their` +
          " numbers, and what is stored never changes. Start a new upload.",
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
    this.#tell();
  }

  /**
   * The body of a batch, as NDJSON: the bytes that are stored of it; and the line of each record in
   * the file. Raises where it is not what was checked.
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
        // It counts from where it began.
        if (!lines.length) before = start.line - line;
        lines.push(before + line);
        const text = oneLine(record);
        body.set(text, length);
        length += text.length;
        body[length++] = LF;
      });
    } catch (error) {
      // What does not fit in, or cannot be read any more, is not what was checked.
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
   * Send a request until there is an answer that means something, and give it if it is a success.
   *
   * @param {string} method
   * @param {string} path
   * @param {number[]} successes
   * @param {string | Uint8Array<ArrayBuffer>} [body]
   * @param {Record<string, string>} [headers]
   * @param {number} [seqNum] The batch that it sends.
   * @returns {Promise<Answer>}
   */
  async #call(method, path, successes, body, headers = {}, seqNum = -1) {
    const ended = this.#ended.signal;
    const isBatch = seqNum >= 0;
    const was = this.batches[seqNum];
    let [tried, digests, spent] = [0, 0, 0];
    let before = this.#successes;
    for (;;) {
      // One that is tried again waits for its turn too: a line that is full takes no more of them.
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
        // Before the next one's turn, which this decides.
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
      // Not what the clock says, which goes on while the machine sleeps.
      spent += Math.min((performance.now() - startedAt) / 1000, this.#silence);
      const isOffline = globalThis.navigator?.onLine === false;
      if (before !== this.#successes || isOffline) [spent, tried] = [0, 0];
      before = this.#successes;
      // Where nothing was begun, the address may well be wrong.
      if (spent > (this.#saved ? PATIENCE_SECONDS : PATIENCE_TO_BEGIN_SECONDS)) throw error;
      this.#troubled(isOffline ? offline() : error);
      const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** tried++);
      const pause = (answer ? (retryAfter(answer) ?? 0) : 0) + Math.random() * longest;
      // Some browsers say that they are offline when they are not.
      await this.#pause(isOffline ? LONGEST_PAUSE : pause, ended);
      spent += pause;
      if (!answer && isBatch) await (this.#probing ??= this.#probe(ended).finally(() => (this.#probing = null)));
    }
  }

  /** Wait until one more batch may be on its way. @param {AbortSignal} ended */
  async #turn(ended) {
    // Who waits here is woken by one that is under way, however that one ends.
    while (this.#sendsHeld || this.#underWay >= Math.max(1, Math.floor(this.#allowed))) {
      await (this.#sendsHeld ?? new Promise((resolve) => this.#waiting.push(resolve)));
      ended.throwIfAborted();
    }
    this.#underWay++;
  }

  #leave() {
    this.#underWay--;
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /**
   * Wait, but no longer than until the browser is online again.
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
   * Ask by a small request whether the service is there before a batch is sent again. It also shows
   * a redirect to a log-in, which the sending of a batch does not tell from a lost connection.
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
    this.#troubled(null);
    if (!isBatch) return;
    const seconds = (performance.now() - startedAt) / 1000;
    this.#silence = Math.min(LONGEST_SILENCE, Math.max(SILENCE_SECONDS, 3 * seconds));
    if (seconds > SLOW_SECONDS) this.#cut(startedAt);
    else if (seconds < QUICK_SECONDS) {
      this.#allowed = Math.min(this.#concurrency, this.#allowed + (this.#hasLimit ? 1 / this.#allowed : 1));
    }
  }

  /**
   * The line or the service is too busy for so many requests at a time.
   *
   * @param {number} startedAt
   * @param {boolean} isTimeout
   */
  #cut(startedAt, isTimeout = false) {
    this.#hasLimit = true;
    // Requests that were under way at the last cut tell nothing that it did not.
    if (startedAt < this.#lastCut) return;
    // A single one that takes too long needs longer.
    if (isTimeout && this.#allowed < 2) this.#silence = Math.min(LONGEST_SILENCE, 2 * this.#silence);
    this.#allowed = Math.max(1, this.#allowed / 2);
    this.#lastCut = performance.now();
  }

  /** @param {UploadError | null} error */
  #troubled(error) {
    if (this.trouble?.code === error?.code) return;
    this.trouble = error;
    this.dispatchEvent(new Event("state"));
  }

  /**
   * Gives null in place of an answer where there was none, and whether that was for silence: nothing
   * was heard of this request, nor of any other.
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
    // A token or an address that cannot be one is an error here, and no lost connection below.
    const url = new URL(this.#url + path);
    const named = new Headers(headers);
    const token = this.token.trim();
    if (token && !/^[\x21-\x7e]+$/.test(token)) {
      throw new UploadError("bad_token", "The token holds a character that no token has.");
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
      if (answer.type === "opaqueredirect" || answer.redirected) throw notTheService("it leads to another address");
      // Read here, so that a body that breaks off counts as no answer.
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

  // --- What others see ---

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

  #tell() {
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

  #go() {
    this.#sendsHeld = null;
    this.#release();
  }

  /**
   * Run `work` in place of what runs; where it fails, the upload has failed and nothing goes on.
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  async #failing(work) {
    this.#ended.abort(new UploadError("stopped", "Something else was asked for."));
    this.#go();
    const ended = (this.#ended = new AbortController());
    this.error = null;
    try {
      return await work();
    } catch (error) {
      const known = asUploadError(error);
      if (!ended.signal.aborted) {
        ended.abort(known);
        this.#go();
        this.error = known;
        this.#change("failed");
      }
      throw known;
    }
  }
}

// --- Batches ---

/** @typedef {{at: number, bytes: number, crc: number, line: number}} Place Where a record begins in the
 *  text of the file, on which line, and the bytes and the CRC-32 of all records before it, each on one
 *  line. */

/**
 * How many steps of records go into a batch.
 *
 * @param {Place[]} places Where each step begins, and the end.
 * @param {number} exactSteps
 */
function batchesOf(places, exactSteps) {
  const steps = Math.ceil(exactSteps);
  const size = places[places.length - 1].bytes;
  const usual = Math.min(Math.max(size / USUAL_BATCHES, SMALLEST_USUAL_BATCH), LARGEST_USUAL_BATCH);
  const fewest = Math.max(1, Math.ceil(exactSteps / MAX_BATCHES));
  let together = Math.max(fewest, Math.floor((usual * steps) / Math.max(1, size)));
  // Records may be large where the average is small.
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
 * Raise where the service would not take `record` even in a batch of its own.
 *
 * @param {Uint8Array<ArrayBuffer>} record
 * @param {number} line
 */
async function mustFit(record, line) {
  const packed = (await gzip(record)) ?? record;
  if (packed.length <= MAX_BODY && record.length < MAX_INFLATED) return;
  throw new UploadError(
    "too_large",
    `Line ${line} holds a record of ${record.length} bytes. That is more than the service takes in a request.`,
    { line },
  );
}

/** What a browser saves the merged file as: lines, whatever the file was. @param {string} name */
export function downloadName(name) {
  const stem = name.replace(/\.gz$/i, "").replace(/\.(ndjson|jsonl|json|csv|tsv|tab|txt)$/i, "");
  return `${stem.replace(/[\p{C}/\\]/gu, "_").slice(0, 100) || "records"}.ndjson`;
}

/** @param {MergedFormat} [format] */
function knownFormat(format = FORMATS[0]) {
  if (FORMATS.includes(format)) return format;
  throw new UploadError("option", `“${format}” is no format of a merged object: ${FORMATS.join(" or ")}.`);
}

/** 32 digits that nobody guesses; `crypto.randomUUID` is there over HTTPS alone. */
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- Bodies ---

/**
 * Null where the browser cannot.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<Uint8Array<ArrayBuffer> | null>}
 */
async function gzip(bytes) {
  if (typeof CompressionStream === "undefined") return null;
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(packed).arrayBuffer());
}

/**
 * The header, or nothing where the page was not loaded over HTTPS.
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
 * The CRC-32 of `bytes` after what has the CRC-32 `crc`.
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
 * Send a request. As `fetch`, but tells when something of it has moved, and follows no redirect.
 *
 * @param {URL} url
 * @param {{method: string, body?: string | Uint8Array<ArrayBuffer>, headers: Headers,
 *   signal: AbortSignal, onProgress: () => unknown}} init
 * @returns {Promise<Pick<Response, "status" | "headers" | "type" | "redirected" | "blob">>}
 */
export function request(url, { method, body, headers, signal, onProgress }) {
  // Only an XMLHttpRequest says how its body gets on, and only a fetch does not follow redirects.
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
 * The JSON of a success, which has a member of this name.
 *
 * @param {Answer} answer
 * @param {string} member
 */
function bodyOf(answer, member) {
  const body = parsed(answer);
  if (body && member in body) return body;
  throw notTheService(`it answered ${answer.status} with something else than the service does`);
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
 * An answer that is no success: of the service, of API Gateway, or of something in between.
 * @param {Answer} answer
 */
async function problem(answer) {
  const { status } = answer;
  const body = parsed(answer);
  const said = body?.detail ?? body?.title ?? body?.message;
  const isBusy = BUSY.includes(status);
  if (status < 400 || (!said && !isBusy)) {
    return notTheService(`it answered ${status} with something else than the service does`, status);
  }
  return new UploadError(body?.code ?? `http_${status}`, said || `The answer was ${status}.`, { status, body });
}

const BUSY = [429, 500, 502, 503, 504];

/** docs/errors.md, "What to send again". @param {UploadError} error */
const mayBeRepeated = (error) =>
  ["no_answer", "session_finishing", "digest_mismatch"].includes(error.code) || BUSY.includes(error.status ?? 0);

/** Whether the session can never be filled any more. @param {UploadError} error */
const isGone = (error) =>
  ["session_not_found", "session_expired", "session_aborted", "batches_gone"].includes(error.code);

/**
 * A browser opens 6 connections to a host of HTTP/1.1. Were all busy with batches, the page could not
 * even be loaded again before one of them ends.
 */
function mostConnections() {
  const [page] = globalThis.performance?.getEntriesByType?.("navigation") ?? [];
  const protocol = /** @type {PerformanceNavigationTiming | undefined} */ (page)?.nextHopProtocol;
  return protocol?.startsWith("http/1") ? 5 : Infinity;
}

/**
 * The address without a slash at the end, or the path of the sessions.
 *
 * @param {string} url
 */
export function serviceUrl(url) {
  const bad = (/** @type {string} */ why) => new UploadError("bad_address", `“${url.trim()}” ${why}.`);
  let found;
  try {
    found = new URL(url.trim(), globalThis.location?.href);
  } catch {
    throw bad("is no address");
  }
  if (!/^https?:$/.test(found.protocol)) throw bad("is no HTTP address");
  if (found.search || found.hash) throw bad("has a part behind ? or #, which an address of the service has not");
  if (found.username || found.password) throw new UploadError("bad_address", "An address holds no password. Set a token.");
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
  new UploadError("no_answer", "The service cannot be reached. Look at the connection and the address.");

const offline = () => new UploadError("offline", "The upload goes on by itself when the connection is back.");

/** @param {string} what @param {number} [status] */
const notTheService = (what, status) =>
  new UploadError(
    "not_the_service",
    `Something else answered: ${what}. It may be the log-in page of a network or a proxy, or the address is wrong.`,
    { status },
  );

/** @param {unknown} error */
function asUploadError(error) {
  if (error instanceof ReadingError) return new UploadError(error.code, error.message, { line: error.line });
  return error instanceof DOMException ? fileChanged() : error;
}

const fileChanged = () =>
  new UploadError("file_changed", "It has changed since it was checked, or it cannot be read. Choose it again.");

/**
 * @param {number} size
 * @param {number} position
 * @param {number} records Up to `position`.
 */
function tooManyBatches(size, position, records) {
  const least = Math.ceil(((size / position) * records) / MAX_BATCHES);
  return new UploadError(
    "too_many_batches",
    `A session takes ${MAX_BATCHES} batches: put at least ${least} records into each.`,
  );
}
