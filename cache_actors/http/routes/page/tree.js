"use strict";

// The supervision tree: a box for each supervisor, with its children inside, in start order.

/** The part of the tree from `node` down, as an item of a list. */
function drawnTree(node, path = "", depth = 0) {
  const own = `${path}/${node.name}`;
  const children = node.children ?? [];
  return html("li", {
    class: children.length ? "supervisor" : "actor",
    "data-name": node.name,
    "data-mood": moodOf(node),
    "data-news": restarts.isRecent(own) ? "restarted" : "",
  },
    html("div", { class: "head" },
      html(`h${Math.min(6, depth + 3)}`, {}, node.name),
      html("span", { class: "state" }, node.stuck ? "stuck" : node.state),
      facts(node)),
    children.length
      ? html("ul", {}, ...children.map((child) => drawnTree(child, own, depth + 1)))
      : null);
}

/** What is known of one child beside its state. */
function facts(node) {
  const known = [
    ["restarts", node.restarts > 0 || !node.children ? inFigures(node.restarts) : null],
    ["mailbox", node.mailbox_depth == null ? null : inFigures(node.mailbox_depth)],
    ["waiting", node.oldest_message_seconds ? inTime(node.oldest_message_seconds) : null],
    ["up", node.uptime_seconds == null ? null : inTime(node.uptime_seconds)],
    ["last error", node.last_error],
  ].filter(([, value]) => value != null);
  return known.length === 0 ? null : html("dl", {}, ...known.map(([name, value]) =>
    html("div", { "data-fact": name }, html("dt", {}, name), " ", html("dd", {}, value))));
}

function moodOf({ state, stuck }) {
  if (stuck) return "bad";
  return { running: "good", stopped: "bad" }[state] ?? "fair";
}

/** All parts of a tree, with where they are. */
function* partsOf(node, path = "") {
  const own = `${path}/${node.name}`;
  yield { path: own, node };
  for (const child of node.children ?? []) yield* partsOf(child, own);
}

/** Remembers how often each part has been restarted, and so which has been just now. */
const restarts = {
  RECENT_MS: 20_000,
  known: new Map(),

  /** Take note of the tree of an answer. */
  notice(tree) {
    for (const { path, node } of partsOf(tree)) {
      const before = this.known.get(path);
      const more = before !== undefined && node.restarts > before.count;
      const since = more ? performance.now() : before?.since ?? -Infinity;
      this.known.set(path, { name: node.name, count: node.restarts, since });
    }
  },

  isRecent(path) {
    return performance.now() - (this.known.get(path)?.since ?? -Infinity) < this.RECENT_MS;
  },

  /** The names of those that have been restarted while somebody was looking, not long ago. */
  recent() {
    return [...this.known].filter(([path]) => this.isRecent(path)).map(([, { name }]) => name);
  },
};
