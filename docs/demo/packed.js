// Reads a packed network of bitbayes (versions 1 and 2 of docs/file-format.md) and runs it on one input.
//
// A row of 1-bit weights is a row of bytes. For any eight inputs there are 256 possible sums of ±x: they are tabulated
// once, and a byte of weights is its own index. One look-up and one addition take the place of eight products.
// Sums are in float64 and every step is rounded to float32, as in the reference backend.

import { readInputs } from "./inputs.js";
import { OPS, sumsOfEight } from "./operations.js";

const KEY = "bitbayes.packed";
const DIGEST = "sha256";
const VERSION = 2; // version 1 has no inputs
const MAX_HEADER = 1 << 20;
const MAX_TEXT = 1 << 18;
const MAX_NUMBERS = 1 << 20; // of all values: they are held until the answer is there, with tables of their sums
const MAX_WORK = 1 << 30; // operations of all networks for one answer; a page must not stand still
const MAX_DEPTH = 16;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.]{0,199}$/;
const REAL_NUMBERS = ["min", "max", "mean", "std", "crop"]; // entries of the program that need not be whole
const BYTES = { U8: 1, I8: 1, I32: 4, F16: 2, F32: 4 };
const REAL = ["F32", "F16"];
const VECTORS = { scale: REAL, shift: REAL, slope: REAL, threshold: ["I32"], direction: ["I8"] };

/** What the file says does not hold together; the message is one line and says why. */
export class PackedFileError extends Error {}

/** The network in an ArrayBuffer of any origin; throws PackedFileError. */
export function readPacked(buffer) {
  const { program, layouts, data } = readHeader(buffer);
  const optional = program.version === 1 ? ["about"] : ["about", "inputs"];
  onlyKeys(program, "the program", ["version", "input", "samples", "steps"], optional);
  const { steps, samples, about = {} } = program;
  need(isCounts(program.input) && product(program.input) <= 1 << 24, "input must be the shape of one input");
  need(isWhole(samples, 1, 4096), "samples must be an integer from 1 to 4096");
  need(isObject(about) && Object.values(about).every((text) => typeof text === "string"), "about must map texts to texts");
  need(Array.isArray(steps) && steps.length > 0 && steps.length <= 4096, "steps must be a list of 1 to 4096 entries");
  const tensors = new Map(Object.entries(layouts).map(([name, layout]) => [name, decode(name, layout, data)]));
  const values = [{ shape: program.input, shared: true }];
  const used = new Set();
  const made = steps.map((row, index) => {
    try {
      return makeStep(row, index, values, tensors, samples, used);
    } catch (error) {
      throw error instanceof RangeError ? new PackedFileError(`step ${index}: ${error.message}`) : error;
    }
  });
  need(used.size === tensors.size, `${tensors.size - used.size} tensors belong to no step`);
  const numbers = values.reduce((sum, { shape, shared }) => sum + product(shape) * (shared ? 1 : samples), 0);
  need(numbers <= MAX_NUMBERS, `the program needs ${numbers} numbers; this page holds at most ${MAX_NUMBERS}`);
  const work = samples * made.reduce((sum, { work }) => sum + work, 0);
  need(work <= MAX_WORK, `the program takes ${work} operations for one input; this page runs at most ${MAX_WORK}`);
  return new Network(program.input, samples, about, made, values, described(program.inputs, program.input, values.at(-1)));
}

/** Returns the description of the inputs, or null if the file has none. */
function described(entry, shape, output) {
  if (entry === undefined) return null;
  onlyKeys(entry, "inputs", ["kind", "mean", "std"], ["colour", "height", "width", "crop", "classes"]);
  try {
    return readInputs(entry, shape, product(output.shape));
  } catch (error) {
    throw new PackedFileError(error.message);
  }
}

/** C networks side by side. `inputs` are what `readInputs` returns, or null. `values` are the shapes between the steps; the first is the input, the last the output. */
export class Network {
  constructor(input, samples, about, steps, values, inputs) {
    Object.assign(this, { input, samples, about, steps, values, inputs });
  }

  /** Raw outputs for one input, a Float32Array: one Float32Array for each network. */
  outputs(x) {
    const size = product(this.input);
    if (x.length !== size || !x.every(Number.isFinite)) throw new RangeError(`expected ${size} finite numbers`);
    const shared = new Map([["value 0", x]]); // what all networks have in common is computed once
    return Array.from({ length: this.samples }, (_, sample) => {
      const own = new Map();
      const home = (value) => (this.values[value].shared ? shared : own);
      for (const { from, value, run } of this.steps) {
        const sources = from.map((source) => home(source).get(`value ${source}`));
        const sums = () => once(home(from[0]), `sums ${from[0]}`, () => sumsOfEight(sources[0]));
        once(home(value), `value ${value}`, () => run(sources, sample, sums));
      }
      return home(this.steps.length).get(`value ${this.steps.length}`);
    });
  }

