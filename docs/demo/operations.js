// The operations of packed networks that a perceptron needs. Each checks shapes (RangeError) and returns the shape that
// it makes, without the batch, and what computes it: run(sources, sample, sums) with `sums` the table of its first source.

/** All 256 sums of ±x for each eight inputs: entry 256·i + byte is the sum for inputs 8i to 8i + 7. */
export function sumsOfEight(x) {
  const table = new Float64Array(256 * Math.ceil(x.length / 8));
  for (let start = 0, first = 0; first < x.length; start += 256, first += 8) {
    const some = x.subarray(first, first + 8);
    table[start] = -some.reduce((a, b) => a + b, 0);
    for (let bit = 0; bit < 8; bit++) {
      const twice = bit < some.length ? 2 * some[bit] : 0;
      for (let low = 0, high = 1 << bit; low < 1 << bit; low++, high++) table[start + high] = table[start + low] + twice;
    }
  }
  return table;
}

/** Rows of weight bytes by columns, so that the inner loop of a product stays in 256 sums. */
function columns(rows, outputs, bytes) {
  const turned = new Uint8Array(rows.length);
  for (let k = 0; k < outputs; k++) for (let i = 0; i < bytes; i++) turned[i * outputs + k] = rows[k * bytes + i];
  return turned;
}

function linear([shape], settings, { weight }) {
  need(shape.length === 1, `takes one axis, got shape [${shape}]`);
  const [inputs, outputs] = [shape[0], weight.shape[0]];
  const bits = weight.dtype === "U8";
  const width = bits ? Math.ceil(inputs / 8) : inputs;
  need(weight.shape.length === 2 && weight.shape[1] === width, `weight has shape [${weight.shape}], expected [*,${width}]`);
  need(outputs >= 1 && outputs <= 1 << 24, "weight has no outputs");
  if (!bits) return { shape: [outputs], run: ([x], sample) => realProducts(x, weight.of(sample), outputs) };
  const turned = Array.from({ length: weight.count }, (_, sample) => {
    const rows = weight.of(sample);
    for (let k = 0; inputs % 8 && k < outputs; k++) {
      need(rows[k * width + width - 1] >> inputs % 8 === 0, "weight has ones in the bits that are left over");
    }
    return columns(rows, outputs, width);
  });
  const run = (sources, sample, sums) => {
    const [bytes, table, result] = [turned[weight.count > 1 ? sample : 0], sums(), new Float64Array(outputs)];
    for (let i = 0, at = 0; i < width; i++) {
      for (let k = 0; k < outputs; k++, at++) result[k] += table[(i << 8) | bytes[at]];
    }
    return Float32Array.from(result);
  };
  return { shape: [outputs], run };
}

function realProducts(x, weight, outputs) {
  const result = new Float32Array(outputs);
  for (let k = 0, at = 0; k < outputs; k++) {
    let sum = 0;
    for (let i = 0; i < x.length; i++, at++) sum += x[i] * weight[at];
    result[k] = sum;
  }
  return result;
}

/** A function of each entry and of tensors that have one number for each channel, or one for all. */
function eachEntry(compute) {
  return ([shape], settings, tensors) => {
    const places = shape.slice(1).reduce((a, b) => a * b, 1);
    for (const [role, { shape: own }] of Object.entries(tensors)) {
      need(own.length === 1 && (own[0] === 1 || own[0] === shape[0]), `${role} has shape [${own}], expected [1] or [${shape[0]}]`);
    }
    const run = ([x], sample) => {
      const numbers = Object.entries(tensors).map(([role, tensor]) => [role, tensor.of(sample)]);
      const at = {};
      return x.map((number, i) => {
        for (const [role, all] of numbers) at[role] = all[all.length > 1 ? Math.floor(i / places) : 0];
        return compute(number, at, settings);
      });
    };
    return { shape, run };
  };
}

function clamp(shapes, settings) {
  const bounds = [settings.min, settings.max];
  need(bounds.every((b) => b === null || Number.isFinite(b)) && bounds.some((b) => b !== null), "needs a bound");
  const [low, high] = [settings.min ?? -Infinity, settings.max ?? Infinity];
  return { shape: shapes[0], run: ([x]) => x.map((number) => Math.min(Math.max(number, low), high)) };
}

function reshape([shape], settings) {
  const found = settings.shape;
  const sound = Array.isArray(found) && found.length > 0 && found.length <= 6 && found.every((n) => Number.isInteger(n) && n > 0);
  const size = (sizes) => sizes.reduce((a, b) => a * b, 1);
  need(sound && size(found) === size(shape), `shape [${shape}] cannot become [${found}]`);
  return { shape: found, run: ([x]) => x };
}

function add([one, other]) {
  need(String(one) === String(other), `cannot add shapes [${one}] and [${other}]`);
  return { shape: one, run: ([x, y]) => x.map((number, i) => number + y[i]) };
}

function need(condition, message) {
  if (!condition) throw new RangeError(message);
}

const threshold = (x, t) => (x * (t.direction ?? 1) >= t.threshold ? 1 : -1);

export const OPS = {
  linear: { make: linear, needed: ["weight"] },
  affine: { make: eachEntry((x, t) => x * (t.scale ?? 1) + (t.shift ?? 0)), optional: ["scale", "shift"] },
  sign: { make: eachEntry((x) => (x >= 0 ? 1 : -1)) },
  threshold: { make: eachEntry(threshold), needed: ["threshold"], optional: ["direction"] },
  clamp: { make: clamp, settings: ["min", "max"] },
  prelu: { make: eachEntry((x, t) => (x > 0 ? x : x * t.slope)), needed: ["slope"] },
  tanh: { make: eachEntry(Math.tanh) },
  sigmoid: { make: eachEntry((x) => 0.5 * (1 + Math.tanh(0.5 * x))) },
  reshape: { make: reshape, settings: ["shape"] },
  add: { make: add, sources: 2 },
};
