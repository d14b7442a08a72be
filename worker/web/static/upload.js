// Upload of files, a folder or ZIP archives by STOW-RS. An archive is unpacked here, within bounds; its names are shown,
// never used as a path. (ZIP: PKWARE APPNOTE 6.3; deflate: RFC 1951; multipart: PS3.18 8.6.1.)
"use strict";

const upload = document.getElementById("upload");
const MOST_ENTRIES = 20000;
const MOST_DIRECTORY_BYTES = 16 << 20;
const MOST_UNPACKED_BYTES = 16 * 2 ** 30;
const MOST_RATIO = 250; // of a file above a MiB: blank slices compress well, bombs a thousandfold
const FILES_A_REQUEST = 32;
const BYTES_A_REQUEST = 32 << 20;
const TRIES = 5;
const REASONS = { 0xa700: "no space, or too large", 0xa900: "contradicts itself", 0xc000: "cannot be read", 0x0122: "not an image that is received", 0x0110: "fault of the worker", 0x0124: "not allowed" };

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

async function view(blob, start, end) {
  return new DataView(await blob.slice(start, end).arrayBuffer());
}

// The files of an archive: name and a function that unpacks it. Throws an Error in words for an archive beyond the bounds.
async function entriesOf(archive, largest) {
  const tailStart = Math.max(0, archive.size - 65557);
  const tail = await view(archive, tailStart, archive.size);
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) throw new Error("is not a ZIP archive, or is cut off");
  const [count, size, start] = [tail.getUint16(end + 10, true), tail.getUint32(end + 12, true), tail.getUint32(end + 16, true)];
  if (count === 0xffff || start === 0xffffffff) throw new Error("is a ZIP64 archive: unpack it and choose the folder");
  if (count > MOST_ENTRIES) throw new Error(`has over ${MOST_ENTRIES} files`);
  if (size > MOST_DIRECTORY_BYTES || start + size > archive.size) throw new Error("has a damaged directory");
  const directory = await view(archive, start, start + size);
  const entries = [];
  let [at, unpacked, packed] = [0, 0, 0];
  for (let number = 0; number < count; number += 1) {
    if (at + 46 > size || directory.getUint32(at, true) !== 0x02014b50) throw new Error("has a damaged directory");
    const [flags, method] = [directory.getUint16(at + 8, true), directory.getUint16(at + 10, true)];
    const [crc, from, to] = [16, 20, 24].map((offset) => directory.getUint32(at + offset, true));
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => directory.getUint16(at + offset, true));
    const offset = directory.getUint32(at + 42, true);
    const bytes = new Uint8Array(directory.buffer, at + 46, Math.min(nameLength, size - at - 46));
    const name = new TextDecoder().decode(bytes);
    at += 46 + nameLength + extra + comment;
    if (name.endsWith("/")) continue;
    if (flags & 1) throw new Error("is encrypted");
    if (method !== 0 && method !== 8) throw new Error(`uses compression method ${method}: unpack it and choose the folder`);
    if ([from, to, offset].includes(0xffffffff)) throw new Error("is a ZIP64 archive: unpack it and choose the folder");
    [unpacked, packed] = [unpacked + to, packed + from];
    if (to > largest) throw new Error(`holds a file of ${to} bytes; the worker takes ${largest} at most`);
    if (to > 1 << 20 && to > MOST_RATIO * from) throw new Error("holds a file that is compressed beyond any image");
    entries.push({ name, read: () => unpack(archive, { offset, from, to, method, crc }) });
  }
  if (packed > archive.size) throw new Error("holds files that overlap"); // one stream for many files: a bomb
  if (unpacked > MOST_UNPACKED_BYTES) throw new Error("would be too large unpacked");
  return entries;
}

async function unpack(archive, { offset, from, to, method, crc }) {
  const head = await view(archive, offset, offset + 30);
  if (head.byteLength < 30 || head.getUint32(0, true) !== 0x04034b50) throw new Error("is damaged");
  const start = offset + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  let stream = archive.slice(start, start + from).stream();
  if (method === 8) stream = stream.pipeThrough(new DecompressionStream("deflate-raw"));
  const reader = stream.getReader();
  const pieces = [];
  let [length, check] = [0, 0xffffffff];
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    length += piece.value.length;
    if (length > to) {
      await reader.cancel();
      throw new Error("is larger than its archive says");
    }
    for (const byte of piece.value) check = CRC[(check ^ byte) & 255] ^ (check >>> 8);
    pieces.push(piece.value);
  }
  if (length !== to || (check ^ 0xffffffff) >>> 0 !== crc) throw new Error("is damaged");
  return new Blob(pieces);
}

// PS3.10 7.1: a preamble of 128 bytes, then DICM. A DICOMDIR only lists files.
async function isImage(name, blob) {
  if (/(^|[/\\])DICOMDIR$/i.test(name)) return false;
  return (await blob.slice(128, 132).text()) === "DICM";
}

