// @ts-check
/**
 * Reads a file as records: NDJSON, a JSON array, CSV or TSV, optionally gzip or UTF-16.
 *
 * Name and content of a file decide the format. The rules are those of the command (docs/client.md),
 * tested with the same cases. Only a piece of the file is in memory. The module knows nothing of the
 * service.
 *
 * @module
 */

const PIECE = 1024 * 1024;
// gzip can expand 1,000 times.
const GZIP_PIECE = 16 * 1024;
const HEAD = 64 * 1024;

/** Largest record that the service accepts, in bytes. */
const MAX_RECORD = 64 * 1024 * 1024;

const TAB = 9;
const LF = 10;
const CR = 13;
const SPACE = 32;
const QUOTE = 34;
const COMMA = 44;
const BACKSLASH = 92;
const [OPEN_ARRAY, CLOSE_ARRAY] = [91, 93];
const [OPEN_OBJECT, CLOSE_OBJECT] = [123, 125];
const RECORD_SEPARATOR = 30;

/**
 * @typedef {"ndjson" | "json" | "csv" | "tsv"} Format
 *
 * @typedef {object} Wanted How to read a file; what is not set is detected.
 * @property {Format} [format] Detected from name and content by default.
 * @property {string} [delimiter] Of CSV: one character.
 * @property {string} [encoding] A label of `TextDecoder`.
 * @property {boolean} [header] Whether the first row of a table names the columns. By default it
 *   does, and must not begin with a number.
 * @property {boolean} [typed] Whether numbers, booleans and null in cells become JSON values of these
 *   types. By default all cells are strings.
 *
 * @typedef {object} Reading How a file is read.
 * @property {Format} format
 * @property {string} delimiter Of CSV and TSV; otherwise empty.
 * @property {string} encoding
 * @property {boolean} gzip
 *
 * @typedef {(record: Uint8Array<ArrayBuffer>, position: number, line: number) => void} Take
 *   Receives a record as JSON, its position in the text, and its line, from 1.
 */

/** Why a file cannot be read as records. */
export class ReadingError extends Error {
  /**
   * @param {string} code
   * @param {string} message What is wrong and what to do, for people.
   * @param {number} [line] Of the file, from 1.
   */
  constructor(code, message, line) {
    super(message);
    this.name = "ReadingError";
    this.code = code;
    this.line = line;
  }
}

/**
 * @param {number} line
 * @param {string} why
 */
const malformed = (line, why) =>
  new ReadingError("malformed_record", `Line ${line} is not a valid record: ${why}.`, line);

// --- The text of a file ---

/** A file's text as UTF-8, readable from any position. Positions are bytes of that text. */
class Text {
  /** @type {Blob} */
  #file;
  #isGzip;
  #encoding;
  #mark;
  /** @type {AsyncGenerator<Uint8Array<ArrayBuffer>> | null} */
  #pieces = null;
  /** @type {Uint8Array<ArrayBuffer>} */
  #rest = new Uint8Array();
  #at = 0;

  /** Bytes of the file read so far. */
  consumed = 0;

  /**
   * @param {Blob} file
   * @param {boolean} isGzip
   * @param {string} encoding As TextDecoder names it.
   * @param {number} mark Length of the byte order mark, which is not part of the text.
   */
  constructor(file, isGzip, encoding, mark) {
    this.#file = file;
    this.#isGzip = isGzip;
    this.#encoding = encoding;
    this.#mark = mark;
  }

