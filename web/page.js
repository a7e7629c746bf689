// @ts-check
/** The page: shows an upload, and keeps what is needed to go on with it after a reload. */

import { Batch, Upload, UploadError } from "./gapless.js";

const KEPT = "gapless.upload.";
const SPOKEN_SECONDS = 10;
const LEGEND = ["waiting", "sending", "stored", "missing", "conflict"];

/** @param {string} id @returns {any} */
const get = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
/** @param {number} n @param {string} noun */
const many = (n, noun) => `${count.format(n)} ${noun}${n === 1 ? "" : noun === "batch" ? "es" : "s"}`;

/** @type {Upload | null} */
let upload = null;

// --- The map ---

/** All batches as cells. Where there are too many, a cell stands for several. */
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
    // The largest squares that fit; few batches share the width instead.
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

  /** What a cell shows: the worst of its batches. @param {number} cell */
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

/** The records of some batches, counted from 1. @param {import("./gapless.js").Gap} gap */
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
  ...{ new: "Checking", scanning: "Checking", ready: "Ready", sending: "Uploading", paused: "Paused" },
  ...{ sent: "All sent", finishing: "Merging", finished: "Complete", incomplete: "Incomplete" },
  ...{ failed: "Stopped", aborted: "Aborted" },
};

// --- What is kept ---

const settings = {
  url: () => (get("url").value.trim() || defaultUrl()).replace(/\/+$/, ""),
  token: () => get("token").value.trim(),
};

function defaultUrl() {
  const meta = /** @type {HTMLMetaElement | null} */ (document.querySelector('meta[name="gapless-api"]'));
  return meta?.content || location.origin;
}

/** @returns {import("./gapless.js").Saved[]} */
function unfinished() {
  const kept = Object.entries(localStorage).filter(([key]) => key.startsWith(KEPT));
  return kept.map(([, saved]) => JSON.parse(saved)).filter((saved) => saved.url === settings.url());
}

/** @param {string} sessionId */
const forget = (sessionId) => localStorage.removeItem(KEPT + sessionId);

function keepSettings() {
  localStorage.setItem("gapless.url", get("url").value.trim());
  // A token is worth more than an upload: it goes with the tab.
  sessionStorage.setItem("gapless.token", settings.token());
  if (upload) upload.token = settings.token();
  showUnfinished();
}

function showUnfinished() {
  const list = unfinished();
  get("unfinished").hidden = list.length === 0;
  get("unfinished-list").replaceChildren(
    ...list.map((saved) => {
      const item = document.createElement("li");
      const text = document.createElement("div");
      const name = document.createElement("strong");
      name.textContent = saved.name;
      const about = document.createElement("small");
      about.textContent = `${many(saved.records, "record")}, ${size(saved.size)}. Choose the same file again to go on.`;
      text.append(name, about);
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
        if (!(await confirmed())) return;
        const gone = new Upload(new File([], saved.name), { saved, token: settings.token() });
        // What cannot be deleted now expires by itself.
        await gone.abort().catch(() => {});
        forget(saved.sessionId);
        showUnfinished();
        get("file").focus();
      });
      item.append(text, choose, discard);
      return item;
    }),
  );
}

// --- An upload ---

/**
 * @param {File} file
 * @param {boolean} isNew Whether an upload of this file that was begun is left alone.
 */
async function choose(file, isNew = false) {
  for (const id of ["url", "batch-size", "concurrency"]) {
    if (!get(id).checkValidity()) {
      get("settings").open = true;
      get(id).reportValidity();
      return;
    }
  }
  const saved = unfinished().find((one) => one.name === file.name && one.size === file.size);
  const chosen = new Upload(file, {
    url: settings.url(),
    token: settings.token(),
    batchSize: get("batch-size").valueAsNumber || undefined,
    concurrency: get("concurrency").valueAsNumber || undefined,
    saved: isNew ? undefined : saved,
  });
  upload = chosen;
  const mine = (/** @type {(event: any) => void} */ react) => (/** @type {Event} */ event) => {
    if (upload === chosen) react(event);
  };
  chosen.addEventListener("state", mine(showState));
  chosen.addEventListener("progress", mine(showSoon));
  chosen.addEventListener("batch", mine((event) => {
    map.update(event.detail.seqNum);
    showSoon();
  }));
  chosen.addEventListener("merge", mine(({ detail }) => {
    get("badge").textContent = `Merging, ${detail.done} of ${detail.parts} parts`;
  }));
  showState();
  get("name").focus();
  await quietly(chosen.scan());
}

/** What went wrong is in the state. @param {Promise<unknown>} work */
async function quietly(work) {
  await work.catch((error) => {
    if (!(error instanceof UploadError || error instanceof TypeError)) throw error;
  });
}

async function sendAndFinish() {
  const mine = upload;
  await quietly(
    (async () => {
      if (await mine?.start()) await mine?.finish();
    })(),
  );
}

