// Strokes for who would rather not draw: lists of points in units of the canvas.

/** A smooth line (Catmull–Rom) through a few places, given in hundredths. */
function through(...places) {
  const at = (i) => places[Math.min(Math.max(i, 0), places.length - 1)];
  const points = [];
  for (let i = 0; i + 1 < places.length; i++) {
    for (let t = 0; t < 1; t += 0.1) {
      const mixed = [0, 1].map((axis) => {
        const [a, b, c, d] = [at(i - 1), at(i), at(i + 1), at(i + 2)].map((place) => place[axis] / 100);
        return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
      });
      points.push(mixed);
    }
  }
  return [...points, at(places.length - 1).map((number) => number / 100)];
}

/** Straight lines between places. */
const straight = (...places) => places.map(([x, y]) => [x / 100, y / 100]);

/** A line that swings at two paces (Lissajous). */
const knot = (turns, reach) =>
  Array.from({ length: 160 }, (_, i) => {
    const t = i / 159;
    return [0.5 + reach * Math.sin(6.28 * turns * t), 0.5 + reach * Math.sin(6.28 * 1.37 * turns * t + 0.8)];
  });

const zigzag = Array.from({ length: 13 }, (_, i) => [0.2 + 0.05 * i, i % 2 ? 0.22 + 0.01 * i : 0.78 - 0.01 * i]);

export const EXAMPLES = {
  digit: [
    [through([30, 33], [38, 20], [58, 19], [66, 33], [58, 50], [42, 66], [29, 80], [31, 81], [50, 79], [70, 80])],
    [through([33, 25], [48, 18], [64, 26], [62, 40], [47, 48], [62, 54], [68, 68], [56, 81], [40, 81], [30, 74])],
    [straight([50, 18], [27, 58], [74, 58]), straight([60, 38], [58, 84])],
    [through([64, 24], [50, 18], [37, 26], [40, 40], [56, 52], [63, 67], [52, 81], [38, 73], [43, 55], [58, 42], [66, 28], [62, 22])],
  ],
  letter: [
    [straight([30, 18], [30, 82]), straight([68, 18], [31, 52]), straight([40, 45], [70, 82])],
    [straight([22, 80], [48, 18], [74, 80]), straight([33, 57], [64, 57])],
    [straight([18, 22], [34, 78], [50, 36], [66, 78], [82, 22])],
    [straight([68, 18], [32, 18], [32, 82], [68, 82]), straight([32, 50], [62, 50])],
  ],
  scribble: [[knot(2.6, 0.34)], [zigzag], [knot(3.4, 0.3)]],
};