  /**
   * Read `length` bytes from `from`; fewer only at the end. Random access is cheap in plain UTF-8. In
   * gzip or another encoding, going back means reading from the start again.
   *
   * @param {number} from
   * @param {number} length
   * @returns {Promise<Uint8Array<ArrayBuffer>>}
   */
  async read(from, length) {
    if (!this.#isGzip && this.#encoding === "utf-8") {
      from += this.#mark;
      const bytes = new Uint8Array(await this.#file.slice(from, from + length).arrayBuffer());
      this.consumed = from + bytes.length;
      return bytes;
    }
    if (!this.#pieces || from < this.#at) {
      this.#pieces = this.#converted();
      this.#rest = new Uint8Array();
      this.#at = 0;
    }
    const found = new Uint8Array(length);
    let filled = 0;
    while (filled < length) {
      const skipped = Math.min(from - this.#at, this.#rest.length);
      this.#at += skipped;
      this.#rest = this.#rest.subarray(skipped);
      const taken = this.#rest.subarray(0, length - filled);
      found.set(taken, filled);
      filled += taken.length;
      this.#at += taken.length;
      from += taken.length;
      this.#rest = this.#rest.subarray(taken.length);
      if (filled === length) break;
      const next = await this.#pieces.next();
      if (next.done) break;
      this.#rest = next.value;
    }
    return found.subarray(0, filled);
  }

  async *#converted() {
    const read = this.#raw(this.#isGzip ? GZIP_PIECE : PIECE);
    const inflated = this.#isGzip ? inflate(read) : read;
    const text = without(inflated, this.#mark);
    yield* this.#encoding === "utf-8" ? text : transcode(text, this.#encoding);
  }

  /** @param {number} size */
  async *#raw(size) {
    for (let at = 0; at < this.#file.size; at += size) {
      const bytes = new Uint8Array(await this.#file.slice(at, at + size).arrayBuffer());
      this.consumed = at + bytes.length;
      yield bytes;
    }
  }
}

/**
 * Decompress all members of gzip. The native DecompressionStream stops after the first.
 * @param {AsyncIterable<Uint8Array<ArrayBuffer>>} pieces
 */
async function* inflate(pieces) {
  const { Inflate } = await import("./pako.js");
  const damaged = () => new ReadingError("gzip", "The gzip file is damaged or truncated.");
  /** @type {Uint8Array<ArrayBuffer>[]} */
  let found = [];
  /** @type {any} */
  let member = null;
  for await (let piece of pieces) {
    while (piece.length) {
      if (!member) {
        // Zeros between and after members are padding.
        piece = piece.subarray(firstThat(piece, (byte) => byte !== 0));
        if (!piece.length) break;
        member = new Inflate({ windowBits: 31, chunkSize: PIECE });
        member.onData = (/** @type {Uint8Array<ArrayBuffer>} */ data) => found.push(data);
        member.onEnd = () => {};
      }
      member.push(piece, 2);
      if (member.err) throw damaged();
      piece = member.ended ? piece.subarray(piece.length - member.strm.avail_in) : piece.subarray(piece.length);
      if (member.ended) member = null;
      yield* found;
      found = [];
    }
  }
  if (member) throw damaged();
}

/**
 * @param {AsyncIterable<Uint8Array<ArrayBuffer>>} pieces
 * @param {number} count Number of bytes to skip at the start.
 */
async function* without(pieces, count) {
  for await (const piece of pieces) {
    yield piece.subarray(count);
    count = Math.max(0, count - piece.length);
  }
}

/**
 * @param {AsyncIterable<Uint8Array<ArrayBuffer>>} pieces
 * @param {string} encoding
 */
async function* transcode(pieces, encoding) {
  const decoder = new TextDecoder(encoding, { fatal: true, ignoreBOM: true });
  // Finds the position at which the fatal decoder fails.
  const lenient = new TextDecoder(encoding, { ignoreBOM: true });
  const encoder = new TextEncoder();
  let line = 1;
  const decode = (/** @type {Uint8Array<ArrayBuffer>} */ bytes, /** @type {boolean} */ stream) => {
    const seen = lenient.decode(bytes, { stream });
    // It decodes undefined bytes of a code page as control characters.
    let wrong = encoding.startsWith("windows-") ? seen.search(/[\x80-\x9f]/) : -1;
    try {
      decoder.decode(bytes, { stream });
    } catch {
      wrong = Math.max(0, seen.indexOf("\ufffd"));
    }
    if (wrong >= 0) {
      line += linesIn(seen.slice(0, wrong));
      throw new ReadingError("encoding", `Line ${line} is not ${encoding.toUpperCase()}.`, line);
    }
    line += linesIn(seen);
    return encoder.encode(seen);
  };
  for await (const piece of pieces) yield decode(piece, true);
  yield decode(new Uint8Array(), false);
}

/** @param {string} text */
const linesIn = (text) => text.split("\n").length - 1;

/**
 * @param {Uint8Array} bytes
 * @param {(byte: number) => boolean} is
 */
function firstThat(bytes, is) {
  const index = bytes.findIndex(is);
  return index < 0 ? bytes.length : index;
}

// --- Detection of the format ---

/** @type {Record<string, Format>} */
const SUFFIXES = { ndjson: "ndjson", jsonl: "ndjson", json: "json", csv: "csv", tsv: "tsv", tab: "tsv" };

/** @type {[string, string][]} */
const DELIMITERS = [[",", "comma"], [";", "semicolon"], ["\t", "tab"], ["|", "pipe"]];

/** Magic numbers of other files, as Latin-1. @type {[string, "compressed" | "binary", string][]} */
const OTHER_FILES = [
  ["\x1f\x8b", "compressed", "gzip within gzip"],
  ["BZh", "compressed", "compressed by bzip2"],
  ["\xfd7zXZ\0", "compressed", "compressed by xz"],
  ["(\xb5/\xfd", "compressed", "compressed by zstd"],
  ["PK\x03\x04", "compressed", "a zip archive, or an Excel workbook"],
  ["PK\x05\x06", "compressed", "an empty zip archive"],
  ['\x04"M\x18', "compressed", "compressed by lz4"],
  ["7z\xbc\xaf'\x1c", "compressed", "a 7-Zip archive"],
  ["\x1f\x9d", "compressed", "compressed by compress (.Z)"],
  ["LZIP", "compressed", "compressed by lzip"],
  ["\xff\x06\0\0sNaPpY", "compressed", "compressed by snappy"],
  ["Rar!\x1a\x07", "compressed", "a RAR archive"],
  ["\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "binary", "an old Excel workbook"],
  ["PAR1", "binary", "Parquet"],
  ["Obj\x01", "binary", "Avro"],
  ["ARROW1", "binary", "Arrow"],
  ["ORC", "binary", "ORC"],
  ["SQLite format 3\0", "binary", "a SQLite database"],
  ["\x89HDF\r\n", "binary", "HDF5"],
  ["%PDF-", "binary", "PDF"],
];

/** @type {[string, string][]} */
const MARKS = [
  ["\xff\xfe\0\0", "utf-32le"],
  ["\0\0\xfe\xff", "utf-32be"],
  ["\xef\xbb\xbf", "utf-8"],
  ["\xff\xfe", "utf-16le"],
  ["\xfe\xff", "utf-16be"],
];

/** @param {string} delimiter */
const shown = (delimiter) =>
  DELIMITERS.filter(([mark]) => mark === delimiter).map(([, word]) => `a ${word}`)[0] ?? `“${delimiter}”`;

/** @param {string} text */
const isBlank = (text) => /^[ \t\r\n]*$/.test(text);

/** Throw a ReadingError if the file is known not to be text. @param {string} start Of the file, as Latin-1. */
function refuseOtherFiles(start) {
  const refuse = (/** @type {string} */ kind, /** @type {string} */ code) => {
    const hint =
      code === "compressed" ? "Only gzip is supported: unpack the file, or compress it with gzip." : "Export it as NDJSON, JSON or CSV.";
    throw new ReadingError(code, `The file is ${kind}. ${hint}`);
  };
  for (const [magic, code, kind] of OTHER_FILES) {
    if (!start.startsWith(magic)) continue;
    if (magic === "BZh" && !["1AY&SY", "\x17rE8P\x90"].includes(start.slice(4, 10))) continue;
    if (magic === "ORC" && !start.slice(0, 16).includes("\0")) continue;
    refuse(kind, code);
  }
  if (start.slice(257, 262) === "ustar") refuse("a tar archive", "compressed");
}

/**
 * The options, normalized. Throws a ReadingError (`option`) if one is invalid.
 *
 * @param {Wanted} wanted
 */
function optionsOf({ format, delimiter, encoding, header, typed = false }) {
  const refuse = (/** @type {string} */ why) => new ReadingError("option", why);
  if (format && !Object.values(SUFFIXES).includes(format)) throw refuse(`“${format}” is not a known format.`);
  const mark = DELIMITERS.find(([, word]) => word === delimiter)?.[0] ?? (delimiter === "\\t" ? "\t" : delimiter);
  if (mark && (!/^.$/su.test(mark) || /["\r\n\0\ufeff]/.test(mark))) {
    throw refuse("A delimiter is one character other than a quote or a line end.");
  }
  if (mark && (format === "ndjson" || format === "json")) throw refuse(`${format} has no delimiter.`);
  return { format, delimiter: mark, encoding: encoding && labelOf(encoding), header, typed };
}

/** The encoding as TextDecoder names it. @param {string} encoding */
function labelOf(encoding) {
  const name = encoding.trim().toLowerCase().replaceAll("_", "-");
  if (["ascii", "us-ascii", "utf-8-sig", "utf8", "utf-8"].includes(name)) return "utf-8";
  if (name === "utf-16" || name === "utf16") return "utf-16";
  try {
    return new TextDecoder(name.replace(/^utf-?16-?/, "utf-16")).encoding;
  } catch {
    throw new ReadingError("option", `“${encoding}” is not a known encoding. Examples: utf-8, utf-16le, windows-1252.`);
  }
}

/**
 * The encoding of a file, and the length of its byte order mark.
 *
 * @param {string} start Of the file, as Latin-1.
 * @param {string | undefined} given
 * @returns {[string, number]}
 */
function encodingOf(start, given) {
  const refuse = (/** @type {string} */ why) => new ReadingError("encoding", why);
  for (const [mark, name] of MARKS) {
    if (!start.startsWith(mark)) continue;
    if (given && !name.startsWith(given)) {
      throw refuse(`The file begins with the byte order mark of ${name}, but the encoding is set to ${given}.`);
    }
    if (name.startsWith("utf-32")) throw refuse("The file is UTF-32. Save it as UTF-8.");
    return [name, mark.length];
  }
  let [even, odd] = [0, 0];
  for (let i = 0; i < start.length; i++) if (start[i] === "\0") i % 2 ? odd++ : even++;
  if (given) {
    // In UTF-16 every line end and brace has a zero byte.
    if (given.startsWith("utf-16") && !isBlank(start) && !even && !odd) {
      throw refuse(`The file has no zero bytes, so it is not ${given}. Do not set the encoding.`);
    }
    return [given === "utf-16" ? "utf-16le" : given, 0];
  }
  if ((even + odd) * 2 > start.length) {
    throw refuse("More than half of the bytes are zero: the file is UTF-32, or damaged. Save it as UTF-8.");
  }
  if (Math.max(even, odd) * 4 > start.length) {
    const likely = even > odd ? "utf-16be" : "utf-16le";
    throw refuse(
      `The file looks like UTF-16 without a byte order mark. Set the encoding ${likely}, or save it as UTF-8.`,
    );
  }
  return ["utf-8", 0];
}

/**
 * @typedef {object} Chosen
 * @property {Format} format
 * @property {string} delimiter
 * @property {string} lineEnd `\r` if the head has no `\n`.
 * @property {number} firstLine First line of the table: 2 after a `sep=` line.
 * @property {boolean} hasSeparators Whether records begin with U+001E (RFC 7464).
 * @property {boolean} isArray Whether the records are the elements of one JSON array.
 * @property {boolean} isNamed Whether the name of the file says NDJSON.
 * @property {boolean} isGiven Whether an option set the format.
 */

/**
 * Choose the format of a text.
 *
 * @param {string} head The first HEAD bytes of the text.
 * @param {boolean} isAll Whether that is the whole text.
 * @param {string} name Of the file.
 * @param {ReturnType<typeof optionsOf>} options
 * @returns {Chosen}
 */
function choose(head, isAll, name, options) {
  const named = SUFFIXES[/(?<=.)\.([^.]*?)(?:\.gz)?$/.exec(name.toLowerCase())?.[1] ?? ""];
  const text = head.replace(/^[ \t\r\n]+/, "");
  const usual = { delimiter: "", lineEnd: "\n", firstLine: 1, hasSeparators: false, isArray: false, isNamed: false, isGiven: false };
  if (!text) {
    // An empty file is valid NDJSON. JSON has at least brackets, a table a header.
    if ((options.format ?? named) === "ndjson") return { ...usual, format: "ndjson", isNamed: true, isGiven: true };
    throw new ReadingError("empty", "The file is empty. To upload no records, read it as NDJSON.");
  }
  const nul = head.indexOf("\0");
  if (nul >= 0) {
    const line = linesIn(head.slice(0, nul)) + 1;
    throw new ReadingError("nul", `Line ${line} has a NUL byte. If the file is UTF-16, set the encoding.`, line);
  }
  const isMarkup = /^<(?:!doctype|\?xml|html|!--)/i.test(text);
  if (isMarkup || (!options.format && /^<[a-z]/i.test(text) && text.includes("</"))) {
    throw new ReadingError(
      "markup",
      "The file is HTML or XML, perhaps an error page or a login page. Export NDJSON, JSON or CSV.",
    );
  }
  const lineEnd = text.indexOf("\n");
  const line = (lineEnd < 0 ? text : text.slice(0, lineEnd)).replace(/[ \t\r\n]+$/, "");
  const isWhole = lineEnd >= 0 || isAll;
  const first = text[0];
  const isSpread = isWhole && "[{".includes(first) && /[[{,:]$/.test(line);
  const isValues = first === "[" || first === "\x1e" || isSpread;
  const isTable = named === "csv" || named === "tsv";
  const words = { ndjson: "NDJSON", json: "JSON", csv: "CSV", tsv: "TSV" };
  const unclear = (/** @type {string} */ seen, /** @type {Format[]} */ ...formats) =>
    new ReadingError("format_unclear", `${seen} Read it as ${formats.map((one) => words[one]).join(" or ")}.`);
  /** @type {Format} */
  let format;
  if (options.format) format = options.format;
  else if (isTable && "[{\x1e".includes(first)) {
    throw unclear(`The name says ${words[named]}, but the content looks like JSON.`, "ndjson", named);
  } else if (isTable) format = named;
  else if (named === "ndjson" && isSpread) {
    throw unclear("The name says one record per line, but the first record spans several lines.", "json");
  } else if (named === "ndjson" && first === "[") format = "ndjson";
  else if (isValues) format = "json";
  else if (first === "{" || !isWhole || isJson(line)) format = "ndjson";
  else {
    const row = unquoted(firstRows(head, true)[0]);
    const found = DELIMITERS.filter(([mark]) => row.includes(mark)).map(([mark]) => shown(mark));
    const looks = found.length ? `looks like a table, delimited by ${found.join(" or ")}` : "is not JSON";
    const says = named ? `The name says ${words[named]}, but the first line` : "The first line";
    throw unclear(`${says} ${looks}.`, found.join() === "a tab" ? "tsv" : "csv", named ?? "ndjson");
  }
  const chosen = {
    ...usual,
    format,
    isNamed: named === "ndjson",
    isGiven: Boolean(options.format),
    hasSeparators: format === "json" && first === "\x1e",
    isArray: format === "json" && first === "[",
  };
  if (format === "csv" || format === "tsv") return { ...chosen, ...tableOf(head, isAll, chosen, options) };
  if (options.delimiter) throw new ReadingError("option", `This is ${words[format]}, which has no delimiter.`);
  return chosen;
}

/** @param {string} line */
function isJson(line) {
  try {
    JSON.parse(line);
    return true;
  } catch {
    return false;
  }
}

/** @param {string} head @param {boolean} isAll @param {Chosen} chosen @param {ReturnType<typeof optionsOf>} options */
function tableOf(head, isAll, chosen, options) {
  const isTsv = chosen.format === "tsv";
  // A CR at the end of the head may be half of CR LF.
  const known = isAll ? head : head.replace(/\r$/, "");
  const sep = isTsv ? null : /^"?sep=([^\r\n"])"?[ \t]*(?:\r\n|\r|\n|$)/i.exec(head);
  const usual = isTsv && chosen.isGiven ? "\t" : undefined;
  return {
    lineEnd: known.includes("\r") && !head.includes("\n") ? "\r" : "\n",
    firstLine: sep ? 2 : 1,
    delimiter: options.delimiter ?? sep?.[1] ?? usual ?? delimiterOf(head, isTsv),
  };
}

/** Throw if what looks like one column may be several. @param {string} names @param {string[]} rows */
function refuseOddDelimiter(names, rows) {
  const count = (/** @type {string} */ row, /** @type {string} */ mark) => row.split(mark).length;
  const odd = { "\x01": "U+0001", "\x1f": "U+001F", "^": "“^”", "~": "“~”", "  ": "several spaces, which are not a delimiter" };
  for (const [mark, name] of Object.entries(odd)) {
    if (!rows.length || !names.includes(mark) || count(names, mark) !== count(rows[0], mark)) continue;
    throw new ReadingError(
      "delimiter_unclear",
      `The first rows look delimited by ${name}. Set the delimiter to it, or to a comma if there is only one column.`,
    );
  }
}

/** @param {string} head @param {boolean} isTsv */
function delimiterOf(head, isTsv) {
  const marks = DELIMITERS.map(([mark]) => mark);
  const [names, ...rows] = firstRows(head, !isTsv).map((row) => (isTsv ? row : unquoted(row)));
  const usual = isTsv ? "\t" : ",";
  const count = (/** @type {string} */ row, /** @type {string} */ mark) => row.split(mark).length;
  let found = marks.filter((mark) => names.includes(mark));
  if (isTsv && found.includes(usual)) return usual;
  if (!found.length) {
    // One column, or a title above the table.
    found = [";", "\t", "|", ","].filter((mark) => mark !== usual && rows.some((row) => row.includes(mark)));
    if (isTsv) found = found.filter((mark) => mark !== "\t");
    if (!found.length) {
      refuseOddDelimiter(names, rows);
      return usual;
    }
  } else if (!isTsv) {
    if (found.length > 1 && rows.length) {
      const equal = found.filter((mark) => count(names, mark) === count(rows[0], mark));
      if (equal.length) found = equal;
    }
    // Not so for a tab: with it, quotes are data in files of databases, but not in those of Excel.
    if (found.length === 1 && found[0] !== "\t") return found[0];
  }
  const hint = found.includes("\t") ? " Or read it as TSV, where quotes are data." : "";
  throw new ReadingError(
    "delimiter_unclear",
    `The name says ${isTsv ? "TSV" : "CSV"}, but the first rows look delimited by ${found.map(shown).join(" or ")}.` +
      ` Set the delimiter.${hint}`,
  );
}

/** @param {string} row */
const unquoted = (row) => row.replace(/"[^"]*"?/g, "");

/** The first two rows that are not blank; at least one row. @param {string} head @param {boolean} hasQuotes */
function firstRows(head, hasQuotes) {
  const rows = [];
  for (const [row] of head.matchAll(hasQuotes ? /(?:"[^"]*(?:"|$)|[^"\r\n])+/g : /[^\r\n]+/g)) {
    if (!isBlank(row)) rows.push(row);
    if (rows.length === 2) break;
  }
  return rows.length ? rows : [""];
}

// --- Splitting a text into records ---

/** @param {number} byte */
const isSpace = (byte) => byte === SPACE || byte === LF || byte === CR || byte === TAB;

/** One record per line. Blank lines are skipped. */
class Lines {
  #line;

  /** Number of blank lines. */
  blank = 0;

  /** @param {number} line */
  constructor(line) {
    this.#line = line - 1;
  }

  /**
   * Pass on the complete records in `bytes`, which begin at `position` of the text. Returns the number
   * of bytes used.
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
      else this.blank++;
      from = to + 1;
    }
    return Math.min(from, bytes.length);
  }

  end() {}

  /** The error of a record that does not end. @param {string} _text */
  unended(_text) {
    return tooLarge(this.#line + 1);
  }
}

/** The records of one JSON array. */
class ArrayElements {
  blank = 0;
  #state;
  #line;
  #isEmpty = true;

  /**
   * @param {number} line
   * @param {boolean} isInside Whether to start within the array.
   */
  constructor(line, isInside) {
    this.#line = line;
    this.#state = isInside ? "inside" : "before";
  }

  /**
   * See Lines. An incomplete record is scanned again from its start with the next piece.
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
    // In a truncated file, the check refuses this rest.
    if (this.#state === "inside" && isLast && start < end) record(bytes.length);
    if (this.#state === "after") {
      pass(start);
      if (start < end) throw new ReadingError("format_unclear", `Line ${this.#line}: text follows the array. If each line is a record, read the file as NDJSON.`, this.#line);
      return bytes.length;
    }
    return from;
  }

  /** Throw if the array is not closed. */
  end() {
    if (this.#state !== "after") throw malformed(this.#line, "the array is not closed");
  }

  /** The error of a record that does not end. @param {string} _text */
  unended(_text) {
    return tooLarge(this.#line);
  }
}

/** JSON values separated by white space. */
class Values {
  #line;
  #hasSeparators;
  blank = 0;

  /**
   * @param {number} line
   * @param {boolean} hasSeparators
   */
  constructor(line, hasSeparators) {
    this.#line = line;
    this.#hasSeparators = hasSeparators;
  }

  /**
   * See Lines.
   *
   * @param {Uint8Array<ArrayBuffer>} bytes
   * @param {number} position
   * @param {boolean} isLast
   * @param {Take} take
   */
  split(bytes, position, isLast, take) {
    let from = 0;
    let depth = 0;
    let isQuoted = false;
    let isIn = false;
    const record = (/** @type {number} */ to) => {
      take(bytes.subarray(from, to), position + from, this.#line);
      for (; from < to; from++) if (bytes[from] === LF) this.#line++;
      isIn = false;
    };
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i];
      if (isQuoted) {
        if (byte === BACKSLASH) i++;
        else if (byte === QUOTE) {
          isQuoted = false;
          if (depth === 0) record(i + 1);
        }
        continue;
      }
      const isBetween = depth === 0 && (isSpace(byte) || (this.#hasSeparators && byte === RECORD_SEPARATOR));
      if (isBetween) {
        if (isIn) record(i);
        if (byte === LF) this.#line++;
        from = i + 1;
        continue;
      }
      isIn = true;
      if (byte === QUOTE) isQuoted = true;
      else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) depth++;
      else if ((byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) && --depth <= 0) {
        depth = 0;
        record(i + 1);
      }
    }
    if (isIn && isLast) record(bytes.length);
    return from;
  }

  end() {}

  /** The error of a record that does not end. @param {string} _text */
  unended(_text) {
    return tooLarge(this.#line);
  }
}

const NUMBER = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/;

/** Rows as objects, with the names of the header; as arrays without a header. */
class Table {
  #Papa;
  #chosen;
  #options;
  #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #encoder = new TextEncoder();
  #line;
  /** A row with quotes as in RFC 4180. The parser is more lenient. */
  #isStrict;
  #toSkip;
  blank = 0;

  /** @type {{width: number, keys: string[] | null} | null} Number and names of the columns. */
  columns;

  /**
   * @param {any} Papa
   * @param {Chosen} chosen
   * @param {ReturnType<typeof optionsOf>} options
   * @param {number} line
   * @param {Table["columns"]} columns To start below the header.
   */
  constructor(Papa, chosen, options, line, columns = null) {
    this.#Papa = Papa;
    this.#chosen = chosen;
    this.#options = options;
    this.#line = line;
    this.#toSkip = columns ? 0 : chosen.firstLine - 1;
    this.columns = columns;
    const delimiter = chosen.delimiter.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
    const cell = `(?:"[^"]*(?:""[^"]*)*"|[^"${delimiter}\\r\\n]*)`;
    this.#isStrict = new RegExp(`^${cell}(?:${delimiter}${cell})*[\\r\\n]*$`);
  }

  /**
   * See Lines.
   *
   * @param {Uint8Array<ArrayBuffer>} bytes
   * @param {number} position
   * @param {boolean} isLast
   * @param {Take} take
   */
  split(bytes, position, isLast, take) {
    const { lineEnd, delimiter, format } = this.#chosen;
    const end = isLast ? bytes.length : bytes.lastIndexOf(lineEnd.charCodeAt(0)) + 1;
    let text = this.#decoded(bytes.subarray(0, end));
    const isAscii = text.length === end;
    if (isLast && text && !text.endsWith(lineEnd)) text += lineEnd;
    let at = 0;
    let from = 0;
    const step = (/** @type {{data: string[][], errors: any[], meta: {cursor: number}}} */ result) => {
      const raw = text.slice(from, result.meta.cursor);
      const record = this.#record(result.data[0], raw, result.errors.length > 0);
      if (record) take(this.#encoder.encode(record), position + at, this.#line);
      this.#line += raw.includes('"') ? raw.split(lineEnd).length - 1 : 1;
      at = isAscii ? result.meta.cursor : at + utf8Length(raw);
      from = result.meta.cursor;
    };
    const fastMode = format === "tsv" || undefined;
    const parser = new this.#Papa.Parser({ delimiter, newline: lineEnd, fastMode, step });
    const left = parser.parse(text, 0, true);
    if (left.errors.length) throw this.#quoted(text.slice(from), left.errors[0].index - from, "is followed by text");
    if (isLast && from < text.length) throw this.unended(text.slice(from));
    return Math.min(at, end);
  }

  end() {}

  /** The error of a row that does not end. @param {string} text */
  unended(text) {
    if (!text.includes('"')) return tooLarge(this.#line);
    const { lineEnd, delimiter } = this.#chosen;
    const rows = new this.#Papa.Parser({ delimiter, newline: lineEnd }).parse(text, 0, false);
    return this.#quoted(text, rows.errors[0]?.index ?? 0, "is never closed");
  }

  /** @param {string} text From the start of the row. @param {number} at @param {string} how */
  #quoted(text, at, how) {
    const line = this.#line + text.slice(0, at).split(this.#chosen.lineEnd).length - 1;
    return new ReadingError("quote", `Line ${line}: the quote opened there ${how}.`, line);
  }

  /** @param {Uint8Array<ArrayBuffer>} bytes */
  #decoded(bytes) {
    const line = () => this.#line + linesIn(new TextDecoder().decode(bytes).split(/[\0\ufffd]/)[0]);
    let text;
    try {
      text = this.#decoder.decode(bytes);
    } catch {
      throw notUtf8(line());
    }
    if (text.includes("\0")) throw new ReadingError("nul", `Line ${line()} has a NUL byte.`, line());
    return text;
  }

  /**
   * A row as JSON; an empty string if it is not a record.
   *
   * @param {string[]} cells
   * @param {string} raw The text of the row.
   * @param {boolean} isWrong
   */
  #record(cells, raw, isWrong) {
    const isTsv = this.#chosen.format === "tsv";
    const hasQuotes = !isTsv && raw.includes('"');
    if (isWrong || (hasQuotes && !this.#isStrict.test(raw))) {
      if (!isWrong && /[\r\n]/.test(unquoted(raw).replace(/[\r\n]+$/, ""))) throw this.#lineEnd();
      throw this.#wrong("quote", "a quote is inside a cell that does not begin with one, or text follows a closing quote. If quotes are data, read the file as TSV with the delimiter set");
    }
    // The parser leaves the CR of CR LF in the last cell, unless that cell is quoted.
    const last = cells.length - 1;
    if (!hasQuotes || !/"[\r\n]*$/.test(raw)) cells[last] = cells[last].replace(/[\r\n]+$/, "");
    if (!hasQuotes && /[\r\n]/.test(raw.replace(/[\r\n]+$/, ""))) throw this.#lineEnd();
    if (this.#toSkip) {
      this.#toSkip--;
      return "";
    }
    if (isBlankLine(raw) && this.columns?.width !== 1) {
      this.blank++;
      return "";
    }
    if (cells[0].startsWith("\ufeff")) {
      throw this.#wrong("encoding", "the row begins with a byte order mark, as in concatenated files. Upload each file separately");
    }
    if (!this.columns) {
      const keys = this.#options.header === false ? null : this.#keys(cells);
      this.columns = { width: cells.length, keys };
      if (keys) return "";
    }
    const { width, keys } = this.columns;
    if (cells.length !== width) {
      throw this.#wrong("ragged", `the row has ${cells.length} cells, but ${keys ? "the header" : "the first row"} has ${width}`);
    }
    // A single cell may well equal the name of its column.
    if (width > 1 && keys?.every((key, i) => key === `${quoted(cells[i])}:`)) {
      throw this.#wrong("header_repeated", "the row repeats the header, as in concatenated files. Upload each file separately");
    }
    const values = cells.map(this.#options.typed ? typedCell : quoted);
    return keys ? `{${keys.map((key, i) => key + values[i]).join(",")}}` : `[${values.join(",")}]`;
  }

  /** The text before each value. @param {string[]} names */
  #keys(names) {
    if (this.#options.header === undefined) {
      const isNote = /^sep=/i.test(names[0]) || (names.length === 1 && names[0].startsWith("#"));
      if (isNote || /^[-+.]?[0-9]/.test(names[0])) {
        throw this.#wrong("header_unclear", `the first row should name the columns, but begins with ${names[0]}`);
      }
    }
    if (this.#chosen.format === "tsv" && !this.#chosen.isGiven) {
      const name = names.find((one) => one.length > 1 && one.startsWith('"') && one.endsWith('"'));
      if (name) {
        throw this.#wrong("format_unclear", `the name ${name} is in quotes, which TSV does not use. Read the file as TSV if quotes are data, or as CSV with a tab as delimiter if not`);
      }
    }
    names.forEach((name, i) => {
      const first = names.indexOf(name);
      if (first === i) return;
      const what = name ? `are both called “${name}”` : "both have no name";
      throw this.#wrong("header_names", `columns ${first + 1} and ${i + 1} ${what}`);
    });
    return names.map((name) => `${quoted(name)}:`);
  }

  #lineEnd() {
    return this.#wrong("line_end", "a line end outside quotes differs from the others");
  }

  /** @param {string} code @param {string} why */
  #wrong(code, why) {
    return new ReadingError(code, `Line ${this.#line}: ${why}.`, this.#line);
  }
}

/** @param {string} raw */
const isBlankLine = (raw) => /^[\r\n]*$/.test(raw);

/** @param {string} cell */
const quoted = (cell) => JSON.stringify(cell);

/** A cell as number, boolean or null if it looks like one. Digits are kept as written. @param {string} cell */
function typedCell(cell) {
  if (cell === "") return "null";
  return ["true", "false", "null"].includes(cell) || NUMBER.test(cell) ? cell : quoted(cell);
}

/** @param {number} line */
const tooLarge = (line) =>
  new ReadingError("too_large", `Line ${line} holds a record of more than ${MAX_RECORD} bytes.`, line);

/** @param {number} line */
const notUtf8 = (line) =>
  new ReadingError("encoding", `Line ${line} is not UTF-8. Set the encoding of the file, for example windows-1252.`, line);

/** Length of `text` in UTF-8, in bytes. @param {string} text */
function utf8Length(text) {
  let length = text.length;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    // A surrogate is two of the four bytes of its pair.
    if (code > 0x7f) length += code > 0x7ff && (code < 0xd800 || code > 0xdfff) ? 2 : 1;
  }
  return length;
}

/**
 * The range without white space at its ends.
 *
 * @param {Uint8Array} bytes
 * @param {number} from
 * @param {number} to
 */
function trimmed(bytes, from, to) {
  while (from < to && isSpace(bytes[from])) from++;
  while (from < to && isSpace(bytes[to - 1])) to--;
  return [from, to];
}

/**
 * Throw if the service would refuse `record`.
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
    throw notUtf8(line);
  }
  try {
    JSON.parse(text);
  } catch (error) {
    throw malformed(line, error instanceof Error ? error.message : String(error));
  }
  // JSON.parse accepts a lone surrogate, which UTF-8 cannot encode.
  if (/\\u[dD][89a-fA-F]/.test(text)) {
    const halves = text
      .replace(/\\\\/g, "  ")
      .replace(/\\u[dD][89abAB]..\\u[dD][c-fC-F]/g, " ");
    if (/\\u[dD][89a-fA-F]/.test(halves)) throw malformed(line, "an escape is a lone surrogate");
  }
}

/**
 * A record of several lines without white space between tokens, as the service would store it.
 *
 * @param {Uint8Array<ArrayBuffer>} record
 */
export function oneLine(record) {
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

// --- A file as records ---

/** The records of a file. */
export class Records {
  #text;
  #from;
  #line;
  #chosen;
  #options;
  /** @type {any} */
  #Papa = null;
  /** @type {Table["columns"]} */
  #columns = null;

  /** @type {Reading} */
  reading;

  /** Number of blank lines, which are skipped. */
  blank = 0;

  /** Length of the text, once it was read. */
  end = 0;

  /**
   * @param {Text} text
   * @param {Chosen} chosen
   * @param {ReturnType<typeof optionsOf>} options
   * @param {Reading} reading
   * @param {number} from Position of the content.
   * @param {number} line Line of the content.
   */
  constructor(text, chosen, options, reading, from, line) {
    this.#text = text;
    this.#chosen = chosen;
    this.#options = options;
    this.reading = reading;
    this.#from = from;
    this.#line = line;
  }

  /**
   * Choose how to read `file`.
   *
   * @param {File} file
   * @param {Wanted} wanted
   * @throws {ReadingError} If name, content and `wanted` do not agree on one format.
   */
  static async of(file, wanted) {
    const options = optionsOf(wanted);
    const latin1 = (/** @type {Uint8Array} */ bytes) => bytes.reduce((text, byte) => text + String.fromCharCode(byte), "");
    const magic = latin1(new Uint8Array(await file.slice(0, 2).arrayBuffer()));
    const isGzip = magic === "\x1f\x8b";
    const start = latin1(await new Text(file, isGzip, "utf-8", 0).read(0, HEAD));
    refuseOtherFiles(start);
    const [encoding, mark] = encodingOf(start, options.encoding);
    const text = new Text(file, isGzip, encoding, mark);
    // Skip white space of any length before the content.
    let [from, line] = [0, 1];
    let head = await text.read(from, HEAD);
    while (head.length === HEAD && head.every(isSpace)) {
      from += HEAD;
      line += linesIn(new TextDecoder().decode(head));
      head = await text.read(from, HEAD);
    }
    const chosen = choose(new TextDecoder().decode(head, { stream: true }), head.length < HEAD, file.name, options);
    const { format, delimiter } = chosen;
    const records = new Records(text, chosen, options, { format, delimiter, encoding, gzip: isGzip }, from, line);
    if (format === "csv" || format === "tsv") records.#Papa = (await import("./papaparse.js")).default;
    return records;
  }

  /** Bytes of the file read so far. */
  get consumed() {
    return this.#text.consumed;
  }

  /**
   * Check every record and pass it on, reading the file in pieces.
   *
   * @param {Take} take
   * @param {() => unknown} hasRead Called after each piece.
   */
  async each(take, hasRead) {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    const isTable = Boolean(this.#Papa);
    const splitter = await this.#splitter();
    let count = 0;
    /** @type {Uint8Array<ArrayBuffer>} */
    let only = new Uint8Array();
    await this.#split(splitter, this.#from, Infinity, (record, position, line) => {
      if (!isTable) check(record, decoder, line);
      if (count++ === 0) only = record;
      take(record, position, line);
    }, hasRead);
    splitter.end();
    this.blank = splitter.blank;
    if (splitter instanceof Table) this.#columns = splitter.columns;
    const isListed = splitter instanceof ArrayElements;
    if (count === 1 && !this.#chosen.isGiven && !isListed && !isTable) refuseWrapper(only, this.#chosen);
  }

  /**
   * Pass on the records between two positions from `each`, which must have run: each is the position
   * of a record or the end of the text.
   *
   * @param {number} from
   * @param {number} to
   * @param {Take} take
   */
  async eachBetween(from, to, take) {
    await this.#split(await this.#splitter(true), from, to, take, () => {});
  }

  /** @param {boolean} isInside */
  async #splitter(isInside = false) {
    const { format, hasSeparators } = this.#chosen;
    if (this.#Papa) return new Table(this.#Papa, this.#chosen, this.#options, this.#line, isInside ? this.#columns : null);
    if (format === "ndjson") return new Lines(this.#line);
    return this.#chosen.isArray ? new ArrayElements(this.#line, isInside) : new Values(this.#line, hasSeparators);
  }

  /**
   * @param {Lines | ArrayElements | Values | Table} splitter
   * @param {number} from
   * @param {number} to
   * @param {Take} take
   * @param {() => unknown} hasRead
   */
  async #split(splitter, from, to, take, hasRead) {
    /** @type {Uint8Array<ArrayBuffer>} */
    let rest = new Uint8Array();
    for (let isLast = false; !isLast; ) {
      // Pieces grow with an incomplete record, so that no byte is scanned more than a few times.
      const asked = Math.min(Math.max(PIECE, rest.length), to - from);
      const piece = await this.#text.read(from, asked);
      from += piece.length;
      isLast = piece.length < asked || from === to;
      let bytes = piece;
      if (rest.length) {
        bytes = new Uint8Array(rest.length + piece.length);
        bytes.set(rest);
        bytes.set(piece, rest.length);
      }
      rest = bytes.subarray(splitter.split(bytes, from - bytes.length, isLast, take));
      if (rest.length > MAX_RECORD) throw splitter.unended(new TextDecoder().decode(rest.subarray(0, MAX_RECORD)));
      await hasRead();
    }
    this.end = from;
  }
}

/** Throw if the only record contains a list: its elements are probably the records. @param {Uint8Array} record @param {Chosen} chosen */
function refuseWrapper(record, chosen) {
  const value = JSON.parse(new TextDecoder().decode(record));
  if (Array.isArray(value)) {
    throw new ReadingError(
      "format_unclear",
      "The only record is an array. Read the file as JSON to upload its elements, or as NDJSON to upload it as one record.",
    );
  }
  if (chosen.isNamed || value === null || typeof value !== "object") return;
  const objects = [value];
  for (const object of objects) {
    for (const [name, member] of Object.entries(object)) {
      if (!Array.isArray(member)) {
        if (member !== null && typeof member === "object") objects.push(member);
        continue;
      }
      if (!member.some((one) => one !== null && typeof one === "object")) continue;
      throw new ReadingError(
        "wrapped",
        `The file is one object with a list of ${member.length} in “${name}”. Extract the list to upload its` +
          " records, or read the file as NDJSON to upload the object as one record.",
      );
    }
  }
}
