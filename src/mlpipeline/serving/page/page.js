// The page to try a model: a picture becomes an image, the model is asked by V2, its answer is shown.

import {prepare} from "./preparation.js";

const SECONDS = 30; // for an answer
const MOST_PIXELS = 1 << 24; // in a canvas, on some phones
const SHOWN = 10; // classes
const PEN = 20;

const element = id => document.getElementById(id);

let about; // what about.json says
let latest = 0; // number of the latest question: an answer to an earlier one comes too late
let asked; // what the answer that is shown is of, for feedback

// --- what the model is -------------------------------------------------------------------------

async function load() {
  about = await answerOf(fetch("page/about.json", {signal: AbortSignal.timeout(1000 * SECONDS)}));
  document.title = `Try ${about.name}`;
  element("name").textContent = about.name;
  const [height, width, channels = 1] = about.shape;
  const kind = about.preparation ? (channels === 3 ? "colour" : "grey") : `${channels} channels`;
  element("about").textContent =
    `Version ${about.version}: ${about.classes.length} classes; it takes ${width} × ${height} pixels, ${kind}.`;
  if (about.preparation) showExamples();
  else say("The model takes images of a kind that no file has: ask it by its API.", "failed");
}

function showExamples() {
  const {labels, images} = about.examples ?? {labels: [], images: ""};
  const pixels = Uint8ClampedArray.from(atob(images), letter => letter.charCodeAt(0));
  const size = about.shape.reduce((product, side) => product * side, 1);
  element("examples").hidden = !labels.length;
  element("thumbnails").replaceChildren(...labels.map((label, place) => {
    const image = pixels.subarray(place * size, (place + 1) * size);
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    const name = document.createElement("span");
    button.type = "button";
    button.ariaPressed = "false";
    name.textContent = about.classes[label];
    draw(canvas, image);
    canvas.ariaHidden = "true";
    button.append(canvas, name);
    button.addEventListener("click", () => ask({pixels: image, notes: [], button}));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

/** Show which example is asked for, if one is. */
function mark(button) {
  for (const each of document.querySelectorAll(".examples button")) {
    each.ariaPressed = String(each === button);
  }
}

// --- a picture ---------------------------------------------------------------------------------

async function takeFile(file) {
  if (!about?.preparation) return;
  say("Reading the image …", "waiting");
  mark();
  const number = ++latest;
  try {
    const picture = await decode(file);
    if (number === latest) await ask(prepare(picture, about.preparation));
  } catch (error) {
    if (number === latest) say(`The browser cannot read ${file.name || "it"} as an image.`, "failed");
  }
}

/** Have the browser decode a file: upright, as its values are, without the profile of its colours. */
async function decode(file) {
  let bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"});
  const scale = Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height));
  if (scale < 1) {
    const resizeWidth = Math.max(1, Math.floor(bitmap.width * scale));
    const resizeHeight = Math.max(1, Math.floor(bitmap.height * scale));
    bitmap = await createImageBitmap(bitmap, {resizeWidth, resizeHeight, resizeQuality: "high"});
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function draw(canvas, pixels) {
  const [height, width, channels = 1] = about.shape;
  const rgba = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let channel = 0; channel < 3; channel++) {
      rgba.data[4 * i + channel] = pixels[i * channels + (channel % channels)];
    }
    rgba.data[4 * i + 3] = 255;
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(rgba, 0, 0);
}

// --- the question and the answer ---------------------------------------------------------------

async function ask({pixels, asInTheFile, notes, button}) {
  const number = ++latest;
  say("Asking the model …", "waiting");
  mark(button);
  const input = {name: "images", datatype: "UINT8", shape: [1, ...about.shape], data: [...pixels]};
  try {
    const response = await fetch(`v2/models/${encodeURIComponent(about.name)}/infer`, {
      method: "POST",
      headers: {"content-type": "application/json"},
      body: JSON.stringify({inputs: [input], outputs: [{name: "probabilities"}]}),
      signal: AbortSignal.timeout(1000 * SECONDS),
    });
    const answer = await answerOf(response);
    if (answer.model_version !== about.version) await load(); // another one is served by now
    if (number !== latest) return;
    asked = {pixels, asInTheFile};
    show(answer.outputs[0].data, notes);
    element("served-by").textContent =
      `Answered by ${response.headers.get("x-served-by")}, version ${answer.model_version}.`;
  } catch (error) {
    if (number === latest) say(`There is no answer. ${error.message}`, "failed");
  }
}

/** Return what a response says as JSON, or throw what it says is wrong. */
async function answerOf(request) {
  const response = await request;
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error ?? `The server says ${response.status}.`);
  return content;
}

function show(probabilities, notes) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const shown = order.slice(0, SHOWN);
  say(`${about.classes[order[0]]}: ${percent(probabilities[order[0]])}`);
  draw(element("seen"), asked.pixels);
  const [height, width] = about.shape;
  element("seen").ariaLabel = `The image as the model takes it, ${width} by ${height} pixels`;
  element("seen-text").textContent = `What the model sees: ${width} × ${height} pixels.`;
  element("notes").textContent = notes.join(" ");
  element("caption").textContent = shown.length < order.length
    ? `Probabilities, the first ${shown.length} of ${order.length} classes` : "Probabilities";
  element("probabilities").replaceChildren(...shown.map(label => row(label, probabilities[label])));
  offerFeedback(order);
  element("answer").hidden = false;
}

function row(label, probability) {
  const line = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = about.classes[label];
  const bar = document.createElement("td");
  bar.className = "bar";
  bar.ariaHidden = "true";
  bar.append(document.createElement("div"));
  bar.firstChild.style.width = `${100 * probability}%`;
  const number = document.createElement("td");
  number.className = "number";
  number.textContent = percent(probability);
  line.append(name, bar, number);
  return line;
}

function percent(share) {
  return `${(100 * share).toFixed(2)}%`;
}

function say(text, how = "") {
  element("status").className = `verdict ${how}`;
  element("status").textContent = text;
  if (how === "failed") element("answer").hidden = true;
}

// --- feedback ----------------------------------------------------------------------------------

function offerFeedback(order) {
  // Labels of the test split are never corrected. And only a secure context has digests.
  const isWanted = Boolean(about.feedback && asked.asInTheFile);
  element("feedback").hidden = !(isWanted && isSecureContext);
  element("no-feedback").hidden = !isWanted || isSecureContext;
  element("thanks").textContent = "";
  element("feedback").querySelector("button").disabled = false;
  element("right").replaceChildren(...order.slice(1).map(label => {
    const option = document.createElement("option");
    option.textContent = option.value = about.classes[label];
    return option;
  }));
}

async function sendFeedback(event) {
  event.preventDefault();
  const button = element("feedback").querySelector("button");
  const question = asked;
  const label = element("right").value;
  button.disabled = true;
  element("thanks").textContent = "Sending …";
  try {
    const images = new Set([await sha256(asked.asInTheFile), await sha256(asked.pixels)]);
    if (question.label !== label) { // the same again, after an answer that was lost, is done once
      Object.assign(question, {label, id: crypto.randomUUID(), time: new Date().toISOString()});
    }
    const content = {
      kind: "feedback",
      id: question.id,
      model: about.name,
      time: question.time,
      corrections: [...images].map(image => ({image, label})),
    };
    await answerOf(fetch(about.feedback, {
      method: "POST",
      headers: {"content-type": "application/json"},
      body: JSON.stringify(content),
      signal: AbortSignal.timeout(1000 * SECONDS),
    }));
    if (question === asked) element("thanks").textContent = `Sent as feedback-${content.id}. Thank you.`;
  } catch (error) {
    if (question !== asked) return;
    button.disabled = false;
    element("thanks").textContent = `It was not taken. ${error.message}`;
  }
}

async function sha256(pixels) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", pixels));
  return [...digest].map(byte => byte.toString(16).padStart(2, "0")).join("");
}

