// A picture of any size and colour becomes an image as the model takes it.
//
// The same as mlpipeline.image_files does with Pillow, step by step: see decoding.py and
// preparation.py there for the reasons. tests/integration/test_page_in_browser.py compares the two.
// What differs: the browser decodes, so that a JPEG may be a few grey levels off; and of very strong
// contrasts, some pixels are, because Pillow sometimes scales down first and then across.

const BLANK = 3; // how much the pixels of a blank image differ at most, of 255
const BRIGHT = 204;
const LOBES = 3; // of Lanczos's filter

/**
 * A plane of pixels with its channels interleaved.
 * @typedef {{width: number, height: number, channels: number, data: Uint8ClampedArray}} Picture
 */

/**
 * Make one image of a picture.
 * @param {ImageData} picture What a canvas gives: RGBA.
 * @param {{size: number[], channels: number, fit: string, dark_ground: boolean}} kind
 *   What the model takes: ImageKind of mlpipeline.image_files.
 * @returns {{pixels: Uint8ClampedArray, asInTheFile: Uint8ClampedArray, notes: string[]}}
 *   The image; the same before the ground was changed, by which a correction names it; and what
 *   somebody should know of it.
 */
export function prepare(picture, kind) {
  const {image, onBlack} = opaque(picture);
  const notes = [];
  const fitted = fit(image, kind);
  const pixels = fitted.data;
  if (greatestRange(fitted) <= BLANK) notes.push("The image is blank: it is all of one colour.");
  if (!kind.dark_ground || hasDarkGround(fitted)) return {pixels, asInTheFile: pixels, notes};
  if (onBlack) {
    const dark = fit(onBlack, kind);
    if (hasDarkGround(dark)) {
      notes.push("The background is transparent, the data set's is dark: it is made black.");
      return {pixels: dark.data, asInTheFile: pixels, notes};
    }
  }
  notes.push("The background is bright, the data set's is dark: the image is inverted.");
  return {pixels: pixels.map(value => 255 - value), asInTheFile: pixels, notes};
}

/** Lay a picture on white, or on black if it would hardly be seen there: decoding._opaque. */
function opaque({width, height, data}) {
  let weight = 0, sum = 0;
  for (let i = 0; i < data.length; i += 4) {
    weight += data[i + 3];
    sum += data[i + 3] * luma(data[i], data[i + 1], data[i + 2]);
  }
  const brightness = weight ? sum / weight : 0;
  if (weight === width * height * 255) return {image: laidOn(255, width, height, data)};
  if (brightness > BRIGHT) return {image: laidOn(0, width, height, data)};
  const outline = outlineOf(width, height, data);
  const isBright = brightness > 127.5 && outline !== null && outline <= brightness;
  return {
    image: laidOn(255, width, height, data),
    onBlack: isBright ? laidOn(0, width, height, data) : undefined,
  };
}

function laidOn(ground, width, height, data) {
  const laid = new Uint8ClampedArray(width * height * 3);
  for (let i = 0, j = 0; i < data.length; i += 4) {
    const opacity = data[i + 3];
    for (let channel = 0; channel < 3; channel++) {
      laid[j++] = Math.round((data[i + channel] * opacity + ground * (255 - opacity)) / 255);
    }
  }
  return {width, height, channels: 3, data: laid};
}

/** The mean brightness of the rim of what is not transparent; null where there is none. */
function outlineOf(width, height, data) {
  let weight = 0, sum = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = 4 * (y * width + x);
      let least = 255;
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          least = Math.min(least, data[4 * (v * width + u) + 3]);
        }
      }
      const rim = data[i + 3] - least;
      weight += rim;
      sum += rim * luma(data[i], data[i + 1], data[i + 2]);
    }
  }
  return weight ? sum / weight : null;
}

