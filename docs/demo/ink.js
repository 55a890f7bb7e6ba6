// From strokes to the 28×28 image that MNIST would have of them: fit into 20×20 with their aspect kept, centre of mass
// in the middle. Strokes stay lines until the end, so a small digit is as sharp as a large one. train.py draws its
// scribbles by the same formula.

const SIDE = 28;
const MIDDLE = 14;
const BOX = 20;
const RADIUS = 1.25; // of the pen, in pixels: the mean ink of a digit of MNIST
const SMALLEST = 0.2; // a dot is not blown up to a disc

/** Strokes are lists of points [x, y] in units of the canvas; returns a Uint8Array of 784 pixels, 255 for ink. */
export function ink(strokes, radius = RADIUS) {
  const points = strokes.flat();
  const ends = [0, 1].map((axis) => {
    const along = points.map((point) => point[axis]);
    return [Math.min(...along), Math.max(...along)];
  });
  const scale = (BOX - 2 * radius) / Math.max(SMALLEST, ...ends.map(([low, high]) => high - low));
  const from = ends.map(([low, high]) => (low + high) / 2);
  const first = coverage(strokes, scale, from, [MIDDLE, MIDDLE], radius);
  const to = centreOfMass(first).map((place) => 2 * MIDDLE - place);
  return Uint8Array.from(coverage(strokes, scale, from, to, radius), (share) => Math.round(255 * share));
}

/** The share of each pixel that the pen covers, by its distance from the nearest line. */
function coverage(strokes, scale, from, to, radius) {
  const nearest = new Float64Array(SIDE * SIDE).fill(Infinity);
  const placed = ([x, y]) => [(x - from[0]) * scale + to[0], (y - from[1]) * scale + to[1]];
  for (const stroke of strokes) {
    const points = stroke.map(placed);
    points.forEach((point, i) => approach(nearest, points[Math.max(i - 1, 0)], point, radius + 1));
  }
  return nearest.map((square) => Math.min(1, Math.max(0, radius + 0.5 - Math.sqrt(square))));
}

/** Lowers squared distances of the pixels around the line from a to b. */
function approach(nearest, a, b, margin) {
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const length = dx * dx + dy * dy;
  const [left, right] = [Math.min(a[0], b[0]) - margin, Math.max(a[0], b[0]) + margin];
  const [top, bottom] = [Math.min(a[1], b[1]) - margin, Math.max(a[1], b[1]) + margin];
  for (let y = Math.max(0, Math.ceil(top)); y <= Math.min(SIDE - 1, bottom); y++) {
    for (let x = Math.max(0, Math.ceil(left)); x <= Math.min(SIDE - 1, right); x++) {
      const t = length ? Math.min(1, Math.max(0, ((x - a[0]) * dx + (y - a[1]) * dy) / length)) : 0;
      const square = (x - a[0] - t * dx) ** 2 + (y - a[1] - t * dy) ** 2;
      if (square < nearest[y * SIDE + x]) nearest[y * SIDE + x] = square;
    }
  }
}

function centreOfMass(pixels) {
  let [mass, x, y] = [0, 0, 0];
  pixels.forEach((share, i) => {
    mass += share;
    x += share * (i % SIDE);
    y += share * Math.floor(i / SIDE);
  });
  return [x / mass, y / mass];
}