  /** Class probabilities: of every network (`each`), their mean (`probs`), its entropy and the information, in nats. */
  predict(x) {
    const each = this.outputs(x).map(softmax);
    const probs = each[0].map((_, k) => mean(each.map((p) => p[k])));
    return { each, probs, entropy: entropy(probs), information: Math.max(0, entropy(probs) - mean(each.map(entropy))) };
  }
}

/** Checks the digest of a file that has one; throws PackedFileError. A page without a secure origin cannot check it. */
export async function checkDigest(buffer) {
  const { metadata, data } = readHeader(buffer);
  if (!(DIGEST in metadata) || !globalThis.crypto?.subtle) return;
  const about = Object.keys(metadata).filter((key) => key !== DIGEST).sort();
  const text = new TextEncoder().encode(about.map((key) => `${key}\0${metadata[key]}\0`).join(""));
  const whole = new Uint8Array(text.length + data.byteLength);
  whole.set(text);
  whole.set(new Uint8Array(data), text.length);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  const found = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  need(found === metadata[DIGEST], "the file is damaged: its SHA-256 is not that of what was written");
}

function readHeader(buffer) {
  const size = buffer.byteLength;
  need(size >= 8, "not a safetensors file: it is shorter than it says");
  const length = new DataView(buffer).getBigUint64(0, true);
  need(length <= BigInt(size - 8), "not a safetensors file: it is shorter than it says");
  need(length <= BigInt(MAX_HEADER), `the header has ${length} bytes; at most ${MAX_HEADER} are read`);
  const start = 8 + Number(length);
  const { __metadata__: metadata, ...layouts } = parsed(decoded(buffer.slice(8, start)), "the header");
  const keys = isObject(metadata) ? Object.keys(metadata).filter((key) => key !== DIGEST) : [];
  need(keys.length === 1 && keys[0] === KEY, `not a packed network: its metadata must have the entry "${KEY}" and no others`);
  need(typeof metadata[KEY] === "string" && metadata[KEY].length <= MAX_TEXT, "the program is no text, or too long");
  const program = parsed(metadata[KEY], "the program", REAL_NUMBERS);
  const known = isWhole(program.version, 1, VERSION);
  need(known, `version ${String(program.version).slice(0, 20)} of the format; this page reads versions 1 to ${VERSION}`);
  checkPlaces(layouts, size - start);
  return { program, layouts, metadata, data: buffer.slice(start) };
}

/** Tensors lie one after the other and fill the file. */
function checkPlaces(layouts, size) {
  const places = Object.entries(layouts).map(([name, layout]) => {
    need(NAME.test(name) && isObject(layout) && layout.dtype in BYTES, `tensor ${shown(name)} has no allowed name or type`);
    const { shape, data_offsets: at } = layout;
    need(Array.isArray(shape) && shape.every((n) => isWhole(n)), `tensor ${shown(name)} has no shape`);
    need(Array.isArray(at) && at.length === 2 && at.every((n) => isWhole(n)), `tensor ${shown(name)} has no place`);
    need(at[1] - at[0] === product(shape) * BYTES[layout.dtype], `tensor ${shown(name)} does not fill its place`);
    return at;
  });
  let end = 0;
  for (const at of places.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    need(at[0] === end, "not a safetensors file: tensors overlap or leave holes");
    end = at[1];
  }
  need(end === size, "not a safetensors file: its tensors do not fill it");
}

/** Numbers of a tensor; the copy is aligned, which the file need not be. */
function decode(name, { dtype, shape, data_offsets: at }, data) {
  const bytes = data.slice(...at);
  const numbers = {
    U8: () => new Uint8Array(bytes),
    I8: () => new Int8Array(bytes),
    I32: () => new Int32Array(bytes),
    F32: () => new Float32Array(bytes),
    F16: () => Float32Array.from(new Uint16Array(bytes), half),
  }[dtype]();
  need(!REAL.includes(dtype) || numbers.every(Number.isFinite), `tensor ${shown(name)} has numbers that are not finite`);
  need(dtype !== "I8" || numbers.every((n) => Math.abs(n) === 1), `tensor ${shown(name)} has directions other than ±1`);
  return { dtype, shape, numbers };
}

function half(bits) {
  const [sign, exponent, rest] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return NaN;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + rest) : 2 ** -24 * rest);
}