// --- the ways in -------------------------------------------------------------------------------

function takeDrawings() {
  const canvas = element("drawing");
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  const clear = () => {
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  };
  const place = event => [
    event.offsetX * canvas.width / canvas.clientWidth,
    event.offsetY * canvas.height / canvas.clientHeight,
  ];
  clear();
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = PEN;
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    pen.beginPath();
    pen.moveTo(...place(event));
    pen.lineTo(...place(event));
    pen.stroke();
  });
  canvas.addEventListener("pointermove", event => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    pen.lineTo(...place(event));
    pen.stroke();
  });
  canvas.addEventListener("pointerup", () => {
    if (!about?.preparation) return;
    ask(prepare(pen.getImageData(0, 0, canvas.width, canvas.height), about.preparation));
  });
  element("clear").addEventListener("click", clear);
}

element("file").addEventListener("change", event => {
  if (event.target.files.length) takeFile(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
addEventListener("paste", event => {
  const file = [...event.clipboardData.files].find(each => each.type.startsWith("image/"));
  if (file) takeFile(file);
});
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, event => {
    event.preventDefault(); // or the browser would open the file in place of this page
    document.body.classList.add("dropping");
  });
}
addEventListener("dragleave", event => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) takeFile(event.dataTransfer.files[0]);
});
element("feedback").addEventListener("submit", sendFeedback);
takeDrawings();
load().catch(error => say(`The model says nothing of itself. ${error.message}`, "failed"));
