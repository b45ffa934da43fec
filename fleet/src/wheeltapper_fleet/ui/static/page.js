// Keeps a page live: server-sent events tell what changed on this screen. Cells of the list are set as text; other
// sections are fetched, rendered and escaped by the server, at most one request per section at a time, and at least
// PAUSE_MS between two. Buttons send one action with the session's CSRF token.
"use strict";
(() => {
  const PAUSE_MS = 900;
  const live = document.getElementById("live");
  const devices = document.getElementById("devices");
  const alone = document.getElementById("device") || document.getElementById("campaign");
  const isList = devices !== null && devices.dataset.mode === "rows";
  const query = new URLSearchParams(window.location.search);
  const wanted = new Set();
  let timer = null;
  let stale = false;

  const show = (state, text) => {
    live.dataset.state = state;
    live.textContent = text;
  };

  const address = (name) => {
    const params = new URLSearchParams(name === "devices" ? query : "");
    if (alone !== null && name === alone.id) new URLSearchParams(alone.dataset.params).forEach((v, k) => params.set(k, v));
    return "/fragments/" + name + (params.size ? "?" + params : "");
  };

  const refresh = async () => {
    const names = [...wanted];
    wanted.clear();
    await Promise.all(names.map(async (name) => {
      const place = document.getElementById(name);
      if (place === null) return;
      const answer = await fetch(address(name), { credentials: "same-origin" });
      if (answer.status === 401) { window.location.reload(); return; }
      if (!answer.ok) throw new Error("the server answered " + answer.status);
      place.innerHTML = await answer.text();
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

  const want = (...names) => {
    names.forEach((name) => wanted.add(name));
    schedule();
  };

  const clock = (seconds) => seconds === null ? "–" : new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ");

  const setRow = (row, device) => {
    const texts = {
      presence: device.presence,
      site: device.site || "–",
      runs: device.runs || "no model",
      score: device.score === null ? "–" : device.score.toFixed(2),
      severity: device.severity || (device.no_score_since !== null ? "no score" : "–"),
      update: device.execution_state === null ? "–" : device.execution_state.toLowerCase().replaceAll("_", " "),
      seen: clock(device.last_seen_at),
    };
    row.dataset.severity = device.severity || "none";
    row.dataset.online = device.online ? "yes" : "no";
    row.querySelectorAll("[data-field]").forEach((cell) => { cell.textContent = texts[cell.dataset.field]; });
  };

  const shownIds = () => [...devices.querySelectorAll("[data-id]")].map((row) => row.dataset.id);

  const handlers = {
    reset: (value) => {
      if (devices === null) return;
      const same = isList && value.devices.join() === shownIds().join();
      if (!same) want("devices");
    },
    device: (value) => {
      if (alone !== null) { want(alone.id); return; }
      if (!isList) { want("devices"); return; }
      const row = devices.querySelector(`[data-id="${CSS.escape(value.id)}"]`);
      if (row !== null) setRow(row, value);
      document.body.dataset.updated = String(Number(document.body.dataset.updated || 0) + 1);
    },
    campaign: () => want(...(alone !== null ? [alone.id] : ["campaigns"])),
    alert: () => want("alerts"),
    totals: () => want("totals"),
  };

  if (live !== null) {
    const events = new EventSource("/api/v1/events?" + live.dataset.view);
    events.addEventListener("open", () => {
      show("live", "live");
      if (stale) want("totals", "devices", "campaigns", "alerts", ...(alone !== null ? [alone.id] : []));
      stale = false;
    });
    events.addEventListener("error", () => {
      stale = true;
      show("waiting", "reconnecting");
      if (events.readyState === EventSource.CLOSED) window.setTimeout(() => window.location.reload(), 5000);
    });
    Object.entries(handlers).forEach(([kind, handle]) => {
      events.addEventListener(kind, (event) => handle(JSON.parse(event.data)));
    });
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-action]");
    if (button === null) return;
    const { action, campaign, version } = button.dataset;
    if (action === "abort" && !window.confirm("End this campaign for good?")) return;
    button.disabled = true;
    const answer = await fetch(`/api/v1/campaigns/${encodeURIComponent(campaign)}/${action}`, {
      method: "POST",
      credentials: "same-origin",
      headers: {
        "Content-Type": "application/json",
        "X-CSRF-Token": document.querySelector("meta[name=csrf]").content,
      },
      body: JSON.stringify({ expected_version: Number(version) }),
    });
    const value = answer.ok ? null : await answer.json();
    await refreshAlone();
    document.getElementById("acted").textContent = value === null ? "" : value.detail || value.message;
  });

  const refreshAlone = async () => {
    wanted.add(alone.id);
    await refresh();
  };
})();
