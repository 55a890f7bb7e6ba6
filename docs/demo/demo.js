// The page: strokes in, answer out. The networks and the limit of the entropy are in digits.safetensors.

import { EXAMPLES } from "./examples.js";
import { ink } from "./ink.js";
import { checkDigest, readPacked } from "./packed.js";

const PEN = 0.07; // of the canvas; the networks see a pen of their own
const MOST = Math.log(10); // the entropy of ten classes that are equally likely
const find = (id) => document.getElementById(id);
const pad = find("pad");
const classes = find("classes");
const percent = (share) => `${(100 * share).toFixed(share > 0.995 || share < 0.095 ? 1 : 0)}%`;

let network = null;
let strokes = [];
let drawing = null; // the pointer that draws
let waiting = false;
const times = [];
const shown = { digit: 0, letter: 0, scribble: 0 }; // which example comes next

function draw() {
  const side = Math.round(pad.clientWidth * devicePixelRatio);
  if (pad.width !== side) pad.width = pad.height = side;
  const context = pad.getContext("2d");
  context.clearRect(0, 0, side, side);
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
  Object.assign(context, { lineWidth: PEN * side, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y]) => context.lineTo(x * side, y * side));
    if (stroke.length === 1) context.lineTo(stroke[0][0] * side, stroke[0][1] * side);
    context.stroke();
  }
}

/** Answers what is on the canvas, and says it aloud where a stroke has ended. */
function answer(aloud) {
  if (!network) return;
  const start = performance.now();
  const pixels = strokes.length ? ink(strokes) : new Uint8Array(784);
  const found = strokes.length ? network.predict(network.inputs.prepare(pixels)) : null;
  if (found) times.push(performance.measure("answer", { start }).duration);
  show(found, Number(network.about.doubt));
  see(pixels);
  if (aloud) find("spoken").textContent = found ? `${find("answer").textContent}. ${find("reason").textContent}` : "";
}

function show(found, limit) {
  const unsure = found !== null && found.entropy > limit;
  const best = found ? found.probs.indexOf(Math.max(...found.probs)) : -1;
  find("answer").dataset.state = found ? (unsure ? "doubt" : "digit") : "empty";
  find("answer").textContent = found ? (unsure ? "I don’t know" : network.inputs.name(best)) : "Your turn";
  find("reason").textContent = found ? reasonFor(found, best) : "Draw a digit in the square, large or small.";
  classes.classList.toggle("in-doubt", unsure);
  [...classes.children].forEach((row, k) => {
    const each = found ? found.each.map((probs) => probs[k]) : [];
    row.classList.toggle("best", k === best);
    row.title = found ? `Mean ${percent(found.probs[k])}; single networks from ${percent(Math.min(...each))} to ${percent(Math.max(...each))}` : "";
    row.querySelector(".bar").style.width = `${100 * (found?.probs[k] ?? 0)}%`;
    row.querySelector(".share").textContent = found ? percent(found.probs[k]) : "";
    row.querySelectorAll(".dot").forEach((dot, c) => {
      dot.hidden = !found;
      dot.style.left = `${100 * (each[c] ?? 0)}%`;
    });
  });
  const doubt = found ? found.entropy : 0;
  find("doubt").ariaValueNow = doubt.toFixed(3);
  find("doubt").querySelector(".bar").style.width = `${(100 * doubt) / MOST}%`;
  find("nats").textContent = found ? `${found.entropy.toFixed(2)} nats (limit ${limit.toFixed(2)})` : "";
  const median = times.toSorted((a, b) => a - b)[times.length >> 1];
  find("time").textContent = times.length ? `The median time per answer in this browser is ${median.toFixed(1)} ms.` : "";
}

function reasonFor({ probs, each }, best) {
  const agree = each.filter((p) => p[best] === Math.max(...p)).length;
  return `${agree} of ${each.length} networks say ${network.inputs.name(best)}; their mean is ${percent(probs[best])}.`;
}

function see(pixels) {
  const context = find("seen").getContext("2d");
  const image = context.createImageData(28, 28);
  pixels.forEach((pixel, i) => image.data.set([pixel, pixel, pixel, 255], 4 * i));
  context.putImageData(image, 0, 0);
}

