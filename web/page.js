// @ts-check
/** The page: displays uploads, and stores what is needed to resume them after a reload. */

import { Batch, Upload, UploadError, downloadName, serviceUrl } from "./gapless.js";

const KEPT = "gapless.upload.";
const ASKED = "gapless.asked.";
const SPOKEN_SECONDS = 10;
const DAY = 24 * 60 * 60 * 1000;
const LEGEND = ["waiting", "sending", "stored", "missing", "conflict"];

/** @param {string} id @returns {any} */
const get = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
/** @param {number} n @param {string} noun */
const plural = (n, noun) => `${count.format(n)} ${noun}${n === 1 ? "" : noun === "batch" ? "es" : "s"}`;

/** @type {Upload | null} */
let upload = null;

// --- The map ---

/** All batches as cells. If there are too many, a cell represents several. */
class BatchMap {
  static MOST_CELLS = 20_000;
  static HEIGHT = 300;

  #canvas = get("canvas");
  #pen = this.#canvas.getContext("2d");
  #batches = new Uint8Array();
  #together = 1;
  #cells = 0;
  #columns = 1;
  #width = 1;
  #height = 1;
  /** @type {string[]} */
  #colors = [];

  constructor() {
    new ResizeObserver(() => this.show(this.#batches)).observe(get("map"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show(this.#batches));
    this.#canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
      const cell = this.#at(event.offsetX, event.offsetY);
      get("readout").textContent = cell < this.#cells ? this.#describe(cell) : "";
    });
    this.#canvas.addEventListener("pointerleave", () => (get("readout").textContent = ""));
  }