/** ITU-R 601's luma with Pillow's rounding. */
function luma(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

/** Bring a picture to the size and the channels of a kind: Preparation._fitted. */
function fit(picture, kind) {
  const [height, width] = kind.size;
  const coloured = kind.channels === 1 ? grey(picture) : picture;
  if (kind.fit === "pad") return padded(coloured, width, height);
  const whole = [0, 0, picture.width, picture.height];
  return resize(coloured, width, height, kind.fit === "crop" ? middle(picture, width / height) : whole);
}

function grey({width, height, data}) {
  const pixels = new Uint8ClampedArray(width * height);
  for (let i = 0, j = 0; i < data.length; i += 3) {
    pixels[j++] = luma(data[i], data[i + 1], data[i + 2]);
  }
  return {width, height, channels: 1, data: pixels};
}

/** The largest box of some proportions in the middle of a picture: ImageOps.fit. */
function middle({width, height}, ratio) {
  const boxWidth = width / height >= ratio ? ratio * height : width;
  const boxHeight = width / height >= ratio ? height : width / ratio;
  const left = (width - boxWidth) / 2, top = (height - boxHeight) / 2;
  return [left, top, left + boxWidth, top + boxHeight];
}

/** Scale a picture so that all of it fits, on the colour that its border has most: _padded. */
function padded(picture, width, height) {
  const scale = Math.min(width / picture.width, height / picture.height);
  const innerWidth = Math.max(1, roundHalfToEven(picture.width * scale));
  const innerHeight = Math.max(1, roundHalfToEven(picture.height * scale));
  const whole = [0, 0, picture.width, picture.height];
  const inner = resize(picture, innerWidth, innerHeight, whole);
  const {channels} = picture;
  const border = borderOf(inner);
  const data = new Uint8ClampedArray(width * height * channels);
  for (let channel = 0; channel < channels; channel++) {
    const colour = Math.floor(median(border.filter((_, i) => i % channels === channel)));
    for (let i = channel; i < data.length; i += channels) data[i] = colour;
  }
  const left = (width - innerWidth) >> 1, top = (height - innerHeight) >> 1;
  for (let y = 0; y < innerHeight; y++) {
    const row = inner.data.subarray(y * innerWidth * channels, (y + 1) * innerWidth * channels);
    data.set(row, ((top + y) * width + left) * channels);
  }
  return {width, height, channels, data};
}

function roundHalfToEven(value) { // as Python rounds
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

function median(values) {
  const sorted = Float64Array.from(values).sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** The outermost pixels, the corners twice. */
function borderOf({width, height, channels, data}) {
  const border = [];
  const add = (x, y) => {
    for (let channel = 0; channel < channels; channel++) {
      border.push(data[(y * width + x) * channels + channel]);
    }
  };
  for (const y of [0, height - 1]) for (let x = 0; x < width; x++) add(x, y);
  for (const x of [0, width - 1]) for (let y = 0; y < height; y++) add(x, y);
  return border;
}

function hasDarkGround(picture) {
  const border = borderOf(picture);
  return border.reduce((sum, value) => sum + value, 0) / border.length <= 127;
}

function greatestRange({channels, data}) {
  let greatest = 0;
  for (let channel = 0; channel < channels; channel++) {
    let least = 255, most = 0;
    for (let i = channel; i < data.length; i += channels) {
      least = Math.min(least, data[i]);
      most = Math.max(most, data[i]);
    }
    greatest = Math.max(greatest, most - least);
  }
  return greatest;
}

/**
 * Scale a box of a picture by Lanczos's filter: across, then down, with 8 bits in between.
 * https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c
 */
function resize({width, height, channels, data}, newWidth, newHeight, [left, top, right, bottom]) {
  const across = new Uint8ClampedArray(newWidth * height * channels);
  weightsOf(left, right, width, newWidth).forEach(({first, weights}, x) => {
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0.5; // rounds: storing cuts off what is behind the point
        for (let i = 0, at = (y * width + first) * channels + channel; i < weights.length; i++) {
          sum += weights[i] * data[at];
          at += channels;
        }
        across[(y * newWidth + x) * channels + channel] = Math.floor(sum);
      }
    }
  });
  const down = new Uint8ClampedArray(newWidth * newHeight * channels);
  const stride = newWidth * channels;
  weightsOf(top, bottom, height, newHeight).forEach(({first, weights}, y) => {
    for (let x = 0; x < stride; x++) {
      let sum = 0.5;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * across[(first + i) * stride + x];
      down[y * stride + x] = Math.floor(sum);
    }
  });
  return {width: newWidth, height: newHeight, channels, data: down};
}

/** For each new pixel: the first old one that counts, and how much each of them does. */
function weightsOf(start, end, size, newSize) {
  const scale = (end - start) / newSize;
  const filterScale = Math.max(1, scale);
  const support = LOBES * filterScale;
  return Array.from({length: newSize}, (_, place) => {
    const centre = start + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(size, Math.trunc(centre + support + 0.5));
    const weights = Float64Array.from(
      {length: last - first}, (_, i) => lanczos((first + i - centre + 0.5) / filterScale),
    );
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return {first, weights: weights.map(weight => weight / sum)};
  });
}

function lanczos(x) {
  return x >= -LOBES && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}