/** Draws and answers once a frame, however fast the pointer reports. */
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
    answer(false);
  });
}

function now() {
  draw();
  answer(true);
}

function placeOf(event) {
  const { left, top, width, height } = pad.getBoundingClientRect();
  return [(event.clientX - left) / width, (event.clientY - top) / height];
}

pad.addEventListener("pointerdown", (event) => {
  if (drawing !== null || event.button !== 0) return;
  drawing = event.pointerId;
  pad.setPointerCapture(drawing);
  strokes.push([placeOf(event)]);
  soon();
});
pad.addEventListener("pointermove", (event) => {
  if (event.pointerId !== drawing) return;
  const events = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(events.length ? events : [event]).map(placeOf));
  soon();
});
for (const end of ["pointerup", "pointercancel"]) {
  pad.addEventListener(end, (event) => {
    if (event.pointerId !== drawing) return;
    drawing = null;
    now();
  });
}

function clear() {
  strokes = [];
  drawing = null;
  now();
}

find("clear").addEventListener("click", clear);
addEventListener("keydown", (event) => event.key === "Escape" && clear());
find("examples").addEventListener("click", ({ target }) => {
  const all = EXAMPLES[target.dataset.example];
  if (!all) return;
  strokes = structuredClone(all[shown[target.dataset.example]++ % all.length]);
  now();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
new ResizeObserver(draw).observe(pad);

function makeRows() {
  const longest = Math.max(...Array.from({ length: 10 }, (_, k) => network.inputs.name(k).length));
  classes.style.setProperty("--name", `${Math.min(0.6 + 0.6 * longest, 9)}rem`);
  for (let k = 0; k < 10; k++) {
    const row = document.createElement("li");
    for (const [name, parent] of [["digit"], ["track"], ["share"], ["bar", "track"]]) {
      const part = document.createElement("span");
      part.className = name;
      (parent ? row.querySelector(`.${parent}`) : row).append(part);
    }
    row.querySelector(".digit").textContent = network.inputs.name(k);
    for (let c = 0; c < network.samples; c++) {
      const dot = document.createElement("span");
      dot.className = "dot";
      row.querySelector(".track").append(dot);
    }
    classes.append(row);
  }
}

async function start() {
  const file = new URLSearchParams(location.search).get("network") ?? "digits.safetensors";
  try {
    const response = await fetch(new URL(file, location.href));
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const buffer = await response.arrayBuffer();
    await checkDigest(buffer);
    const read = readPacked(buffer);
    const { about, samples, inputs } = read;
    if (inputs === null) throw new Error("it does not say what its inputs are; pack it again with bb.pack(..., inputs=...)");
    if (inputs.colour !== "grey" || inputs.height !== 28 || inputs.width !== 28) {
      throw new Error("its inputs are not grey images of 28 by 28 pixels");
    }
    if (!Number.isFinite(Number.parseFloat(about.doubt))) throw new Error('its "about" has no number "doubt"');
    if (read.outputs(new Float32Array(784))[0].length !== 10) throw new Error("it does not give ten classes");
    network = read;
    find("legend").textContent = `Bars show the mean of ${samples} networks; dots show each network.`;
    find("rule").textContent =
      `The uncertainty is measured by the entropy of the mean probabilities. Above ${Number(about.doubt).toFixed(2)} ` +
      `nats the answer is “I don’t know”. ${about.rule ?? ""}`;
    find("network").textContent =
      `The file holds ${samples} networks${about.network ? ` (${about.network})` : ""} at one bit per weight, in ` +
      `${Math.round(buffer.byteLength / 1000)} kB. ${about.figures ?? ""}`;
    find("doubt").querySelector(".limit").style.left = `${(100 * Number(about.doubt)) / MOST}%`;
    makeRows();
    clear();
  } catch (error) {
    find("problem").textContent = `${file} cannot be used: ${error.message}`;
    find("problem").hidden = false;
    find("answer").dataset.state = "error";
    find("answer").textContent = "No network";
    find("reason").textContent = "";
  }
}

start();