  /** @param {Uint8Array<ArrayBuffer>} batches */
  show(batches) {
    this.#batches = batches;
    const room = get("map").clientWidth;
    if (!batches.length || !room) return;
    this.#together = Math.ceil(batches.length / BatchMap.MOST_CELLS);
    this.#cells = Math.ceil(batches.length / this.#together);
    // The largest squares that fit. A few batches share the whole width.
    let side = Math.min(28, Math.floor(Math.sqrt((room * BatchMap.HEIGHT) / this.#cells)));
    while (side > 2 && Math.ceil(this.#cells / Math.floor(room / side)) * side > BatchMap.HEIGHT) side--;
    this.#columns = Math.min(Math.floor(room / side), this.#cells);
    this.#width = room / this.#columns;
    const rows = Math.ceil(this.#cells / this.#columns);
    this.#height = rows === 1 ? 56 : side;
    const scale = devicePixelRatio;
    this.#canvas.width = Math.round(room * scale);
    this.#canvas.height = Math.round(rows * this.#height * scale);
    this.#canvas.style.height = `${rows * this.#height}px`;
    this.#pen.setTransform(scale, 0, 0, scale, 0, 0);
    const style = getComputedStyle(document.documentElement);
    this.#colors = [...LEGEND, "card"].map((name) => style.getPropertyValue(`--${name}`));
    for (let cell = 0; cell < this.#cells; cell++) this.#draw(cell);
  }

  /** @param {number} seqNum */
  update(seqNum) {
    this.#draw(Math.floor(seqNum / this.#together));
  }

  /** State of a cell: the worst of its batches. @param {number} cell */
  #state(cell) {
    const batches = this.#batches.subarray(cell * this.#together, (cell + 1) * this.#together);
    const worst = [Batch.CONFLICT, Batch.MISSING, Batch.SENDING, Batch.WAITING];
    return worst.find((batch) => batches.includes(batch)) ?? Batch.STORED;
  }

  /** @param {number} cell */
  #draw(cell) {
    const pen = this.#pen;
    const batch = this.#state(cell);
    const x = (cell % this.#columns) * this.#width;
    const y = Math.floor(cell / this.#columns) * this.#height;
    const gap = Math.min(this.#width, this.#height) < 4 ? 0.5 : this.#height > 16 ? 3 : this.#height > 8 ? 2 : 1;
    const [width, height] = [this.#width - gap, this.#height - gap];
    const radius = Math.min(4, height / 5);
    const color = this.#colors[batch];
    pen.clearRect(x, y, this.#width, this.#height);
    pen.fillStyle = pen.strokeStyle = color;
    pen.beginPath();
    if (batch === Batch.MISSING && height > 5) {
      pen.lineWidth = height > 12 ? 2 : 1.25;
      const inset = pen.lineWidth / 2;
      pen.roundRect(x + inset, y + inset, width - 2 * inset, height - 2 * inset, radius);
      pen.stroke();
      return;
    }
    pen.roundRect(x, y, width, height, radius);
    pen.fill();
    if (batch === Batch.CONFLICT && height > 5) {
      pen.strokeStyle = this.#colors[5];
      pen.lineWidth = height > 12 ? 2 : 1.25;
      const arm = Math.min(width, height) / 4;
      const [midX, midY] = [x + width / 2, y + height / 2];
      pen.beginPath();
      pen.moveTo(midX - arm, midY - arm);
      pen.lineTo(midX + arm, midY + arm);
      pen.moveTo(midX + arm, midY - arm);
      pen.lineTo(midX - arm, midY + arm);
      pen.stroke();
    }
  }

  /** @param {number} x @param {number} y */
  #at(x, y) {
    const column = Math.min(this.#columns - 1, Math.floor(x / this.#width));
    return Math.floor(y / this.#height) * this.#columns + column;
  }

  /** @param {number} cell */
  #describe(cell) {
    const from = cell * this.#together;
    const to = Math.min(from + this.#together, this.#batches.length) - 1;
    return `${batchesText({ from, to })}, records ${recordsText({ from, to })}: ${LEGEND[this.#state(cell)]}`;
  }
}

const map = new BatchMap();

// --- Words ---

/** @param {import("./gapless.js").Gap} gap */
const batchesText = ({ from, to }) =>
  from === to ? `Batch ${count.format(from)}` : `Batches ${count.format(from)} – ${count.format(to)}`;

/** First and last record of a range of batches, from 1. @param {import("./gapless.js").Gap} gap */
function recordsOf({ from, to }) {
  const size = upload?.batchSize ?? 0;
  return [from * size + 1, Math.min((to + 1) * size, upload?.records ?? 0)];
}

/** @param {import("./gapless.js").Gap} gap */
const recordsText = (gap) => [...new Set(recordsOf(gap))].map(count.format).join(" – ");

/** @param {number} bytes */
function size(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const unit = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  const options = { style: "unit", unit: units[unit], unitDisplay: unit ? "short" : "long", maximumSignificantDigits: 3 };
  return new Intl.NumberFormat("en", /** @type {any} */ (options)).format(bytes / 1000 ** unit);
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 1) return "a moment";
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.ceil((seconds % 3600) / 60)} min`;
}

/** @type {Record<string, string>} */
const BADGES = {
  ...{ new: "Waiting", scanning: "Checking", ready: "Ready", sending: "Uploading", paused: "Paused" },
  ...{ sent: "All sent", finishing: "Merging", finished: "Complete", incomplete: "Incomplete" },
  ...{ failed: "Stopped", aborted: "Aborted" },
};

const FORMATS = { ndjson: "NDJSON", json: "JSON", csv: "CSV", tsv: "TSV" };
/** @type {Record<string, string>} */
const DELIMITERS = { ",": "", ";": "with semicolons", "\t": "with tabs", "|": "with pipes" };

/** @param {import("./readers.js").Reading | null} reading */
function readingText(reading) {
  if (!reading) return "";
  const { format, delimiter, encoding, gzip } = reading;
  const usual = format === "tsv" ? "\t" : ",";
  const marks = delimiter && delimiter !== usual ? (DELIMITERS[delimiter] ?? `with “${delimiter}”`) : "";
  const parts = [`${FORMATS[format]} ${marks}`.trim(), encoding === "utf-8" ? "" : encoding.toUpperCase(), gzip ? "gzip" : ""];
  return parts.filter(Boolean).join(", ");
}

// --- Storage ---

/** Null if storage is blocked. @param {"localStorage" | "sessionStorage"} area @returns {Storage | null} */
function storage(area) {
  try {
    return window[area];
  } catch {
    return null;
  }
}

/** Returns whether the value was stored. @param {"localStorage" | "sessionStorage"} area @param {string} key @param {string} value */
function keep(area, key, value) {
  try {
    storage(area)?.setItem(key, value);
    return storage(area) !== null;
  } catch {
    return false;
  }
}

const settings = {
  url: () => {
    const url = serviceUrl(get("url").value.trim() || defaultUrl());
    // As the Content-Security-Policy in index.html.
    const isOpen = url.startsWith(`${location.origin}/`) || url === location.origin;
    if (!isOpen && !/^(https:|http:\/\/(localhost|127\.0\.0\.1)(:|\/|$))/.test(url)) {
      throw new Error("Use an HTTPS address: what is sent to any other can be read by others.");
    }
    return url;
  },
  token: () => get("token").value.trim(),
  merged: () => get("merged").value,
  schema: () => get("schema").value.trim(),
  reading: () => ({
    format: get("format").value || undefined,
    delimiter: get("delimiter").value || undefined,
    encoding: get("encoding").value || undefined,
    header: get("header").value ? get("header").value === "yes" : undefined,
    typed: get("typed").value === "yes",
  }),
};

function defaultUrl() {
  const meta = /** @type {HTMLMetaElement | null} */ (document.querySelector('meta[name="gapless-api"]'));
  return meta?.content || location.origin;
}

/** @returns {import("./gapless.js").Saved[]} */
function unfinished() {
  const kept = Object.entries(storage("localStorage") ?? {}).filter(([key]) => key.startsWith(KEPT));
  return kept.flatMap(([key, value]) => {
    try {
      const saved = JSON.parse(value);
      // A day's margin, because the clocks may differ.
      if (Date.now() > Date.parse(saved.expiresAt) + DAY) forget(saved.sessionId);
      else if (KEPT + saved.sessionId === key && saved.url === settings.url()) return [saved];
      return [];
    } catch {
      return [];
    }
  });
}

/**
 * The key under which an unanswered request for a session is stored.
 * @param {File} file
 */
const askedFor = (file) => ASKED + [settings.url(), file.name, file.size, file.lastModified].join("|");

/** @param {string} name @returns {import("./gapless.js").Asked | null} */
function unanswered(name) {
  try {
    const { key, body, at } = JSON.parse(storage("localStorage")?.getItem(name) ?? "");
    // The service forgets it after a day.
    return Date.now() - at < DAY ? { key, body } : null;
  } catch {
    return null;
  }
}

/** @param {string} sessionId */
const forget = (sessionId) => storage("localStorage")?.removeItem(KEPT + sessionId);

/**
 * Lock an upload for this tab while it is open. Returns a function that unlocks it, or null if another
 * tab has the lock.
 *
 * @param {string} sessionId
 * @returns {Promise<(() => void) | null>}
 */
function hold(sessionId) {
  return new Promise((resolve) => {
    const free = () => resolve(() => {});
    if (!navigator.locks) return free();
    const held = navigator.locks.request(KEPT + sessionId, { ifAvailable: true }, (lock) => {
      if (!lock) return resolve(null);
      return new Promise((release) => resolve(() => release(undefined)));
    });
    held.catch(free);
  });
}

function keepSettings() {
  keep("localStorage", "gapless.url", get("url").value.trim());
  keep("localStorage", "gapless.merged", settings.merged());
  keep("localStorage", "gapless.schema", settings.schema());
  // The token is forgotten when the tab is closed.
  keep("sessionStorage", "gapless.token", settings.token());
  for (const { upload: one } of entries) {
    one.token = settings.token();
    one.format = settings.merged();
    one.schema = settings.schema();
  }
  showAbout();
  get("url").setCustomValidity("");
  showUnfinished();
}

async function showUnfinished() {
  const list = areSettingsValid() ? unfinished() : [];
  const locks = await navigator.locks?.query().catch(() => null);
  const busy = new Set(locks?.held?.map(({ name }) => name));
  get("unfinished").hidden = list.length === 0;
  get("unfinished-list").replaceChildren(
    ...list.map((saved) => {
      const item = document.createElement("li");
      const text = document.createElement("div");
      const name = document.createElement("strong");
      name.textContent = saved.name;
      const about = document.createElement("small");
      const isBusy = busy.has(KEPT + saved.sessionId);
      const next = isBusy ? "Another tab is uploading it." : "Choose the same file again to resume.";
      about.textContent = `${plural(saved.records, "record")}, ${size(saved.size ?? 0)}. ${next}`;
      text.append(name, about);
      item.append(text);
      if (isBusy) return item;
      const choose = document.createElement("button");
      choose.type = "button";
      choose.textContent = "Choose the file";
      choose.className = "primary";
      choose.setAttribute("aria-label", `Choose the file ${saved.name}`);
      choose.addEventListener("click", () => get("file").click());
      const discard = document.createElement("button");
      discard.type = "button";
      discard.textContent = "Discard";
      discard.setAttribute("aria-label", `Discard the upload of ${saved.name}`);
      discard.addEventListener("click", async () => {
        if (!(await abortConfirmed())) return;
        const gone = new Upload(new File([], saved.name), { saved, token: settings.token() });
        forget(saved.sessionId);
        showUnfinished();
        get("file").focus();
        // If it cannot be deleted now, it expires.
        await gone.abort().catch(() => {});
      });
      item.append(choose, discard);
      return item;
    }),
  );
}

// --- My sessions ---

/** @typedef {import("./gapless.js").Listed} Listed */

/** Where the next page of the list begins. @type {string | null} */
let cursor = null;
/** Number of requests for the list: only the answer to the last one counts. */
let listing = 0;
/** The session that the next chosen file belongs to. @type {import("./gapless.js").Saved | null} */
let wanted = null;

/** List the caller's sessions, if the service authenticates callers. */
async function showSessions(isMore = false) {
  const asked = ++listing;
  const list = get("sessions-list");
  if (!isMore) cursor = null;
  /** @type {{sessions: Listed[], cursor: string | null}} */
  let page;
  get("sessions-more").setAttribute("aria-busy", "true");
  try {
    page = await Upload.list({ url: settings.url(), token: settings.token(), cursor });
  } catch (error) {
    if (asked !== listing) return;
    const { code, status, message } = /** @type {any} */ (error);
    // The service does not authenticate callers, or there is no token yet.
    const isNobody = code === "no_list" || code === "bad_address" || [401, 403, 404].includes(status);
    get("sessions").hidden = isNobody && !isMore;
    noteSessions(`Your sessions cannot be listed: ${message ?? error}`, true);
    get("sessions-more").textContent = "Try again";
    get("sessions-more").hidden = false;
    return;
  } finally {
    if (asked === listing) get("sessions-more").removeAttribute("aria-busy");
  }
  if (asked !== listing) return;
  const before = list.children.length;
  const rows = page.sessions.map(sessionRow);
  if (isMore) list.append(...rows);
  else list.replaceChildren(...rows);
  ({ cursor } = page);
  get("sessions").hidden = false;
  get("sessions-more").hidden = cursor === null;
  get("sessions-more").textContent = "More";
  noteSessions(list.children.length || cursor ? "" : "No sessions yet. Your uploads are listed here until they expire.");
  // The button may be hidden now: move the focus to the first new row.
  if (isMore) (rows[0] ?? list.children[before - 1])?.querySelector("strong")?.focus();
}

/** @param {string} text */
function noteSessions(text, isError = false) {
  get("sessions-note").textContent = text;
  get("sessions-note").dataset.is = isError ? "error" : "";
}

const STATES = { OPEN: "Open", FINISHING: "Merging", FINISHED: "Complete", ABORTED: "Aborted" };
const moment = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

/** @param {Listed} session */
function sessionRow(session) {
  const { sessionId, state, totalRecord, batchSize, metadata, createdAt, fileDeletedAt } = session;
  const item = document.createElement("li");
  item.dataset.state = fileDeletedAt ? "DELETED" : state;
  const text = document.createElement("div");
  const name = document.createElement("strong");
  name.textContent = metadata.name || sessionId;
  name.tabIndex = -1;
  const about = document.createElement("small");
  const others = Object.entries(metadata).filter(([key, value]) => key !== "name" && value);
  about.textContent = [
    fileDeletedAt ? "File deleted" : STATES[state],
    totalRecord === null ? "" : plural(totalRecord, "record"),
    moment.format(new Date(createdAt)),
    ...others.map(([key, value]) => `${key}: ${value}`),
  ].filter(Boolean).join(" · ");
  const wrong = document.createElement("small");
  wrong.setAttribute("role", "alert");
  wrong.dataset.is = "error";
  text.append(name, about, wrong);
  item.append(text);
  const one = () => {
    const { url, token } = settings;
    const saved = { sessionId, url: url(), name: metadata.name ?? "", records: 0, batchSize: 0 };
    return new Upload(new File([], "session"), { saved, token: token() });
  };
  /** @param {string} label @param {() => Promise<Partial<Listed> | void>} act */
  const button = (label, act, kind = "") => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    made.className = kind;
    made.setAttribute("aria-label", `${label}: ${name.textContent}`);
    made.addEventListener("click", async () => {
      wrong.textContent = "";
      try {
        const changed = await act();
        if (!changed) return;
        const row = sessionRow({ ...session, ...changed });
        item.replaceWith(row);
        row.querySelector("strong")?.focus();
        get("status").textContent = `${name.textContent}: ${row.querySelector("small")?.textContent}`;
      } catch (error) {
        wrong.textContent = /** @type {Error} */ (error).message;
      }
    });
    item.append(made);
  };
  if (state === "OPEN" && totalRecord !== null && batchSize) {
    button("Choose the file", async () => {
      const { format, expiresAt } = session;
      wanted = { sessionId, url: settings.url(), name: metadata.name ?? "", records: totalRecord, batchSize, format, expiresAt };
      get("file").click();
    }, "primary");
  }
  if (state === "FINISHED" && !fileDeletedAt) {
    button("Download", async () => location.assign((await one().link()).url), "primary");
    button("Delete", async () => {
      if (!(await confirmed("Delete this file?", "The merged file is deleted permanently. Nobody can download it any more.", "Delete permanently"))) return;
      await one().deleteFile();
      return { fileDeletedAt: new Date().toISOString() };
    });
  }
  if (state === "OPEN") {
    button("Abort", async () => {
      if (!(await abortConfirmed())) return;
      await one().abort();
      forget(sessionId);
      showUnfinished();
      return { state: "ABORTED" };
    });
  }
  return item;
}

// --- Files ---

/**
 * @typedef {object} Entry A chosen file.
 * @property {Upload} upload
 * @property {[string, string] | null} note Title and text of a note about it.
 * @property {boolean} isKept Whether it can be resumed after this tab is closed.
 * @property {Promise<void>} checked
 * @property {() => void} release Unlocks the upload for other tabs.
 * @property {string} heldId The locked session.
 * @property {string} link The latest link to the merged file.
 * @property {Promise<{ url: string }>} [asked] The request for it, while it runs.
 * @property {string} askedAs Key of the stored request for a session until it is answered.
 */

/** @type {Entry[]} */
let entries = [];
/** @type {Entry | null} The file that is displayed. */
let shown = null;
/** Files are checked, and uploaded, one after another. @type {Promise<void>} */
let checks = Promise.resolve();
let isSending = false;

/** Whether the settings are valid; shows what is wrong with them. */
function areSettingsValid() {
  try {
    settings.url();
    return true;
  } catch (error) {
    get("url").setCustomValidity(/** @type {Error} */ (error).message);
    return false;
  }
}

/** @param {Iterable<File>} files */
async function choose(files) {
  const into = wanted;
  wanted = null;
  areSettingsValid();
  const wrong = [...get("settings-form").elements].find((field) => !field.checkValidity());
  if (wrong) {
    get("settings").open = true;
    wrong.reportValidity();
    return;
  }
  const added = await Promise.all([...files].map((file, n) => entryOf(file, false, n ? null : into)));
  get("file").value = "";
  if (!added.length) return;
  entries.push(...added);
  if (!shown || ["finished", "aborted"].includes(shown.upload.state)) view(added[0]);
  else showFiles();
  for (const entry of added) check(entry);
}

/**
 * @param {File} file
 * @param {boolean} isNew Whether to ignore an unfinished upload of this file.
 * @param {import("./gapless.js").Saved | null} into The session that the file belongs to.
 * @returns {Promise<Entry>}
 */
async function entryOf(file, isNew = false, into = null) {
  const known = isNew ? [] : unfinished();
  const begun = into
    ? [known.find((one) => one.sessionId === into.sessionId) ?? into]
    : known.filter((one) => one.name === file.name && one.size === file.size);
  let saved;
  let release = null;
  for (saved of begun) if ((release = await hold(saved.sessionId))) break;
  if (!release) saved = undefined;
  const upload = new Upload(file, {
    url: settings.url(),
    token: settings.token(),
    batchSize: get("batch-size").valueAsNumber || undefined,
    concurrency: get("concurrency").valueAsNumber || undefined,
    format: settings.merged(),
    schema: settings.schema(),
    reading: settings.reading(),
    saved,
    asked: unanswered(askedFor(file)),
  });
  /** @type {Entry} */
  const entry = {
    ...{ upload, isKept: true, checked: Promise.resolve(), link: "", askedAs: askedFor(file) },
    ...{ release: release ?? (() => {}), heldId: saved?.sessionId ?? "" },
    note: begun.length && !release ? ["Another tab is uploading this file.", "This is a separate upload."] : null,
  };
  const mine = (/** @type {(event: any) => void} */ react) => (/** @type {Event} */ event) => {
    if (shown === entry) react(event);
  };
  upload.addEventListener("state", () => {
    remember(entry);
    if (shown === entry) showState();
    else if (shown) showPrimary();
    showFiles();
  });
  upload.addEventListener("progress", mine(showSoon));
  upload.addEventListener("batch", mine((event) => {
    map.update(event.detail.seqNum);
    showSoon();
  }));
  upload.addEventListener("merge", mine(({ detail }) => {
    get("badge").textContent = `Merging, ${detail.done} of ${detail.parts} parts`;
  }));
  return entry;
}

/** Store what is needed to resume an upload, while it can be resumed. @param {Entry} entry */
function remember(entry) {
  const { state, saved, asked } = entry.upload;
  if (asked) keep("localStorage", entry.askedAs, JSON.stringify({ ...asked, at: Date.now() }));
  else if (saved) storage("localStorage")?.removeItem(entry.askedAs);
  if (saved && state === "sending") {
    entry.isKept = keep("localStorage", KEPT + saved.sessionId, JSON.stringify(saved));
    if (entry.heldId === saved.sessionId) return;
    entry.heldId = saved.sessionId;
    hold(saved.sessionId).then((release) => (entry.release = release ?? (() => {})));
  } else if (["finished", "aborted"].includes(state)) {
    forget(entry.heldId);
    entry.release();
  }
}

/** @param {Entry} entry */
function check(entry) {
  const { upload } = entry;
  entry.checked = checks = checks.then(async () => {
    if (entries.includes(entry)) await quietly(upload.scan());
  });
  entry.checked.then(() => askStored(entry));
}

/** Ask what the service has stored of an upload to resume. @param {Entry} entry */
async function askStored(entry) {
  const { saved } = entry.upload;
  const gone = await quietly(entry.upload.look());
  if (!saved || !gone) return;
  forget(saved.sessionId);
  entry.note = ["The unfinished upload is gone. This is a new one.", gone.message];
  if (shown === entry) showState();
}

/** Ignore an UploadError, which is also in the state. @template T @param {Promise<T>} work */
async function quietly(work) {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof UploadError)) throw error;
    return undefined;
  }
}

/** @param {Upload} one */
async function sendAndFinish(one) {
  await quietly(
    (async () => {
      if (await one.start()) await one.finish();
    })(),
  );
}

/** Upload all checked files, one after another. A failure does not stop the next. */
async function sendAll() {
  if (isSending) return;
  isSending = true;
  const tried = new Set();
  for (let entry; (entry = entries.find((one) => !tried.has(one))); tried.add(entry)) {
    await entry.checked;
    if (entry.upload.state !== "ready" || !entries.includes(entry)) continue;
    if (shown && ["ready", "finished", "failed", "aborted"].includes(shown.upload.state)) view(entry, false);
    await sendAndFinish(entry.upload);
  }
  isSending = false;
  if (shown) showState();
  showFiles();
}

/** @param {Entry} entry @param {boolean} isAsked Whether the user asked for it. */
function view(entry, isAsked = true) {
  shown = entry;
  upload = entry.upload;
  showState();
  showFiles();
  if (isAsked) get("name").focus();
}

function startOver() {
  for (const entry of entries) {
    entry.upload.cancel();
    entry.release();
  }
  entries = [];
  shown = upload = null;
  document.body.removeAttribute("data-state");
  get("start").hidden = false;
  get("upload").hidden = get("files").hidden = true;
  get("file").value = "";
  get("status").textContent = "";
  showUnfinished();
  showSessions();
  get("file").focus();
}

/** Remove the displayed file from the list. */
function removeShown() {
  const entry = /** @type {Entry} */ (shown);
  const place = entries.indexOf(entry);
  entries = entries.filter((one) => one !== entry);
  entry.upload.cancel();
  entry.release();
  const next = entries[Math.min(place, entries.length - 1)];
  if (next) view(next);
  else startOver();
}

/** Replace the displayed upload by another upload of the same file. @param {boolean} isNew */
async function replace(isNew) {
  const entry = /** @type {Entry} */ (shown);
  entry.upload.cancel();
  entry.release();
  const other = await entryOf(entry.upload.file, isNew);
  entries = entries.map((one) => (one === entry ? other : one));
  view(other);
  check(other);
}

/** @param {string} title @param {string} about @param {string} label @returns {Promise<boolean>} */
function confirmed(title, about, label) {
  const dialog = get("confirm");
  get("confirm-title").textContent = title;
  get("confirm-about").textContent = about;
  get("confirm-do").textContent = label;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "do"), { once: true }),
  );
}

const abortConfirmed = () =>
  confirmed("Abort this upload?", "What has been sent so far is deleted.", "Abort and delete");

// --- Actions ---

/** Whether the session can still be completed after an error. @param {any} error */
const mayGoOn = (error) =>
  ["no_answer", "not_the_service", "bad_token"].includes(error?.code) ||
  (error?.status !== undefined && ![404, 409, 410].includes(error.status) && error.code !== "invalid_records");

/** Whether the file itself is the problem. @param {any} error */
const isAboutFile = (error) =>
  error?.status === undefined && !["different_file", "checksum_mismatch", "batch_too_large"].includes(error?.code) && !mayGoOn(error);

const others = () => entries.filter((entry) => entry !== shown && ["new", "scanning", "ready"].includes(entry.upload.state));

/** Label and action of the main button in each state. @returns {[string, (() => unknown) | null]} */
function primary() {
  const now = /** @type {Upload} */ (upload);
  const { state } = now;
  const error = /** @type {any} */ (now.error);
  if (state === "ready" && isSending) return ["Waiting for its turn", null];
  if (state === "ready" && others().length) return [`Upload ${others().length + 1} files`, sendAll];
  if (state === "ready" && now.saved) return ["Resume the upload", sendAll];
  if (state === "ready") return [`Upload ${plural(now.records, "record")}`, sendAll];
  if (state === "sending") return ["Pause", () => now.pause()];
  if (state === "paused") return ["Continue", () => now.resume()];
  if (state === "incomplete" && now.missing.length) return ["Send what is missing", () => sendAndFinish(now)];
  if (state === "incomplete") return ["Finish again", () => quietly(now.finish())];
  if (state === "failed" && mayGoOn(error)) return ["Try again", tryAgain];
  if (state === "failed" && error.code === "invalid_records") return ["Choose the corrected file", correct];
  if (state === "failed" && !isAboutFile(error)) return ["Start a new upload", startNew];
  if (state === "failed" && others().length) return [`Upload the other ${plural(others().length, "file")}`, isSending ? null : sendAll];
  if (["failed", "aborted"].includes(state)) return ["Choose another file", pickOrStart];
  return [state === "finishing" ? "Merging …" : "Checking …", null];
}

async function tryAgain() {
  const now = /** @type {Upload} */ (upload);
  // Without a session, start again with the current settings.
  if (now.saved) return sendAndFinish(now);
  await replace(true);
  await shown?.checked;
  await sendAll();
}

async function startNew() {
  const now = /** @type {Upload} */ (upload);
  // The session is of no use any more, unless it belongs to another file.
  if (now.sessionId && /** @type {any} */ (now.error)?.code !== "different_file") forget(now.sessionId);
  await replace(true);
}

/** The corrected file has other records, so it needs a new session. */
function correct() {
  const now = /** @type {Upload} */ (upload);
  forget(now.sessionId);
  pickOrStart();
}

/** Choose another file: instead of this one, or in addition if there are several. */
function pickOrStart() {
  if (entries.length > 1) get("file").click();
  else startOver();
}

// --- Display ---

function showState() {
  const now = /** @type {Upload} */ (upload);
  const { state, saved, file } = now;
  document.body.dataset.state = state;
  get("start").hidden = true;
  get("upload").hidden = false;
  get("name").textContent = file.name;
  get("badge").textContent = BADGES[state];
  showAbout();
  const act = showPrimary();
  get("check").hidden = state !== "paused";
  get("cancel").hidden = !["new", "scanning"].includes(state) && !(state === "ready" && entries.length > 1);
  get("cancel").textContent = state === "ready" ? "Remove from the list" : "Cancel";
  get("another").hidden = !["ready", "finished", "incomplete", "failed"].includes(state) || act === pickOrStart;
  get("another").textContent = entries.length > 1 ? "Add files" : "Choose another file";
  const mayAbort = ["sending", "paused"].includes(state) || (saved && ["ready", "incomplete", "failed"].includes(state));
  get("abort").hidden = !mayAbort;
  get("session").hidden = !saved;
  get("session").querySelector("code").textContent = saved?.sessionId ?? "";
  get("map").hidden = !now.batches.length || state === "aborted";
  get("stats").hidden = !["sending", "paused"].includes(state);
  get("bar").hidden = ["finished", "aborted"].includes(state) || (state === "ready" && !saved) || (state === "failed" && !isScanned(now));
  get("kept").hidden = !(["sending", "paused"].includes(state) && saved && !shown?.isKept);
  showAlert();
  showDone();
  showGaps();
  map.show(now.batches);
  show();
  announce();
}

/** @param {Upload} one */
const isScanned = (one) => one.records > 0 || one.batches.length > 0 || !["new", "scanning", "failed"].includes(one.state);

/** The line of facts about the file. */
function showAbout() {
  if (!upload) return;
  const facts = [size(upload.file.size), readingText(upload.reading)];
  if (isScanned(upload)) {
    const each = upload.batches.length > 1 ? ` of ${count.format(upload.batchSize)}` : "";
    facts.push(`${plural(upload.records, "record")} in ${plural(upload.batches.length, "batch")}${each}`);
    if (upload.blank) facts.push(`${plural(upload.blank, "blank line")} skipped`);
    if (upload.format === "ndjson.gz") facts.push("merged as .ndjson.gz");
    if (upload.schema) facts.push(`schema ${upload.schema}`);
  }
  get("about").textContent = facts.filter(Boolean).join(" · ");
}

/** Returns the action of the button. */
function showPrimary() {
  const [label, act] = primary();
  get("primary").textContent = label;
  get("primary").setAttribute("aria-disabled", String(!act));
  get("primary").hidden = upload?.state === "finished";
  return act;
}

/** The list of files, if there are several. */
function showFiles() {
  get("files").hidden = entries.length < 2;
  if (entries.length < 2) return;
  const done = entries.filter(({ upload: one }) => one.state === "finished").length;
  const failed = entries.filter(({ upload: one }) => one.state === "failed").length;
  get("files-title").textContent =
    `${done} of ${plural(entries.length, "file")} complete` + (failed ? `, ${failed} stopped` : "");
  // Rows are reused, so that the focus stays.
  const list = get("files-list");
  while (list.children.length > entries.length) list.lastElementChild.remove();
  entries.forEach((entry, n) => {
    const { state, file, progress } = entry.upload;
    let row = list.children[n]?.firstElementChild;
    if (!row) {
      const item = document.createElement("li");
      row = document.createElement("button");
      row.type = "button";
      row.append(document.createElement("span"), document.createElement("small"));
      row.addEventListener("click", () => view(entries[n]));
      item.append(row);
      list.append(item);
    }
    row.dataset.state = state;
    row.setAttribute("aria-current", String(entry === shown));
    row.firstElementChild.textContent = file.name;
    const share = state === "sending" ? ` ${Math.floor((100 * progress.storedRecords) / (progress.records || 1))} %` : "";
    row.lastElementChild.textContent = BADGES[state] + share;
  });
}

let isShown = true;
function showSoon() {
  if (!isShown) return;
  isShown = false;
  requestAnimationFrame(() => {
    isShown = true;
    if (!upload) return;
    show();
    showFiles();
  });
}

let spoken = 0;
function show() {
  const now = /** @type {Upload} */ (upload);
  const { state, file } = now;
  const progress = now.progress;
  const isScanning = state === "new" || state === "scanning";
  const whole = isScanning ? progress.scanned / (file.size || 1) : progress.records ? progress.storedRecords / progress.records : 1;
  const isMerging = state === "sent" || state === "finishing";
  // A progress bar without a value is indeterminate.
  if (isMerging) get("progress").removeAttribute("value");
  else get("progress").value = whole;
  get("percent").textContent = isMerging ? "All sent" : `${Math.floor(whole * 100)} %`;
  get("stored").textContent = count.format(progress.storedRecords);
  const isMoving = state === "sending" && progress.bytesPerSecond > 0 && !now.trouble;
  const rate = document.createElement("small");
  rate.textContent = isMoving ? `${plural(Math.round(progress.recordsPerSecond), "record")} a second` : `of ${count.format(progress.records)}`;
  get("speed").textContent = isMoving ? `${size(progress.bytesPerSecond)}/s` : "–";
  if (isMoving) get("speed").append(rate);
  const total = document.createElement("small");
  total.textContent = `of ${count.format(progress.records)}`;
  get("stored").append(total);
  get("left").textContent = isMoving && progress.secondsLeft !== null ? duration(progress.secondsLeft) : "–";
  const tally = new Array(LEGEND.length).fill(0);
  for (const batch of now.batches) tally[batch]++;
  LEGEND.forEach((name, batch) => {
    const entry = /** @type {HTMLElement} */ (get("legend").querySelector(`[data-batch="${name}"]`));
    /** @type {HTMLElement} */ (entry.querySelector("dd")).textContent = count.format(tally[batch]);
    const isUsual = batch === Batch.STORED || (batch < Batch.STORED && ["sending", "paused"].includes(state));
    entry.hidden = tally[batch] === 0 && !isUsual;
  });
  const parts = LEGEND.map((name, batch) => (tally[batch] ? `${count.format(tally[batch])} ${name}` : ""));
  get("canvas").setAttribute("aria-label", `Map of ${plural(now.batches.length, "batch")}: ${parts.filter(Boolean).join(", ")}`);
  if (state === "sending" && performance.now() - spoken > SPOKEN_SECONDS * 1000) announce();
}

/** Announce the state to screen readers. Called rarely, so that it does not disturb. */
function announce() {
  const now = /** @type {Upload} */ (upload);
  const { storedRecords, records, secondsLeft } = now.progress;
  const detail =
    now.state === "sending" || now.state === "paused"
      ? `, ${Math.floor((100 * storedRecords) / (records || 1))} % stored` +
        (now.state === "sending" && secondsLeft ? `, ${duration(secondsLeft)} left` : "")
      : "";
  get("status").textContent = `${BADGES[now.state]}${detail}`;
  spoken = performance.now();
}

/** @returns {["error" | "warning" | "note", string, string] | null} */
function alertText() {
  const { state, error, result, saved, trouble, progress } = /** @type {any} */ (upload);
  if (state === "failed") {
    const isUnread = error.code === "file_changed" && !progress.batches;
    const title = isUnread ? "The file cannot be read." : TITLES[error.code] ?? TITLES[error.status] ?? (isAboutFile(error) ? "Nothing was sent: the file cannot be read as it is." : "The upload stopped.");
    return ["error", title, error.message];
  }
  if (state === "incomplete" && result.reason === "merge_failed") {
    return ["warning", "The merge failed. What was sent is stored.", result.detail ?? ""];
  }
  if (state === "incomplete") return ["warning", "The upload is not complete yet.", result.detail ?? ""];
  if (state === "aborted") return ["note", "The upload was aborted.", "What was sent is deleted."];
  if (trouble) return ["warning", TITLES[trouble.code] ?? TITLES[trouble.status] ?? "The service has a problem.", trouble.code === "offline" ? trouble.message : `${trouble.message} Retrying.`];
  if (state === "finishing") return ["note", "All records are sent.", "The service checks for gaps and merges them."];
  if (state === "ready" && saved) {
    const stored = progress.stored ? ` ${count.format(progress.stored)} of ${plural(progress.batches, "batch")} are stored.` : "";
    return ["note", "This upload was started before.", `It is the same file.${stored} Only the rest will be sent.`];
  }
  return shown?.note ? ["note", ...shown.note] : null;
}

function showAlert() {
  const alert = get("alert");
  const text = alertText();
  alert.className = text?.[0] ?? "";
  if (!text) return alert.replaceChildren();
  const title = document.createElement("strong");
  title.textContent = text[1];
  alert.replaceChildren(title, text[2]);
}

/** @type {Record<string, string>} */
const TITLES = {
  malformed_record: "Nothing was sent: the file has an invalid record.",
  too_many_batches: "Nothing was sent: the batches are too small.",
  batch_too_large: "The batches are too large.",
  too_large: "Nothing was sent: a record is too large.",
  file_changed: "The file has changed.",
  different_file: "This is a different file.",
  no_answer: "The connection is lost. What was stored stays stored.",
  offline: "You are offline. What was stored stays stored.",
  not_the_service: "This is not the service.",
  bad_token: "The token is invalid. Correct it in the settings.",
  invalid_records: "Some records do not match the schema.",
  schema_required: "The service requires a schema. Set its name in the settings.",
  unknown_schema: "The service has no schema of this name. Check the settings.",
  schema_changed: "The schema has changed since this upload was started.",
  batch_conflict: "Other records are stored under the same numbers.",
  checksum_mismatch: "The merged file differs from the file that was sent.",
  session_not_found: "The service does not know this upload any more.",
  session_expired: "The upload took too long.",
  session_aborted: "The upload was aborted.",
  401: "The service requires a valid token. Set it in the settings.",
  403: "The service does not allow this. Set a token in the settings.",
  429: "The service is too busy.",
  503: "The service is too busy.",
};

function showDone() {
  const now = /** @type {Upload} */ (upload);
  const isDone = now.state === "finished";
  const wasDone = !get("done").hidden;
  get("done").hidden = get("download").hidden = !isDone;
  if (!isDone) return;
  const result = /** @type {any} */ (now.result);
  const { bytes, checksum } = result.content ?? result;
  get("done-about").textContent =
    `${plural(now.records, "record")}, ${size(bytes)}. The checksum ${checksum.value} matches what was read from your file` +
    ` (${readingText(now.reading)}).` +
    (result.content ? ` Stored as a gzip file of ${size(result.bytes)}, checksum ${result.checksum.value}.` : "");
  get("download").download = downloadName(now.file.name);
  get("download").href = shown?.link || "#download";
  if (!wasDone && entries.length < 2) get("done-title").focus();
  if (!shown?.link) quietly(renewLink(/** @type {Entry} */ (shown)));
}

/** @param {Entry} entry */
async function renewLink(entry) {
  // The page is shown again before the answer is there.
  entry.asked ??= entry.upload.link().finally(() => (entry.asked = undefined));
  entry.link = (await entry.asked).url;
  if (entry === shown) get("download").href = entry.link;
}

function showGaps() {
  const now = /** @type {Upload} */ (upload);
  const invalid = now.state === "failed" ? (/** @type {any} */ (now.error).invalid ?? []) : [];
  get("invalid").hidden = invalid.length === 0;
  fill("invalid-rows", invalid.map((/** @type {any} */ one) => [count.format(one.line), one.path || "The record", one.message]));
  const areMissing = now.state === "incomplete" || (now.state === "failed" && !invalid.length);
  const missing = areMissing ? now.missing : [];
  get("gaps").hidden = missing.length === 0;
  const MOST_ROWS = 1000;
  const rows = missing.slice(0, MOST_ROWS).map((gap) => {
    const [first, last] = recordsOf(gap);
    return [batchesText(gap), recordsText(gap), count.format(last - first + 1)];
  });
  if (missing.length > MOST_ROWS) rows.push([`${plural(missing.length - MOST_ROWS, "more range")}`, "", ""]);
  fill("gaps-rows", rows);
}

/** Fill a table. @param {string} id @param {string[][]} rows */
function fill(id, rows) {
  get(id).replaceChildren(
    ...rows.map((texts) => {
      const row = document.createElement("tr");
      row.append(...texts.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      return row;
    }),
  );
}

// --- User input ---

get("file").addEventListener("change", () => choose(get("file").files));
get("primary").addEventListener("click", () => primary()[1]?.());
get("check").addEventListener("click", () => quietly(/** @type {Upload} */ (upload).finish()));
get("cancel").addEventListener("click", removeShown);
get("another").addEventListener("click", pickOrStart);
get("abort").addEventListener("click", async () => {
  const now = /** @type {Upload} */ (upload);
  if (!(await abortConfirmed())) return;
  await quietly(now.abort());
  get("name").focus();
});
get("download").addEventListener("click", async (/** @type {MouseEvent} */ event) => {
  const entry = /** @type {Entry} */ (shown);
  // A link works for some minutes, so get a new one.
  event.preventDefault();
  try {
    await renewLink(entry);
  } catch (error) {
    entry.note = ["The file cannot be downloaded now.", /** @type {Error} */ (error).message];
    return showAlert();
  }
  location.assign(entry.link);
});

get("sessions-more").addEventListener("click", () => showSessions(get("sessions-list").children.length > 0));
get("file").addEventListener("cancel", () => (wanted = null));

get("settings-form").addEventListener("input", keepSettings);
for (const id of ["url", "token"]) get(id).addEventListener("change", () => showSessions());
get("settings-form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
for (const id of ["format", "delimiter", "encoding", "header", "typed"]) {
  // They also apply to the displayed file if nothing of it was sent.
  get(id).addEventListener("change", () => {
    const isUnread = upload?.state === "failed" && isAboutFile(upload.error) && !upload.saved;
    if (isUnread || (upload?.state === "ready" && !upload.saved)) replace(false);
  });
}
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !get("settings").open || get("confirm").open) return;
  get("settings").open = false;
  get("settings").querySelector("summary").focus();
});
addEventListener("storage", showUnfinished);
addEventListener("online", () => {
  for (const { upload: one } of entries) {
    if (one.state === "failed" && /** @type {any} */ (one.error)?.code === "no_answer") sendAndFinish(one);
  }
});

// Accept a drop anywhere on the page: next to the box, the browser would open the file.
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("is-dragging");
});
for (const name of ["dragleave", "drop"]) {
  addEventListener(name, () => document.body.classList.remove("is-dragging"));
}
addEventListener("drop", (event) => {
  event.preventDefault();
  choose(event.dataTransfer?.files ?? []);
});

get("url").value = storage("localStorage")?.getItem("gapless.url") ?? "";
get("url").placeholder = defaultUrl();
get("token").value = storage("sessionStorage")?.getItem("gapless.token") ?? "";
get("schema").value = storage("localStorage")?.getItem("gapless.schema") ?? "";
get("merged").value = storage("localStorage")?.getItem("gapless.merged") === "ndjson.gz" ? "ndjson.gz" : "ndjson";
showUnfinished();
for (const name of Object.keys(storage("localStorage") ?? {})) {
  if (name.startsWith(ASKED) && !unanswered(name)) storage("localStorage")?.removeItem(name);
}
showSessions();
