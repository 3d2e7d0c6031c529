"use strict";

// The most important state or trouble for an operator, in a sentence.

/** The sentence for an answer of the service. */
function noticeOf(health) {
  if (health.status === "draining") {
    return "The service is stopping. It finishes what it has, and takes nothing new.";
  }
  if (health.status === "handing_over") {
    return "Another instance has taken over. This one finishes what it has.";
  }
  const troubles = health.tree ? troublesIn(health.tree) : [];
  if (troubles.length > 0) return sentence(troubles);
  if (health.status !== "up") return `The service says that it is ${health.status}.`;
  if (health.storage && health.storage.state !== "ok") {
    return sentence([`Writing is ${health.storage.state}`, health.storage.reason].filter(Boolean));
  }
  const restarted = [...new Set(restarts.recent())];
  if (restarted.length > 0) return `Restarted just now: ${restarted.join(", ")}.`;
  return "Everything runs.";
}

/** What does not run in a tree; only the lowest parts, which are the cause. */
function troublesIn(tree) {
  return [...partsOf(tree)]
    .filter(({ node }) => node.stuck || node.state !== "running")
    .filter(({ path }, _, all) => !all.some((other) => other.path.startsWith(`${path}/`)))
    .map(({ node }) => `${node.name} is ${node.stuck ? "stuck" : node.state}`);
}

function sentence(parts) {
  return `${parts.join("; ")}.`;
}