function startUpload() {
  const find = (id) => document.getElementById(id);
  const [largest, mostBytes] = [Number(upload.dataset.largest), Number(upload.dataset.most)];
  const [state, bar, list] = [find("upload-state"), find("upload-bar"), find("upload-faults")];
  const inputs = [find("files"), find("folder")];
  let totals = null;
  let busy = false;

  function tell() {
    const words = [`${totals.stored} stored`];
    if (totals.refused) words.push(`${totals.refused} refused`);
    if (totals.skipped) words.push(`${totals.skipped} skipped: no DICOM images`);
    state.textContent = `${totals.done ? "Done" : "Uploading"}: ${words.join(", ")}.`;
  }

  function fault(name, words) {
    if (list.childElementCount >= 100) return;
    const item = document.createElement("li");
    item.textContent = `${name} ${words}`;
    list.append(item);
  }

  function note(answer) {
    for (const item of answer["00081199"]?.Value ?? []) {
      totals.stored += 1;
      const study = /\/studies\/([0-9.]+)\//.exec(item["00081190"]?.Value?.[0] ?? "")?.[1];
      if (study) totals.studies.add(study);
    }
    for (const item of [...(answer["00081198"]?.Value ?? []), ...(answer["0008119A"]?.Value ?? [])]) {
      totals.refused += 1;
      const reason = item["00081197"]?.Value?.[0] ?? 0;
      const words = REASONS[reason] ?? REASONS[reason & 0xff00] ?? REASONS[reason & 0xf000] ?? "refused";
      fault(item["00081155"]?.Value?.[0] ?? "A file", `was refused: ${words} (0x${reason.toString(16).padStart(4, "0").toUpperCase()}).`);
    }
  }

  async function send(batch) {
    const boundary = `upload-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
    const parts = batch.flatMap((blob) => [`--${boundary}\r\nContent-Type: application/dicom\r\n\r\n`, blob, "\r\n"]);
    const body = new Blob([...parts, `--${boundary}--\r\n`]);
    const headers = { Accept: "application/dicom+json", "X-CSRF-Token": upload.dataset.csrf };
    headers["Content-Type"] = `multipart/related; type="application/dicom"; boundary=${boundary}`;
    for (let attempt = 1; ; attempt += 1) {
      const answer = await fetch("/dicom-web/studies", { method: "POST", headers, body }).catch(() => null);
      const later = answer === null || answer.status === 503;
      if (later && attempt < TRIES) {
        await new Promise((resolve) => setTimeout(resolve, 1000 * Number(answer?.headers.get("retry-after") ?? attempt)));
        continue;
      }
      if (answer === null) throw new Error("The worker does not answer. What was stored is kept; upload the rest again.");
      const content = await answer.json().catch(() => ({}));
      if (!answer.headers.get("content-type")?.startsWith("application/dicom+json")) {
        throw new Error(`The worker refuses: ${content.detail ?? answer.status}. What was stored is kept.`);
      }
      note(content);
      tell();
      return;
    }
  }

  async function sources(files) {
    const found = [];
    for (const file of files) {
      const name = file.webkitRelativePath || file.name;
      if (!/\.zip$/i.test(file.name)) found.push({ name, read: async () => file });
      else {
        try {
          found.push(...(await entriesOf(file, largest)).map((entry) => ({ ...entry, name: `${name}: ${entry.name}` })));
        } catch (error) {
          totals.refused += 1;
          fault(name, `${error.message}.`);
        }
      }
    }
    return found;
  }

  async function start(files) {
    if (busy || files.length === 0) return;
    busy = true;
    totals = { stored: 0, refused: 0, skipped: 0, studies: new Set(), done: false };
    list.replaceChildren();
    find("upload-studies").replaceChildren();
    for (const input of inputs) input.disabled = true;
    bar.hidden = false;
    try {
      const found = await sources(files);
      [bar.max, bar.value] = [found.length || 1, 0];
      let [batch, bytes] = [[], 0];
      for (const { name, read } of found) {
        let blob = null;
        try {
          blob = await read();
          if (blob.size > largest || blob.size + 1024 > mostBytes) throw new Error(`exceeds ${Math.min(largest, mostBytes)} bytes`);
        } catch (error) {
          totals.refused += 1;
          fault(name, `${error.message}.`);
          blob = null;
        }
        bar.value += 1;
        if (blob === null) continue;
        if (!(await isImage(name, blob))) {
          totals.skipped += 1;
          continue;
        }
        const room = Math.min(BYTES_A_REQUEST, mostBytes - 256 * (FILES_A_REQUEST + 1));
        if (batch.length === FILES_A_REQUEST || (batch.length && bytes + blob.size > room)) {
          await send(batch);
          [batch, bytes] = [[], 0];
        }
        batch.push(blob);
        bytes += blob.size;
      }
      if (batch.length) await send(batch);
      totals.done = true;
      tell();
    } catch (error) {
      tell();
      fault("", error.message);
    } finally {
      busy = false;
      bar.hidden = true;
      for (const input of inputs) [input.disabled, input.value] = [false, ""];
      for (const study of [...totals.studies].slice(0, 100)) {
        const link = document.createElement("a");
        [link.href, link.textContent] = [`/studies/${study}`, study];
        const item = document.createElement("li");
        item.append(link);
        find("upload-studies").append(item);
      }
    }
  }

  for (const input of inputs) input.addEventListener("change", () => start([...input.files]));
  upload.addEventListener("dragover", (event) => event.preventDefault());
  upload.addEventListener("drop", (event) => {
    event.preventDefault();
    start([...event.dataTransfer.files]);
  });
  window.addEventListener("beforeunload", (event) => busy && event.preventDefault());
}

if (upload) startUpload();