function again() {
  upload = null;
  document.body.removeAttribute("data-state");
  get("start").hidden = false;
  get("upload").hidden = true;
  get("file").value = "";
  get("status").textContent = "";
  showUnfinished();
  get("file").focus();
}

/** @returns {Promise<boolean>} */
function confirmed() {
  const dialog = get("confirm");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "abort"), { once: true }),
  );
}

/** Errors after which the same session may still be filled. @param {any} error */
const mayGoOn = (error) =>
  ![404, 409, 410].includes(error?.status) &&
  !["different_file", "file_changed", "malformed_record", "too_many_batches", "checksum_mismatch"].includes(error?.code);

/** What the button does in each state. @returns {[string, (() => unknown) | null]} */
function primary() {
  const now = /** @type {Upload} */ (upload);
  const { state, error } = now;
  if (state === "ready" && now.saved) return ["Continue the upload", sendAndFinish];
  if (state === "ready") return [`Upload ${many(now.records, "record")}`, sendAndFinish];
  if (state === "sending") return ["Pause", () => now.pause()];
  if (state === "paused") return ["Continue", () => now.resume()];
  if (state === "incomplete" && now.missing.length) return ["Send what is missing", sendAndFinish];
  if (state === "incomplete") return ["Finish again", () => quietly(now.finish())];
  if (state === "failed" && mayGoOn(error)) return ["Try again", sendAndFinish];
  if (state === "failed" && ["malformed_record", "file_changed", "too_many_batches"].includes(/** @type {any} */ (error).code)) {
    return ["Choose another file", again];
  }
  if (state === "failed") return ["Start a new upload", startNew];
  if (state === "aborted") return ["Choose another file", again];
  return [state === "finishing" ? "Merging …" : "Checking …", null];
}

async function startNew() {
  const now = /** @type {Upload} */ (upload);
  // Nothing can be done with that session any more, unless it is another file's.
  if (now.sessionId && /** @type {any} */ (now.error)?.code !== "different_file") forget(now.sessionId);
  await choose(now.file, true);
}

// --- What is shown ---

function showState() {
  const now = /** @type {Upload} */ (upload);
  const { state, saved, file } = now;
  if (saved && ["finished", "aborted"].includes(state)) forget(saved.sessionId);
  else if (saved && state === "sending") localStorage.setItem(KEPT + saved.sessionId, JSON.stringify(saved));
  document.body.dataset.state = state;
  get("start").hidden = true;
  get("upload").hidden = false;
  get("name").textContent = file.name;
  get("badge").textContent = BADGES[state];
  const isScanned = now.records > 0 || now.batches.length > 0 || !["new", "scanning", "failed"].includes(state);
  get("about").textContent = isScanned
    ? `${size(file.size)}, ${many(now.records, "record")} in ${many(now.batches.length, "batch")}` +
      (now.batches.length > 1 ? ` of ${count.format(now.batchSize)}` : "")
    : size(file.size);
  const [label, act] = primary();
  get("primary").textContent = label;
  get("primary").setAttribute("aria-disabled", String(!act));
  get("primary").hidden = state === "finished";
  get("check").hidden = state !== "paused";
  get("another").hidden = !["ready", "finished", "incomplete", "failed"].includes(state) || act === again;
  get("abort").hidden = !saved || !["ready", "sending", "paused", "incomplete", "failed"].includes(state);
  get("session").hidden = !saved;
  get("session").querySelector("code").textContent = saved?.sessionId ?? "";
  get("map").hidden = !now.batches.length;
  get("stats").hidden = !["sending", "paused", "sent", "finishing"].includes(state);
  get("bar").hidden = ["ready", "finished", "aborted"].includes(state) || (state === "failed" && !isScanned);
  showAlert();
  showDone();
  showGaps();
  map.show(now.batches);
  show();
  say();
}

let isShown = true;
function showSoon() {
  if (!isShown) return;
  isShown = false;
  requestAnimationFrame(() => {
    isShown = true;
    if (upload) show();
  });
}

let spoken = 0;
function show() {
  const now = /** @type {Upload} */ (upload);
  const { state, file } = now;
  const progress = now.progress;
  const isScanning = state === "new" || state === "scanning";
  const whole = isScanning ? progress.scanned / (file.size || 1) : progress.records ? progress.storedRecords / progress.records : 1;
  get("progress").value = whole;
  get("percent").textContent = `${Math.floor(whole * 100)} %`;
  get("stored").textContent = count.format(progress.storedRecords);
  const isMoving = state === "sending" && progress.bytesPerSecond > 0;
  const rate = document.createElement("small");
  rate.textContent = isMoving ? `${many(Math.round(progress.recordsPerSecond), "record")} a second` : `of ${count.format(progress.records)}`;
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
  get("canvas").setAttribute("aria-label", `Map of ${many(now.batches.length, "batch")}: ${parts.filter(Boolean).join(", ")}`);
  if (state === "sending" && performance.now() - spoken > SPOKEN_SECONDS * 1000) say();
}

