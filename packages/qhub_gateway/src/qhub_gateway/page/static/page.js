// Keeps the page of clusters live. Without it the page is whole: "Refresh" and "Stop" are a link and forms.
"use strict";
(() => {
  const rows = document.getElementById("rows");
  const pause = document.getElementById("pause");
  const stale = document.getElementById("stale");
  const told = document.getElementById("told");
  const interval = Number(document.body.dataset.interval) * 1000;
  let states = read();
  let timer;

  function read() {
    const found = new Map();
    for (const section of rows.querySelectorAll("[data-cluster]")) {
      found.set(section.dataset.cluster, section.querySelector(".state").textContent);
    }
    return found;
  }

  // Where the keyboard was, so that it stays there in what replaces it.
  function place() {
    const section = document.activeElement && document.activeElement.closest("[data-cluster]");
    const what = document.activeElement && document.activeElement.localName;
    return section && { name: section.dataset.cluster, what };
  }

  async function refresh() {
    try {
      // Without the token the hub does not let a script read as the person whose browser it runs in.
      const headers = { "X-XSRFToken": document.body.dataset.xsrf };
      const answer = await fetch(document.body.dataset.rows, { credentials: "same-origin", redirect: "error", headers });
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      const at = place();
      rows.innerHTML = text;
      stale.hidden = true;
      if (at) {
        const section = [...rows.querySelectorAll("[data-cluster]")].find((each) => each.dataset.cluster === at.name);
        const target = section && section.querySelector(`.actions ${at.what}`);
        (target || document.getElementById("again")).focus({ preventScroll: true });
      }
      const now = read();
      // Only what changed is said, and not the figures of each moment.
      const said = [...now].filter(([name, words]) => states.has(name) && states.get(name) !== words);
      if (said.length) told.textContent = said.map(([name, words]) => `${name.slice(0, 8)}: ${words}`).join(" ");
      states = now;
    } catch {
      stale.hidden = false;
    }
  }

  function schedule() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      if (!document.hidden && pause.getAttribute("aria-pressed") === "false") await refresh();
      schedule();
    }, interval);
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") === "true";
    pause.setAttribute("aria-pressed", String(!paused));
    if (paused) refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && pause.getAttribute("aria-pressed") === "false") refresh();
  });
  schedule();
})();
