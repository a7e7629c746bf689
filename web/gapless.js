// @ts-check
/**
 * Sends a file of JSON records to Gapless in numbered batches, from a browser.
 *
 * The file is read twice, a piece at a time and never whole: once to check and count the records and
 * to note where each batch begins, once to send them. Records travel as the bytes they are in the
 * file. docs/web.md tells how to use this module, docs/protocol.md what it speaks.
 *
 * @module
 */

const SESSIONS = "/api/upload/sessions";
const BATCH = { "Content-Type": "application/vnd.gapless.batch+json" };
const PIECE = 1024 * 1024;

/** A session takes no more batches than this. */
export const MAX_BATCHES = 100_000;

// A batch of this many bytes is within every limit of the service, however badly it compresses.
const SAFE_BATCH_BYTES = 4_000_000;
// Large enough that requests cost little, small enough that a lost one costs little.
const LARGEST_USUAL_BATCH = 1_000_000;
const SMALLEST_USUAL_BATCH = 64_000;
const USUAL_BATCHES = 100;
// Of so many records the first pass remembers the place; of a longer file of every 2nd, 4th, 8th …
const PLACES = 2 * MAX_BATCHES;

const REQUEST_SECONDS = 40; // API Gateway answers within 30.
const TRIES = 8;
const FIRST_PAUSE = 0.5;
const LONGEST_PAUSE = 20;
const FINISHING_SECONDS = 40; // After that whoever was at work may have died.
const RATE_SECONDS = 10;

/** What is known of a batch; the values of {@link Upload#batches}. */
export const Batch = Object.freeze({ WAITING: 0, SENDING: 1, STORED: 2, MISSING: 3, CONFLICT: 4 });

/**
 * @typedef {"new" | "scanning" | "ready" | "sending" | "paused" | "sent" | "finishing" | "finished"
 *   | "incomplete" | "failed" | "aborted"} State
 *
 * @typedef {object} Options
 * @property {string} [url] Where the API is: `https://host`. The page's own origin by default.
 * @property {string} [token] A bearer token.
 * @property {number} [batchSize] Records in a batch. Chosen to suit the file by default.
 * @property {number} [concurrency] The most requests at a time; 8 by default.
 * @property {typeof fetch} [fetch] Used instead of the browser's own.
 * @property {Saved} [saved] An upload to go on with; see {@link Upload#saved}.
 *
 * @typedef {object} Saved What an upload needs to be gone on with, as JSON.
 * @property {string} sessionId
 * @property {string} url
 * @property {string} name
 * @property {number} size
 * @property {number} lastModified
 * @property {number} records
 * @property {number} batchSize
 * @property {number} crc32
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
 * @property {number} [bytes]
 * @property {{algorithm: string, value: string}} [checksum]
 * @property {boolean} [verified] Whether the checksum is that of the file. Set by this module.
 */

