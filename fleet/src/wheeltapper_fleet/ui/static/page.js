// Keeps the page live: server-sent events tell what changed, then the section is fetched, rendered and escaped by the
// server. There is at most one request per section at a time, and at least PAUSE_MS between two.
"use strict";
(() => {
  const PAUSE_MS = 900;
  const sections = { device: ["devices", "totals"], campaign: ["campaigns", "totals"], alert: ["alerts", "totals"] };
  const live = document.getElementById("live");
  const wanted = new Set();
  let timer = null;
  let stale = false;

  const show = (state, text) => {
    live.dataset.state = state;
    live.textContent = text;
  };

  const refresh = async () => {
    const names = [...wanted];
    wanted.clear();
    await Promise.all(names.map(async (name) => {
      const answer = await fetch("/fragments/" + name, { credentials: "same-origin" });
      if (answer.status === 401) { window.location.reload(); return; }
      if (!answer.ok) throw new Error("the server answered " + answer.status);
      document.getElementById(name).innerHTML = await answer.text();
    }));
    document.body.dataset.refreshed = String(Number(document.body.dataset.refreshed || 0) + 1);
  };

  const schedule = () => {
    if (timer !== null) return;
    timer = window.setTimeout(async () => {
      try { await refresh(); } catch (error) { console.warn(error); }
      timer = null;
      if (wanted.size) schedule();
    }, PAUSE_MS);
  };

  const changed = (kind) => {
    sections[kind].forEach((name) => wanted.add(name));
    schedule();
  };

  const events = new EventSource("/api/v1/events");
  events.addEventListener("open", () => {
    show("live", "live");
    if (stale) Object.keys(sections).forEach(changed);
    stale = false;
  });
  events.addEventListener("error", () => {
    stale = true;
    show("waiting", "reconnecting");
    if (events.readyState === EventSource.CLOSED) window.setTimeout(() => window.location.reload(), 5000);
  });
  Object.keys(sections).forEach((kind) => events.addEventListener(kind, () => changed(kind)));
})();
