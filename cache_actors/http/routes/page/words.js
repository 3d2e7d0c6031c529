"use strict";

// Figures as text; an unknown one is a dash.

const UNKNOWN = "-";

/** A number with at most three digits that say something, or all digits of a whole number. */
function inFigures(number) {
  if (!Number.isFinite(number)) return UNKNOWN;
  const options = Math.abs(number) < 100 && !Number.isInteger(number)
    ? { maximumSignificantDigits: number < 10 ? 2 : 3 }
    : { maximumFractionDigits: 0 };
  return number.toLocaleString("en-GB", options);
}

/** A share of one, in percent. */
function inPercent(share) {
  return Number.isFinite(share) ? `${inFigures(Math.round(share * 1000) / 10)} %` : UNKNOWN;
}

/** Bytes, with the unit that suits them. */
function inBytes(bytes) {
  if (!Number.isFinite(bytes)) return UNKNOWN;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; bytes >= 1000 && unit < units.length - 1; unit += 1) bytes /= 1000;
  return `${inFigures(bytes)} ${units[unit]}`;
}

/** Seconds, in one unit or two: `40 ms`, `4 s`, `3 min 20 s`, `2 d 5 h`. */
function inTime(seconds) {
  if (!Number.isFinite(seconds)) return UNKNOWN;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = units.findIndex(([size]) => seconds >= size);
  const parts = [];
  for (const [size, name] of units.slice(first, first + 2)) {
    const whole = Math.floor(seconds / size);
    if (whole > 0) parts.push(`${whole} ${name}`);
    seconds -= whole * size;
  }
  return parts.join(" ");
}

/** One thing or several of it. */
function inWords(number, one, many) {
  return `${inFigures(number)} ${number === 1 ? one : many}`;
}
