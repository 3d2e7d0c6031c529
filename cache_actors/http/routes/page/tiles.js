"use strict";

// The figures around the tree: traffic and storage.

/** Plots of the last minutes; none if the service does not tell. */
function trafficTiles(recent) {
  if (!recent) return [];
  const one = (values) => [{ values: values ?? [] }];
  const perSecond = (number) => (number == null ? UNKNOWN : `${inFigures(number)}/s`);
  const milliseconds = (number) => (number == null ? UNKNOWN : `${inFigures(number)} ms`);
  return [
    { title: "Requests", lines: one(recent.requests_per_second), words: perSecond },
    { title: "Hits", lines: one(recent.hit_rate), words: inPercent, most: 1 },
    {
      title: "Latency",
      lines: [
        { name: "p50", values: recent.latency_ms_p50 ?? [] },
        { name: "p95", values: recent.latency_ms_p95 ?? [] },
      ],
      words: milliseconds,
    },
    { title: "Errors", lines: one(recent.errors_per_second), words: perSecond },
  ].map((plot) => plotted({ ...plot, stepSeconds: recent.step_seconds }));
}

/** How writing goes, what room there is, what the last eviction did, and how the bucket is, as far as it is told. */
function storageTiles(health) {
  const { storage } = health;
  return [
    ...(storage ? roomTiles(storage) : []),
    ...evictionTiles(health.eviction),
    ...bucketTiles(health.shared),
  ];
}

function bucketTiles(shared) {
  if (!shared) return [];
  const since = shared.seconds == null ? null : `for ${inTime(shared.seconds)}`;
  const fails = !["ok", "starting"].includes(shared.state);
  const left = shared.backlog_files ?? 0;
  return [
    tile("Bucket", shared.state, shared.reason ?? since, fails ? "bad" : "good"),
    tile("Not in the bucket", inWords(left, "file", "files"), [
      left ? inBytes(shared.backlog_bytes) : null,
      left ? `the oldest for ${inTime(shared.oldest_seconds)}` : null,
      shared.dropped ? `${inFigures(shared.dropped)} evicted before` : null,
    ].filter(Boolean).join(", ")),
  ];
}

function roomTiles(storage) {
  const since = storage.seconds == null ? null : `for ${inTime(storage.seconds)}`;
  const good = storage.state === "ok";
  return [
    tile("Writing", storage.state, storage.reason ?? since, good ? "good" : "bad"),
    tile("Free room", inBytes(storage.free_bytes)),
    ...(storage.free_inodes == null ? [] : [tile("Free inodes", inFigures(storage.free_inodes))]),
  ];
}

function evictionTiles(eviction) {
  if (!eviction) return [];
  const pass = eviction.last_pass;
  const used = inPercent(eviction.used_percent / 100);
  return [
    tile("Used", used, html("meter", {
      min: 0, max: 100, value: eviction.used_percent ?? 0, "aria-label": `${used} used`,
    })),
    pass
      ? tile("Last eviction", `${inTime(pass.ended_seconds_ago)} ago`, [
          inWords(pass.artifacts, "artifact", "artifacts"),
          inWords(pass.entries, "entry", "entries"),
          inBytes(pass.bytes),
          pass.youngest_evicted_seconds == null
            ? null
            : `the youngest unused for ${inTime(pass.youngest_evicted_seconds)}`,
        ].filter(Boolean).join(", "))
      : tile("Last eviction", "none yet"),
  ];
}

function tile(title, value, more = null, mood = "") {
  return html("div", { class: "tile", "data-mood": mood },
    html("p", { class: "what" }, title),
    html("p", { class: "now" }, value),
    more ? html("p", { class: "more" }, more) : null);
}
