"use strict";

// Requests `/up` periodically, and shows the answer.

const EVERY_MS = 2_000;
const PATIENCE_MS = 5_000;

const source = document.querySelector("#source pre");
let answeredAt = new Date();
let shown = "";

const MOODS = { up: "good", draining: "fair", handing_over: "fair" };

/** Show an answer of the service. */
function show(health) {
  const { tree } = health;
  if (tree) restarts.notice(tree);
  const about = [
    health.version && `version ${health.version}`,
    health.uptime_seconds != null && `up for ${inTime(health.uptime_seconds)}`,
  ];
  document.querySelector("#about").textContent = about.filter(Boolean).join(" · ");
  fill("#traffic .tiles", trafficTiles(health.recent));
  fill("#tree > div", tree ? [html("ul", { class: "tree" }, drawnTree(tree))] : []);
  fill("#storage .tiles", storageTiles(health));
  source.textContent = JSON.stringify(health, null, 2);
  document.body.removeAttribute("data-stale");
  say(health.status.replace("_", " "), noticeOf(health), MOODS[health.status] ?? "bad");
  answeredAt = new Date();
  tellFreshness();
}

/** Show that there was no answer, and leave the last one on the page, clearly as such. */
function showSilence(why) {
  document.body.setAttribute("data-stale", "");
  const when = answeredAt.toLocaleTimeString("en-GB");
  say("unreachable", `The service cannot be reached since ${when} (${why}). Below is what it said then.`, "bad");
}

/** State the status and the reason; only news, so that they are read aloud once. */
function say(status, notice, mood) {
  const pill = document.querySelector("#status");
  pill.dataset.mood = mood;
  pill.hidden = false;
  if (shown === status + notice) return;
  shown = status + notice;
  pill.textContent = status;
  document.querySelector("#notice").textContent = notice;
  document.title = `${status} · Cache Actors`;
}

function tellFreshness() {
  const every = inTime(EVERY_MS / 1000);
  document.querySelector("#freshness").textContent =
    `As of ${answeredAt.toLocaleTimeString("en-GB")}; asked again every ${every}.`;
}

/** One question. 503 is an answer too, if it comes from the service and not from a proxy. */
async function ask() {
  let response;
  try {
    response = await fetch(location.pathname, {
      headers: { Accept: "application/json" },
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    const health = await response.json();
    if (!health.status) throw new TypeError(health.message ?? "an answer of something else");
    show(health);
  } catch (error) {
    const late = error.name === "TimeoutError";
    showSilence(response && !late ? `status ${response.status}` : late ? "no answer in time" : "no connection");
  }
}

async function keepAsking() {
  await ask();
  setTimeout(keepAsking, EVERY_MS);
}

document.querySelector("#source").open = false;
document.querySelector("#pictures").hidden = false;
show(JSON.parse(source.textContent));
setTimeout(keepAsking, EVERY_MS);
