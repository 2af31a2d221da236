// Keeps the options page live. The page is complete without it: this refreshes the figures in place, shows
// what the chosen options cost, and finds one profile among many.
(() => {
  "use strict";

  const root = document.getElementById("qhub");
  const setup = document.getElementById("qhub-setup");
  if (!root || !setup) return;
  const config = JSON.parse(setup.textContent);

  const SLOWEST_MS = 5 * 60 * 1000; // the longest pause of a page that gets no answer
  const ANSWER_MS = 10 * 1000; // an answer that takes longer counts as none
  const QUIET_MS = 30 * 1000; // at least this long between two things said to a screen reader

  const cards = new Map();
  for (const card of root.querySelectorAll(".qhub-card")) cards.set(card.dataset.slug, card);
  const pickOf = (card) => card.querySelector(".qhub-pick");
  const chosen = () => [...cards.values()].find((card) => pickOf(card).checked);
  const show = (element, visible) => {
    if (element && element.hidden === visible) element.hidden = !visible;
  };

  // --- clocks: the server writes times in its own zone, a person reads them in theirs

  const clock = (at) => {
    const days = (at - Date.now()) / 864e5;
    const sameDay = at.toDateString() === new Date().toDateString();
    const time = { hour: "2-digit", minute: "2-digit" };
    if (sameDay) return at.toLocaleTimeString([], time);
    if (days < 6) return at.toLocaleString([], { weekday: "short", ...time });
    return at.toLocaleString([], { day: "numeric", month: "short", ...time });
  };

  const localise = (element) => {
    const at = new Date(element.dateTime);
    if (!Number.isNaN(at.getTime())) element.textContent = clock(at);
  };

  // --- live figures

  const write = (element, words) => {
    if (!element) return;
    show(element, Boolean(words));
    if (element.textContent === words) return;
    element.textContent = words;
    element.classList.remove("qhub-changed");
    void element.offsetWidth; // restarts the animation
    element.classList.add("qhub-changed");
  };

  const update = (card, availability) => {
    const live = card.querySelector(".qhub-live");
    const part = (name) => live.querySelector(`[data-live="${name}"]`);
    const { start, words } = availability;
    const kind = availability.scale_up && start.kind === "unknown" ? "at" : start.kind;
    live.dataset.start = words.headline ? kind : "none";
    live.classList.toggle("qhub-old", availability.stale);
    show(part("start"), Boolean(words.headline));
    for (const name of ["headline", "source", "gpus", "nodes", "jobs", "stale"]) write(part(name), words[name]);
    show(part("about"), Boolean(start.at));
    show(part("explained"), Boolean(words.source));
    if (start.at) {
      const time = part("clock");
      time.dateTime = start.at;
      localise(time);
    }
  };

  const status = root.querySelector("[data-bar=status]");
  const say = (words) => {
    if (status) status.textContent = words;
  };

  const spoken = document.getElementById("qhub-spoken");
  let spokenWords = "";
  let spokenAt = 0;
  const speak = (words) => {
    if (words === spokenWords) return true;
    if (Date.now() - spokenAt < QUIET_MS) return false;
    spokenWords = words;
    spokenAt = Date.now();
    spoken.textContent = words;
    return true;
  };

  let heard = "";
  const speakOfChosen = () => {
    const card = chosen();
    if (!card) return;
    const live = card.querySelector(".qhub-live");
    // Only a change of kind is news; minutes that tick down are not.
    const now = `${card.dataset.slug} ${live.dataset.start} ${live.classList.contains("qhub-old")}`;
    const headline = live.querySelector("[data-live=headline]").textContent;
    if (heard && heard !== now && heard.startsWith(`${card.dataset.slug} `) && headline) {
      const name = card.querySelector(".qhub-name").textContent.trim();
      if (!speak(`${name}: ${headline}`)) return; // still news when it is quiet no more
    }
    heard = now;
  };

  const apply = (model) => {
    let same = model.profiles.length === cards.size;
    for (const profile of model.profiles) {
      const card = cards.get(profile.slug);
      if (!card || Boolean(profile.blocked) !== card.classList.contains("qhub-blocked")) same = false;
      if (card) update(card, profile.availability);
    }
    show(root.querySelector("[data-bar=reload]"), !same);
    speakOfChosen();
    filter();
  };

  // --- asking: one request at a time, none while nobody looks, fewer while there is no answer

  let timer = 0;
  let failures = 0;
  let paused = false;
  let ended = false;
  let answeredAt = Date.now();

  const later = () => {
    clearTimeout(timer);
    if (paused || ended || document.hidden) return;
    const pause = Math.min(config.interval_seconds * 1000 * 2 ** failures, SLOWEST_MS);
    timer = setTimeout(ask, pause * (0.9 + 0.2 * Math.random()));
  };

  const failed = (code) => {
    if (code === 401 || code === 403 || code === 404) {
      ended = true; // asking again does not help: logged out, or the hub has changed
      say("You are no longer logged in, or the hub has changed: reload the page.");
      speak("The figures are no longer updated. Reload the page.");
      return;
    }
    failures += 1;
    const minutes = Math.round((Date.now() - answeredAt) / 60000);
    const age = minutes < 1 ? "less than a minute" : `${minutes} min`;
    say(`The hub does not answer; figures are ${age} old.`);
    if (failures === 3) speak("The hub does not answer; the figures are getting old.");
  };

  const ask = async () => {
    clearTimeout(timer);
    const abort = new AbortController();
    const tooLong = setTimeout(() => abort.abort(), ANSWER_MS);
    const headers = { Accept: "application/json" };
    const token = window.jhdata && window.jhdata.xsrf_token;
    if (token) headers["X-XSRFToken"] = token;
    try {
      const answer = await fetch(config.api_url, {
        headers,
        cache: "no-store",
        credentials: "same-origin",
        signal: abort.signal,
      });
      if (answer.ok) {
        apply(await answer.json());
        failures = 0;
        answeredAt = Date.now();
        say(`Live, updated ${new Date().toLocaleTimeString()}`);
      } else {
        failed(answer.status);
      }
    } catch (problem) {
      failed(0);
    } finally {
      clearTimeout(tooLong);
      later();
    }
  };

  const pauseButton = root.querySelector("[data-bar=pause]");
  if (pauseButton) {
    pauseButton.addEventListener("click", () => {
      paused = !paused;
      pauseButton.textContent = paused ? "Resume updates" : "Pause updates";
      if (paused) {
        clearTimeout(timer);
        say(`Paused; figures of ${new Date(answeredAt).toLocaleTimeString()}`);
      } else {
        ask();
      }
    });
  }

  // --- what the chosen options cost

  const showFacts = (card) => {
    const facts = {};
    const items = card.querySelectorAll(".qhub-facts [data-fact]");
    for (const item of items) facts[item.dataset.fact] = item.dataset.base;
    for (const option of card.querySelectorAll(".qhub-option")) {
      const picked = option.querySelector("option:checked, input[type=radio]:checked");
      if (picked && picked.dataset.sets) Object.assign(facts, JSON.parse(picked.dataset.sets));
      const free = option.querySelector("input[type=text]");
      const other = !picked || picked.classList.contains("qhub-other");
      if (free && other && free.dataset.fact && free.value.trim() && free.validity.valid) {
        facts[free.dataset.fact] = free.dataset.words.replace("{}", () => free.value.trim());
      }
    }
    for (const item of items) {
      const words = facts[item.dataset.fact] || "";
      item.textContent = words;
      item.hidden = !words;
      if (item.dataset.fact === "gpu") {
        item.className = words === "no GPU" ? "qhub-none" : "qhub-has-gpu";
      }
    }
  };

  // Fields of profiles that are not chosen are neither checked nor sent.
  const enableChosen = () => {
    for (const card of cards.values()) {
      const options = card.querySelector(".qhub-options");
      if (options) options.disabled = !pickOf(card).checked;
    }
    const card = chosen();
    if (card) showFacts(card);
  };

  root.addEventListener("change", () => {
    enableChosen();
    speakOfChosen(); // what was just chosen is known; from now on changes of it are news
  });
  root.addEventListener("input", (event) => {
    const card = event.target.closest(".qhub-card");
    if (card) showFacts(card);
  });

  // --- one among many

  const bar = root.querySelector(".qhub-filter");
  function filter() {
    if (!bar || bar.hidden) return;
    const words = bar.querySelector("[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = (name) => bar.querySelector(`[data-filter=${name}]`).checked;
    let shown = 0;
    for (const card of cards.values()) {
      const text = card.querySelector("[data-search]").dataset.search;
      const fits =
        words.every((word) => text.includes(word)) &&
        (!wanted("gpu") || card.querySelector(".qhub-has-gpu") !== null) &&
        (!wanted("now") || card.querySelector(".qhub-live").dataset.start === "now") &&
        !(card.classList.contains("qhub-blocked") && wanted("now"));
      card.hidden = !fits && !pickOf(card).checked; // what would be started stays in sight
      if (fits) shown += 1;
    }
    bar.querySelector("[role=status]").textContent = `${shown} of ${cards.size}`;
  }
  if (bar) {
    bar.hidden = false;
    bar.addEventListener("input", filter);
    bar.addEventListener("keydown", (event) => {
      if (event.key === "Enter") event.preventDefault(); // finding is not starting
    });
    root.addEventListener("change", filter);
    filter();
  }

  for (const element of root.querySelectorAll("time")) localise(element);
  enableChosen();
  window.addEventListener("pageshow", enableChosen); // back button: the browser restores what was chosen
  if (config.live) {
    show(pauseButton, true);
    show(root.querySelector("[data-bar=static]"), false);
    say("Live");
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) clearTimeout(timer);
      else if (!paused && !ended) ask();
    });
    speakOfChosen();
    later();
  }
})();