/** Checks one step against the values before it, appends the value that it makes, and returns what computes it. */
function makeStep(row, index, values, tensors, samples, used) {
  onlyKeys(row, `step ${index}`, ["op", "from"], ["name", "settings", "tensors"]);
  const { op: name, from, settings = {}, tensors: names = {} } = row;
  const op = Object.hasOwn(OPS, name) ? OPS[name] : null;
  need(op, `step ${index}: this page has no operation ${shown(name)}; bitbayes.packed.load runs all of them`);
  const sound = Array.isArray(from) && from.length === (op.sources ?? 1) && from.every((s) => isWhole(s, 0, index));
  need(sound, `step ${index}: from must name ${op.sources ?? 1} of the values 0 to ${index}`);
  onlyKeys(settings, `step ${index}: settings`, op.settings ?? []);
  onlyKeys(names, `step ${index}: tensors`, op.needed ?? [], op.optional ?? []);
  let shared = from.every((source) => values[source].shared);
  const roles = Object.entries(names).map(([role, key]) => {
    need(tensors.has(key), `step ${index}: there is no tensor ${shown(key)}`);
    const { dtype, shape, numbers } = tensors.get(key);
    need((VECTORS[role] ?? ["U8", ...REAL]).includes(dtype), `step ${index}: ${role} cannot have the type ${dtype}`);
    used.add(key);
    const differs = samples > 1 && shape.length === (role in VECTORS ? 2 : 3) && shape[0] === samples;
    shared &&= !differs;
    const size = numbers.length / samples;
    const of = (sample) => (differs ? numbers.subarray(sample * size, (sample + 1) * size) : numbers);
    return [role, { dtype, shape: differs ? shape.slice(1) : shape, of, count: differs ? samples : 1 }];
  });
  const shapes = from.map((source) => values[source].shape);
  const { shape, run } = op.make(shapes, settings, Object.fromEntries(roles));
  values.push({ shape, shared });
  const fan = "weight" in names ? shapes[0][0] : 1; // of a linear layer: it alone has weights here
  return { from, value: index + 1, run, work: product(shape) * fan };
}

function need(condition, message) {
  if (!condition) throw new PackedFileError(message);
}

/** The text in bytes; what is no UTF-8 is refused. */
function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new PackedFileError("not a safetensors file: its header is no text");
  }
}

/**
 * The JSON object in a text. JSON.parse alone would take the last of two entries of one name, and 1.0 for 1: names must
 * differ, and a number may have a fraction or an exponent only where its name is one of `reals`.
 */
function parsed(text, what, reals = []) {
  try {
    const found = JSON.parse(text); // the grammar; what follows can rely on it
    checkNames(text, what, reals);
    if (isObject(found)) return found;
  } catch (error) {
    if (error instanceof PackedFileError) throw error;
  } // the same line for both
  throw new PackedFileError(`${what} is not a JSON object`);
}

function checkNames(text, what, reals) {
  const open = []; // names of every object that has begun; for a list, whether its numbers may be real
  let last = null; // the text before this token, and the name that stands before a value
  let name = null;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/g)) {
    if (token === "{" || token === "[") {
      open.push(token === "{" ? new Set() : reals.includes(name));
      need(open.length <= MAX_DEPTH, `${what} has more than ${MAX_DEPTH} levels`);
    } else if (token === "}" || token === "]") {
      open.pop();
    } else if (token === ":") {
      name = JSON.parse(last);
      need(!open.at(-1).has(name), `${what} has the name ${shown(name)} twice`);
      open.at(-1).add(name);
    } else if (/^-?[0-9]/.test(token) && /[.eE]/.test(token)) {
      const real = open.at(-1) instanceof Set ? reals.includes(name) : open.at(-1);
      need(real, `${what} has ${token.slice(0, 20)} where an integer is expected`);
    }
    last = token;
  }
}

function onlyKeys(value, what, needed, optional = []) {
  const keys = isObject(value) ? Object.keys(value) : null;
  const sound = keys && needed.every((k) => keys.includes(k)) && keys.every((k) => [...needed, ...optional].includes(k));
  need(sound, `${what} must be an object of [${needed}] and perhaps [${optional}]`);
}

function once(map, key, make) {
  if (!map.has(key)) map.set(key, make());
  return map.get(key);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isWhole = (value, least = 0, most = 2 ** 31 - 1) => Number.isInteger(value) && value >= least && value <= most;
const isCounts = (value) => Array.isArray(value) && value.length > 0 && value.length <= 6 && value.every((n) => isWhole(n, 1));
const product = (numbers) => numbers.reduce((a, b) => a * b, 1);
const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
const shown = (value) => JSON.stringify(String(value).slice(0, 60));
const entropy = (probs) => probs.reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);

function softmax(logits) {
  const most = Math.max(...logits);
  const grown = Float64Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = grown.reduce((a, b) => a + b, 0);
  return grown.map((number) => number / sum);
}
