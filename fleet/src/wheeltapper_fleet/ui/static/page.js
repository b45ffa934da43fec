// Keeps a page live: server-sent events tell what changed on this screen. Cells of the list are set as text; other
// sections are fetched, rendered and escaped by the server, at most one request per section at a time, and at least
// PAUSE_MS between two. Buttons and forms send one request to the API with the session's CSRF token.
"use strict";
(() => {
  const PAUSE_MS = 900;
  const MORE_MS = 10000;
  const live = document.getElementById("live");
  const devices = document.getElementById("devices");
  const alone = ["device", "campaign", "case"].map((name) => document.getElementById(name)).find((each) => each !== null) || null;
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
    const params = new URLSearchParams(name === "devices" || name === "cases" ? query : "");
    if (alone !== null && name.startsWith(alone.id)) new URLSearchParams(alone.dataset.params).forEach((v, k) => params.set(k, v));
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
      if (name === "case") tellStale(place);
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

  const shownCases = () => [...document.querySelectorAll("#cases [data-case]")].map((row) => [row.dataset.case, row.dataset.version]);

  // The forms of a case stay as they are while somebody writes; they say so when the case has moved on.
  const tellStale = (place) => {
    const forms = document.querySelector(".acts [data-state]");
    const known = place.querySelector("[data-state]");
    if (forms !== null && known !== null) document.getElementById("stale").hidden = forms.dataset.state === known.dataset.state;
  };

  // What changes seldom is fetched anew at most every MORE_MS.
  let fetched = Date.now();
  const wantMore = () => {
    if (Date.now() - fetched < MORE_MS || document.getElementById("device-more") === null) return;
    fetched = Date.now();
    want("device-more");
  };

  const handlers = {
    reset: (value) => {
      if (devices === null) return;
      const same = isList && value.devices.join() === shownIds().join();
      if (!same) want("devices");
    },
    device: (value) => {
      if (alone !== null) { want(alone.id); wantMore(); return; }
      if (!isList) { want("devices"); return; }
      const row = devices.querySelector(`[data-id="${CSS.escape(value.id)}"]`);
      if (row !== null) setRow(row, value);
      document.body.dataset.updated = String(Number(document.body.dataset.updated || 0) + 1);
    },
    campaign: () => want(...(alone !== null ? [alone.id] : ["campaigns"])),
    alert: () => want("alerts"),
    cases: (value) => { if (value.cases.join() !== shownCases().join()) want("cases"); },
    case: (value) => { if (value.version !== Number(alone.querySelector("[data-version]").dataset.version)) want("case"); },
    totals: () => want("totals"),
  };

  if (live !== null) {
    const events = new EventSource("/api/v1/events?" + live.dataset.view);
    events.addEventListener("open", () => {
      show("live", "live");
      if (stale) want("totals", "devices", "campaigns", "alerts", "cases", ...(alone !== null ? [alone.id] : []));
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
    const problem = await ask("POST", `/api/v1/campaigns/${encodeURIComponent(campaign)}/${action}`, { expected_version: Number(version) });
    await refreshAlone();
    document.getElementById("acted").textContent = problem;
  });

  // What a request was refused for; empty if it was done.
  const ask = async (method, path, body) => {
    const answer = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": document.querySelector("meta[name=csrf]").content },
      body: JSON.stringify(body),
    });
    if (answer.ok) return "";
    const value = await answer.json().catch(() => ({}));
    return value.detail || value.message || "the server answered " + answer.status;
  };

  const fieldValue = (field) => {
    const text = field.value.trim();
    if (text === "") return field.closest("form").dataset.wrap || field.dataset.kind === "nullable" ? null : undefined;
    if (field.dataset.kind === "time") return Date.parse(text + "Z") / 1000;
    return field.dataset.kind === "number" ? Number(text) : text;
  };

  const unchanged = (field) => field.tagName === "SELECT" ? field.selectedOptions[0].defaultSelected || (field.selectedIndex === 0 && !field.querySelector("[selected]")) : field.value === field.defaultValue;

  // A form names its request in data-api (and data-method); its fields are the body, with the version that is shown.
  // With data-wrap only those that were changed are, below that name; an empty one takes back what was wanted.
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-api]");
    if (form === null) return;
    event.preventDefault();
    const values = {};
    const wrap = form.dataset.wrap;
    form.querySelectorAll("[name]").forEach((field) => { if (!wrap || !unchanged(field)) values[field.name] = fieldValue(field); });
    const body = wrap ? { [wrap]: values } : values;
    const shown = document.querySelector("#case [data-version]");
    if (shown !== null) body.expected_version = Number(shown.dataset.version);
    const button = form.querySelector("button");
    button.disabled = true;
    const problem = await ask(form.dataset.method || "POST", form.dataset.api, body).catch(String);
    button.disabled = false;
    form.querySelector(".acted").textContent = problem;
    if (problem === "") window.location.reload();
  });

  const refreshAlone = async () => {
    wanted.add(alone.id);
    await refresh();
  };
})();