/** Why an upload cannot go on. */
export class UploadError extends Error {
  /**
   * @param {string} code A code of docs/errors.md; `http_<status>` where API Gateway answered;
   *   `no_answer`; `stopped` where another method was called meanwhile; or one about the file:
   *   `malformed_record`, `file_changed`, `different_file`, `too_many_batches`, `checksum_mismatch`.
   * @param {string} message What to do, for people.
   * @param {{status?: number, line?: number, seqNums?: number[]}} [about]
   */
  constructor(code, message, about = {}) {
    super(message);
    this.name = "UploadError";
    this.code = code;
    /** The HTTP status, where there is one. */
    this.status = about.status;
    /** The line of the file, counted from 1, where a record is malformed. */
    this.line = about.line;
    /** The batches that are in conflict. */
    this.seqNums = about.seqNums;
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
  #url;
  #sendsHeld = /** @type {Promise<void> | null} */ (null);
  #release = () => {};
  #ended = new AbortController();
  #starts = new Float64Array();
  #perBatch;
  #scanned = 0;
  #stored = 0;
  #concurrency;
  #allowed = 4;
  #lastCut = 0;
  /** @type {[number, number, number][]} */
  #samples = [];
  #fetch;
  #records = 0;
  #crc = 0;

  /**
   * @param {File} file NDJSON, or a JSON array.
   * @param {Options} [options]
   */
  constructor(file, options = {}) {
    super();
    this.file = file;
    /** A bearer token; may be replaced at any time. */
    this.token = options.token ?? "";
    this.#url = (options.url || options.saved?.url || globalThis.location.origin).replace(/\/+$/, "");
    this.#saved = options.saved ?? null;
    this.#perBatch = options.saved?.batchSize ?? options.batchSize ?? 0;
    this.#concurrency = options.concurrency ?? 8;
    this.#allowed = Math.min(this.#allowed, this.#concurrency);
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    /** What is known of each batch, by `seqNum`: see {@link Batch}. */
    this.batches = new Uint8Array();
    /** @type {Result | null} The last answer of finish. */
    this.result = null;
    /** @type {unknown} Why the state is `failed`. */
    this.error = null;
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /** Records in the file, once it is scanned. */
  get records() {
    return this.#records;
  }

  /** Records in every batch but the last. */
  get batchSize() {
    return this.#perBatch;
  }

  /** The open session's id, or an empty string. */
  get sessionId() {
    return this.#saved?.sessionId ?? "";
  }

  /** @returns {Saved | null} Keep this, to go on after the page is gone; null without a session. */
  get saved() {
    return this.#saved;
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
   * @throws {UploadError} `malformed_record` with the line, `too_many_batches`, `file_changed`; with
   *   `saved`, `different_file` where the records are not the same ones.
   */
  async scan() {
    if (this.#state !== "new") return;
    this.#change("scanning");
    await this.#failing(async () => {
      await this.#scan();
      const saved = this.#saved;
      if (saved && (saved.records !== this.#records || saved.crc32 !== this.#crc)) {
        this.#starts = new Float64Array();
        throw new UploadError(
          "different_file",
          `This is not the file whose upload was begun: ${saved.name}, of ${saved.records} records.`,
        );
      }
      this.#change("ready");
    });
  }

  /**
   * Send every batch that the service does not have. Gives true once all are stored, which may be
   * after a pause. After an error it may be called again; it asks the service what is missing.
   *
   * @throws {UploadError}
   */
  async start() {
    if (this.#starts.length === 0) {
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
      const result = await this.#merged();
      this.result = result;
      if (result.validationResult === "Success") {
        result.verified = result.checksum?.value === base64(bigEndian(this.#crc));
        if (!result.verified) {
          throw new UploadError(
            "checksum_mismatch",
            "The merged object has another checksum than the file. Do not use it.",
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
   * A link to the merged object. It works without a token, for some minutes.
   *
   * @returns {Promise<{url: string, expiresAt: string}>}
   */
  async link() {
    const answer = await this.#call("GET", `${this.#path}/file`, undefined, {
      Accept: "application/json",
    });
    return answer.json();
  }

  /** Give up: stop sending, and have the service delete what it has. Repeatable. */
  async abort() {
    return this.#failing(async () => {
      if (this.#saved) {
        await this.#call("DELETE", this.#path).catch((error) => {
          if (!["session_not_found", "session_expired"].includes(error.code)) throw error;
        });
      }
      this.#saved = null;
      this.#change("aborted");
    });
  }

  // --- The first pass ---

  async #scan() {
    const file = this.file;
    const { signal } = this.#ended;
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    let step = this.#perBatch || 1;
    /** @type {number[]} */
    let places = [];
    let records = 0;
    let crc = 0;
    const splitter = await splitterOf(file);
    await eachRecord(
      file,
      splitter,
      (record, position, line) => {
        check(record, decoder, line);
        if (records % step === 0) {
          places.push(position);
          if (places.length > PLACES) {
            if (this.#perBatch) throw tooManyBatches(file.size, position, records);
            places = places.filter((_, i) => i % 2 === 0);
            step *= 2;
          }
        }
        records++;
        crc = crc32(LINE_FEED, crc32(oneLine(record), crc));
      },
      (position) => {
        signal.throwIfAborted();
        this.#scanned = position;
        this.#tell();
      },
    );
    splitter.end();
    places.push(file.size);
    const together = this.#perBatch ? 1 : batchesOf(places, Math.ceil(records / step), records / step);
    const count = Math.ceil(records / (step * together));
    if (count > MAX_BATCHES) throw tooManyBatches(1, 1, records);
    this.#perBatch = step * together;
    this.#records = records;
    this.#crc = crc;
    this.#starts = Float64Array.from(
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
    const asked = { totalRecord: this.#records, batchSize: this.#perBatch };
    const answer = await this.#call("POST", SESSIONS, JSON.stringify(asked), {
      "Content-Type": "application/json",
    });
    const { sessionId } = await answer.json();
    const { name, size, lastModified } = this.file;
    this.#saved = {
      ...{ sessionId, url: this.#url, name, size, lastModified },
      ...{ records: this.#records, batchSize: this.#perBatch, crc32: this.#crc },
    };
    this.dispatchEvent(new Event("state"));
  }

  /** Ask the service what it has. */
  async #look() {
    const session = await (await this.#call("GET", this.#path)).json();
    if (session.state === "ABORTED") {
      throw new UploadError("session_aborted", "This upload was aborted. Start a new one.");
    }
    // A session that finishes has what it needs, or finish will tell what it lacks.
    this.#take(session.state === "OPEN" ? session.missing : [], session.missingTruncated ?? false);
  }

  /**
   * Take over a gap report.
   * @param {Gap[]} missing
   * @param {boolean} truncated
   */
  #take(missing, truncated) {
    const known = truncated ? (missing.at(-1)?.to ?? -1) : Infinity;
    const found = new Uint8Array(this.batches.length);
    // Of what comes after a truncated report nothing is known; sending it again is safe.
    found.forEach((_, n) => (found[n] = n > known ? Batch.WAITING : Batch.STORED));
    for (const { from, to } of missing) found.fill(Batch.MISSING, from, to + 1);
    found.forEach((batch, n) => this.#set(n, batch));
    this.#tell();
  }

  async #send() {
    const { signal } = this.#ended;
    const conflicts = /** @type {number[]} */ ([]);
    /** @type {unknown} */
    let failure = null;
    const running = new Set();
    this.#samples = [];
    this.#sample();
    for (let n = 0; n < this.batches.length; n++) {
      if (this.batches[n] === Batch.STORED) continue;
      while (running.size >= this.#allowed) await Promise.race(running);
      if (this.#sendsHeld) {
        await this.#sendsHeld;
        this.#samples = [];
        this.#sample();
      }
      signal.throwIfAborted();
      if (failure) throw failure;
      const task = this.#sendBatch(n)
        .catch((error) => {
          if (error.code === "batch_conflict") {
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
    await Promise.all(running);
    if (failure) throw failure;
    if (conflicts.length) {
      throw new UploadError(
        "batch_conflict",
        `${conflicts.length} of ${this.batches.length} batches cannot be stored: others have their` +
          " numbers, and what is stored never changes. Start a new upload.",
        { status: 409, seqNums: conflicts.sort((a, b) => a - b) },
      );
    }
  }

  /** @param {number} n */
  async #sendBatch(n) {
    const before = this.batches[n];
    this.#set(n, Batch.SENDING);
    try {
      const body = await this.#body(n);
      const packed = await gzip(body);
      const sent = packed ?? body;
      const headers = { ...BATCH, ...(packed && { "Content-Encoding": "gzip" }) };
      await this.#call("POST", this.#path, sent, { ...headers, ...(await contentDigest(sent)) });
    } catch (error) {
      this.#set(n, before);
      throw error;
    }
    this.#set(n, Batch.STORED);
    this.#allowed = Math.min(this.#concurrency, this.#allowed + 1 / this.#allowed);
    this.#sample();
    this.#tell();
  }

  /**
   * The body of a batch, as JSON.
   * @param {number} n
   */
  async #body(n) {
    const part = this.file.slice(this.#starts[n], this.#starts[n + 1]);
    const head = new TextEncoder().encode(`{"seqNum":${n},"data":[`);
    // A record needs a comma where it had a line feed; the last line may have had none.
    const body = new Uint8Array(head.length + part.size + 3);
    body.set(head);
    let length = head.length;
    let records = 0;
    await eachRecord(part, await splitterOf(this.file, true), (record) => {
      const bytes = oneLine(record);
      if (records++) body[length++] = COMMA;
      body.set(bytes, length);
      length += bytes.length;
    });
    if (records !== Math.min(this.#perBatch, this.#records - n * this.#perBatch)) throw fileChanged();
    body.set([CLOSE_ARRAY, CLOSE_OBJECT], length);
    return body.slice(0, length + 2);
  }

  /** @returns {Promise<Result>} */
  async #merged() {
    let since = Date.now();
    let answer = await this.#call("POST", `${this.#path}/finish`);
    let pause = retryAfter(answer) ?? 2;
    if (answer.status === 200) return answer.json();
    let done = -1;
    for (;;) {
      await sleep(pause, this.#ended.signal);
      answer = await this.#call("GET", this.#path);
      const session = await answer.json();
      if (session.state !== "FINISHING" && session.finish) return session.finish;
      if (session.merge) {
        this.dispatchEvent(new CustomEvent("merge", { detail: session.merge }));
        if (session.merge.done > done) since = Date.now();
        done = session.merge.done;
      }
      if (Date.now() - since > FINISHING_SECONDS * 1000 || session.state !== "FINISHING") {
        answer = await this.#call("POST", `${this.#path}/finish`);
        if (answer.status === 200) return answer.json();
        pause = retryAfter(answer) ?? 2;
        since = Date.now();
      }
    }
  }

  // --- Requests ---

  /**
   * Send a request until there is an answer that means something, and give it if it is a 2xx.
   *
   * @param {string} method
   * @param {string} path
   * @param {BodyInit} [body]
   * @param {Record<string, string>} [headers]
   * @returns {Promise<Response>}
   */
  async #call(method, path, body, headers = {}) {
    const ended = this.#ended.signal;
    for (let tried = 1; ; tried++) {
      const startedAt = performance.now();
      const answer = await this.#once(method, path, body, headers, ended);
      if (answer?.ok) return answer;
      const error = answer ? await problem(answer) : noAnswer();
      if (!mayBeRepeated(error, tried)) throw error;
      // Requests that were under way at the last cut tell nothing that it did not.
      if ((error.status === 429 || error.status === 503) && startedAt > this.#lastCut) {
        this.#allowed = Math.max(1, this.#allowed / 2);
        this.#lastCut = performance.now();
      }
      const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tried - 1));
      const asked = answer ? (retryAfter(answer) ?? 0) : 0;
      await sleep(asked + Math.random() * longest, ended);
      if (this.#sendsHeld && path === this.#path && method === "POST") await this.#sendsHeld;
    }
  }

  /**
   * Gives null where there was no answer.
   * @param {string} method
   * @param {string} path
   * @param {BodyInit | undefined} body
   * @param {Record<string, string>} headers
   * @param {AbortSignal} ended
   */
  async #once(method, path, body, headers, ended) {
    ended.throwIfAborted();
    // A token or an address that cannot be one is an error here, and no lost connection below.
    const url = new URL(this.#url + path);
    const named = new Headers(headers);
    if (this.token) named.set("Authorization", `Bearer ${this.token}`);
    const request = new AbortController();
    const stop = () => request.abort();
    const timer = setTimeout(stop, REQUEST_SECONDS * 1000);
    ended.addEventListener("abort", stop);
    try {
      const answer = await this.#fetch(url, {
        ...{ method, body, headers: named, signal: request.signal },
        ...{ cache: "no-store", credentials: "omit" },
      });
      // Read here, so that a body that breaks off counts as no answer.
      const content = answer.status === 204 ? null : await answer.blob();
      return new Response(content, { status: answer.status, headers: answer.headers });
    } catch {
      ended.throwIfAborted();
      return null;
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
      const known = error instanceof DOMException ? fileChanged() : error;
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

// --- Records ---

const TAB = 9;
const LF = 10;
const CR = 13;
const SPACE = 32;
const QUOTE = 34;
const COMMA = 44;
const BACKSLASH = 92;
const [OPEN_ARRAY, CLOSE_ARRAY] = [91, 93];
const [OPEN_OBJECT, CLOSE_OBJECT] = [123, 125];
const LINE_FEED = Uint8Array.of(LF);
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf];

/** @typedef {(record: Uint8Array<ArrayBuffer>, position: number, line: number) => void} Take */

/** @param {number} byte */
const isSpace = (byte) => byte === SPACE || byte === LF || byte === CR || byte === TAB;

/** One record on each line. Blank lines are none. */
class Lines {
  #line = 0;

  /**
   * Hand on the records that are whole in `bytes`, which begin at `position` of the file; gives how
   * many bytes that were.
   *
   * @param {Uint8Array<ArrayBuffer>} bytes
   * @param {number} position
   * @param {boolean} isLast
   * @param {Take} take
   */
  split(bytes, position, isLast, take) {
    let from = 0;
    while (from < bytes.length) {
      let to = bytes.indexOf(LF, from);
      if (to < 0 && !isLast) break;
      if (to < 0) to = bytes.length;
      this.#line++;
      const [start, end] = trimmed(bytes, from, to);
      if (start < end) take(bytes.subarray(start, end), position + start, this.#line);
      from = to + 1;
    }
    return Math.min(from, bytes.length);
  }

  end() {}
}

/** The records of one JSON array. */
class ArrayElements {
  #state;
  #line = 1;
  #isEmpty = true;

  /** @param {boolean} isInside Whether what comes begins within the array. */
  constructor(isInside) {
    this.#state = isInside ? "inside" : "before";
  }

  /**
   * As that of Lines. A record that is cut off is looked at again, from its start, with more of it.
   *
   * @param {Uint8Array<ArrayBuffer>} bytes
   * @param {number} position
   * @param {boolean} isLast
   * @param {Take} take
   */
  split(bytes, position, isLast, take) {
    let from = 0;
    const pass = (/** @type {number} */ to) => {
      for (; from < to; from++) if (bytes[from] === LF) this.#line++;
    };
    const record = (/** @type {number} */ to) => {
      const [start, end] = trimmed(bytes, from, to);
      pass(start);
      take(bytes.subarray(start, end), position + start, this.#line);
      pass(to + 1);
      this.#isEmpty = false;
    };
    if (this.#state === "before") {
      const start = bytes.indexOf(OPEN_ARRAY);
      pass(start + 1);
      this.#state = "inside";
    }
    let depth = 0;
    let isQuoted = false;
    for (let i = from; i < bytes.length && this.#state === "inside"; i++) {
      const byte = bytes[i];
      if (isQuoted) {
        if (byte === BACKSLASH) i++;
        else if (byte === QUOTE) isQuoted = false;
      } else if (byte === QUOTE) isQuoted = true;
      else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) depth++;
      else if (byte === COMMA && depth === 0) record(i);
      else if ((byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) && depth-- === 0) {
        const [start, end] = trimmed(bytes, from, i);
        if (start < end || !this.#isEmpty) record(i);
        else pass(i + 1);
        this.#state = "after";
      }
    }
    const [start, end] = trimmed(bytes, from, bytes.length);
    // The rest of a file that breaks off is no record, and the check will say so.
    if (this.#state === "inside" && isLast && start < end) record(bytes.length);
    if (this.#state === "after") {
      pass(start);
      if (start < end) throw malformed(this.#line, "there is text after the array");
      return bytes.length;
    }
    return from;
  }

  /** Raises where the array is not closed. */
  end() {
    if (this.#state !== "after") throw malformed(this.#line, "the array is not closed");
  }
}

/**
 * What splits `file`: an array if it begins with a bracket, unless its name says lines.
 *
 * @param {File} file
 * @param {boolean} isInside
 */
async function splitterOf(file, isInside = false) {
  if (/\.(ndjson|jsonl)$/i.test(file.name)) return new Lines();
  const start = new Uint8Array(await file.slice(0, 1024).arrayBuffer());
  const [first] = trimmed(start, 0, start.length);
  return start[first] === OPEN_ARRAY ? new ArrayElements(isInside) : new Lines();
}

/**
 * Hand on every record of `blob`, reading a piece at a time.
 *
 * @param {Blob} blob
 * @param {Lines | ArrayElements} splitter
 * @param {Take} take
 * @param {(position: number) => void} [hasRead]
 */
async function eachRecord(blob, splitter, take, hasRead = () => {}) {
  let rest = new Uint8Array();
  for (let end = 0; end < blob.size; ) {
    const position = end - rest.length;
    // The longer a record is that has not ended, the larger the next piece: no byte is looked at
    // more than a few times.
    const piece = await blob.slice(end, end + Math.max(PIECE, rest.length)).arrayBuffer();
    end += piece.byteLength;
    const bytes = new Uint8Array(rest.length + piece.byteLength);
    bytes.set(rest);
    bytes.set(new Uint8Array(piece), rest.length);
    rest = bytes.subarray(splitter.split(bytes, position, end >= blob.size, take));
    hasRead(end);
  }
}

/**
 * Without the space around, and without the mark that some programs put before all text.
 *
 * @param {Uint8Array} bytes
 * @param {number} from
 * @param {number} to
 */
function trimmed(bytes, from, to) {
  if (from === 0 && BYTE_ORDER_MARK.every((byte, i) => bytes[i] === byte)) from = 3;
  while (from < to && isSpace(bytes[from])) from++;
  while (from < to && isSpace(bytes[to - 1])) to--;
  return [from, to];
}

/**
 * Raise where the service would not take `record`.
 *
 * @param {Uint8Array<ArrayBuffer>} record
 * @param {TextDecoder} decoder
 * @param {number} line
 */
function check(record, decoder, line) {
  let text;
  try {
    text = decoder.decode(record);
  } catch {
    throw malformed(line, "it is not UTF-8");
  }
  try {
    JSON.parse(text);
  } catch (error) {
    throw malformed(line, error instanceof Error ? error.message : String(error));
  }
  // JSON.parse takes half of a surrogate pair, which is no text that UTF-8 could hold.
  if (/\\u[dD][89a-fA-F]/.test(text)) {
    const halves = text
      .replace(/\\\\/g, "  ")
      .replace(/\\u[dD][89abAB]..\\u[dD][c-fC-F]/g, " ");
    if (/\\u[dD][89a-fA-F]/.test(halves)) throw malformed(line, "an escape is half of a pair");
  }
}

/**
 * A record of several lines without the space between its tokens, as the service would store it.
 *
 * @param {Uint8Array<ArrayBuffer>} record
 */
function oneLine(record) {
  if (!record.includes(LF) && !record.includes(CR)) return record;
  let isQuoted = false;
  let isEscaped = false;
  return record.filter((byte) => {
    if (!isQuoted && isSpace(byte)) return false;
    if (isEscaped) isEscaped = false;
    else if (byte === BACKSLASH) isEscaped = true;
    else if (byte === QUOTE) isQuoted = !isQuoted;
    return true;
  });
}

/**
 * How many steps of records go into a batch.
 *
 * @param {number[]} places Where each step begins, and the end of the file.
 * @param {number} steps
 * @param {number} exactSteps
 */
function batchesOf(places, steps, exactSteps) {
  const size = places[places.length - 1] - places[0];
  const usual = Math.min(Math.max(size / USUAL_BATCHES, SMALLEST_USUAL_BATCH), LARGEST_USUAL_BATCH);
  const fewest = Math.max(1, Math.ceil(exactSteps / MAX_BATCHES));
  let together = Math.max(fewest, Math.floor((usual * steps) / Math.max(1, size)));
  // Records may be large where the average is small.
  const largest = () => {
    let most = 0;
    for (let i = 0; i < steps; i += together) {
      most = Math.max(most, places[Math.min(i + together, steps)] - places[i]);
    }
    return most;
  };
  while (together > fewest && largest() > SAFE_BATCH_BYTES) {
    together = Math.max(fewest, Math.floor(together / 2));
  }
  return together;
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

/**
 * An answer that is no success: of the service, or of API Gateway.
 * @param {Response} answer
 */
async function problem(answer) {
  const { status } = answer;
  const body = await answer.json().catch(() => ({}));
  const said = body.detail ?? body.title ?? body.message ?? "";
  return new UploadError(body.code ?? `http_${status}`, said || `The answer was ${status}.`, { status });
}

/**
 * docs/errors.md, "What to send again".
 * @param {UploadError} error
 * @param {number} tried
 */
function mayBeRepeated(error, tried) {
  if (tried >= TRIES) return false;
  if (error.code === "digest_mismatch") return tried < 3;
  return (
    error.code === "no_answer" ||
    error.code === "session_finishing" ||
    [429, 500, 502, 503, 504].includes(error.status ?? 0)
  );
}

/** @param {Response} answer */
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
  new UploadError("no_answer", "The service cannot be reached. Look at the connection and try again.");

const fileChanged = () =>
  new UploadError("file_changed", "The file has changed, or cannot be read any more. Choose it again.");

/**
 * @param {number} line
 * @param {string} why
 */
const malformed = (line, why) =>
  new UploadError("malformed_record", `Line ${line} does not hold a record: ${why}.`, { line });

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
