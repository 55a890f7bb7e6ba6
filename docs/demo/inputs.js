// The description of a packed network's inputs (docs/file-format.md): checked as bitbayes.packed.Inputs is, and applied.

const CHANNELS = { grey: 1, rgb: 3 };
const LIMITS = { image: [1e-6, 1e6], vector: [1e-30, 1e30] };
const SHOWN = /^(?:[^\p{C}\p{Z}]| )+$/u; // what Python calls printable

/** Reads the record of a network with inputs of a shape and so many outputs; throws RangeError. */
export function readInputs(entry, shape, outputs) {
  const { kind, colour, height, width, crop, mean, std, classes = [] } = entry;
  need(Object.hasOwn(LIMITS, kind), "kind must be image or vector");
  const [least, most] = LIMITS[kind];
  const size = shape.reduce((a, b) => a * b, 1);
  if (kind === "image") {
    need(Object.hasOwn(CHANNELS, colour), "colour must be grey or rgb");
    need([height, width].every((n) => Number.isInteger(n) && n >= 1), "height and width must be numbers of pixels");
    need(crop === undefined || (Number.isFinite(crop) && crop > 0 && crop <= 1), "crop must be a share in (0, 1]");
    const whole = [CHANNELS[colour], height, width];
    const allowed = [whole, [whole[0] * height * width], ...(whole[0] === 1 ? [[height, width]] : [])];
    need(allowed.some((each) => String(each) === String(shape)), `images of [${whole}] do not fit inputs of [${shape}]`);
  } else {
    need([colour, height, width, crop].every((value) => value === undefined), "only images have a size and colours");
    need(shape.length === 1, `vectors do not fit inputs of shape [${shape}]`);
  }
  const channels = kind === "image" ? CHANNELS[colour] : size;
  for (const numbers of [mean, std]) {
    const sound = Array.isArray(numbers) && [1, channels].includes(numbers.length);
    need(sound && numbers.every((n) => Number.isFinite(n) && Math.abs(n) <= most), "mean and std must be lists of numbers");
  }
  need(std.every((n) => n >= least), `std must be at least ${least}`);
  need(Array.isArray(classes), "classes must be a list of names");
  const named = (name) => typeof name === "string" && [...name].length <= 100 && SHOWN.test(name) && name.trim() !== "";
  need(classes.every(named), "a class's name must be 1 to 100 printable characters");
  need([0, outputs === 1 ? 2 : outputs].includes(classes.length), `${classes.length} names for ${outputs} outputs`);
  return new Inputs({ kind, colour, height, width, mean, std, classes, channels, size });
}

/** Fields of the record, and what they are for. */
class Inputs {
  constructor(fields) {
    Object.assign(this, fields);
  }

  /** What the network takes, from bytes of pixels (rows from the top, channels side by side): rounded as in torch. */
  prepare(pixels) {
    need(this.kind === "image" && pixels.length === this.size, `expected ${this.size} bytes of pixels`);
    const places = this.size / this.channels;
    const [mean, std] = [this.mean, this.std].map((numbers) => numbers.map(Math.fround));
    return Float32Array.from(pixels, (_, at) => {
      const channel = Math.floor(at / places);
      const share = Math.fround(pixels[(at % places) * this.channels + channel] / 255);
      return Math.fround(share - mean[mean.length > 1 ? channel : 0]) / std[std.length > 1 ? channel : 0];
    });
  }

  /** The name of a class, or its number. */
  name(index) {
    return this.classes[index] ?? String(index);
  }
}

function need(condition, message) {
  if (!condition) throw new RangeError(`inputs: ${message}`);
}