/** Tell a screen reader; seldom enough to be listened to. */
function say() {
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

function showAlert() {
  const { state, error, result, saved, progress } = /** @type {any} */ (upload);
  const alert = get("alert");
  /** @type {[string, string] | null} */
  let text = null;
  if (state === "failed") text = [TITLES[error.code] ?? TITLES[error.status] ?? "The upload has stopped.", error.message];
  else if (state === "incomplete" && result.reason === "merge_failed") text = ["The merge has failed. What was sent is stored.", result.detail ?? ""];
  else if (state === "incomplete") text = ["The service does not have everything yet.", result.detail ?? ""];
  else if (state === "ready" && saved) text = ["This upload was begun before.", "It is the same file. Only what the service does not have is sent."];
  alert.className = state === "failed" ? "" : "note";
  if (!text) return alert.replaceChildren();
  const title = document.createElement("strong");
  title.textContent = text[0];
  alert.replaceChildren(title, text[1]);
}

/** @type {Record<string, string>} */
const TITLES = {
  malformed_record: "Nothing was sent: the file has a mistake.",
  too_many_batches: "Nothing was sent: the batches are too small.",
  file_changed: "The file cannot be read any more.",
  different_file: "This file has other records.",
  no_answer: "The connection is lost. What was stored stays stored.",
  batch_conflict: "Other records are stored under the same numbers.",
  checksum_mismatch: "The merged file is not the one that was sent.",
  session_not_found: "The service does not know this upload any more.",
  session_expired: "The upload has taken too long.",
  session_aborted: "The upload was aborted.",
  401: "The service wants a valid token. Set it in the settings.",
  403: "The service does not allow this. Set a token in the settings.",
  429: "The service is too busy.",
  503: "The service is too busy.",
};

async function showDone() {
  const now = /** @type {Upload} */ (upload);
  const isDone = now.state === "finished";
  get("done").hidden = get("download").hidden = !isDone;
  if (!isDone) return;
  const { bytes = 0, checksum } = /** @type {any} */ (now.result);
  get("done-about").textContent =
    `${many(now.records, "record")}, ${size(bytes)}. The checksum ${checksum.value} is that of your file.`;
  get("done-title").focus();
  await renewLink();
}

let linkEnds = 0;
async function renewLink() {
  const { url, expiresAt } = await /** @type {Upload} */ (upload).link();
  get("download").href = url;
  linkEnds = Date.parse(expiresAt);
}

function showGaps() {
  const now = /** @type {Upload} */ (upload);
  const missing = now.state === "incomplete" || now.state === "failed" ? now.missing : [];
  get("gaps").hidden = missing.length === 0;
  const MOST_ROWS = 1000;
  const rows = missing.slice(0, MOST_ROWS).map((gap) => {
    const [first, last] = recordsOf(gap);
    return [batchesText(gap), recordsText(gap), count.format(last - first + 1)];
  });
  if (missing.length > MOST_ROWS) rows.push([`${many(missing.length - MOST_ROWS, "more range")}`, "", ""]);
  get("gaps-rows").replaceChildren(
    ...rows.map((texts) => {
      const row = document.createElement("tr");
      row.append(...texts.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      return row;
    }),
  );
}

// --- What the user does ---

get("file").addEventListener("change", () => {
  const [file] = get("file").files;
  if (file) choose(file);
});
get("primary").addEventListener("click", () => primary()[1]?.());
get("check").addEventListener("click", () => quietly(/** @type {Upload} */ (upload).finish()));
get("another").addEventListener("click", again);
get("abort").addEventListener("click", async () => {
  const now = /** @type {Upload} */ (upload);
  if (!(await confirmed())) return;
  const { sessionId } = now;
  await quietly(now.abort().then(() => forget(sessionId)));
  get("name").focus();
});
get("download").addEventListener("click", async (/** @type {MouseEvent} */ event) => {
  if (Date.now() < linkEnds && get("download").href) return;
  event.preventDefault();
  await renewLink();
  location.assign(get("download").href);
});
get("settings-form").addEventListener("input", keepSettings);
get("settings-form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());

// A file may be dropped anywhere on the page: missing the box must not open the file instead.
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("is-dragging");
});
for (const name of ["dragleave", "drop"]) {
  addEventListener(name, () => document.body.classList.remove("is-dragging"));
}
addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file && !get("start").hidden) choose(file);
});

get("url").value = localStorage.getItem("gapless.url") ?? "";
get("url").placeholder = defaultUrl();
get("token").value = sessionStorage.getItem("gapless.token") ?? "";
showUnfinished();
