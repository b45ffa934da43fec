// Keeps a page live: server-sent events tell what changed on this screen. Cells of the list are set as text; other
// sections are fetched, rendered and escaped by the server, at most one request per section at a time, and at least
// PAUSE_MS between two. Buttons and forms send one request to the API with the session's CSRF token. Times are shown in
// the reader's zone; the header folds on a small screen.
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

  const two = (number) => String(number).padStart(2, "0");
  const day = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const clock = (date) => `${day(date)} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;

  // Times in the reader's zone; what they are in UTC is said by their title.
  const localise = (place) => {
    place.querySelectorAll("time[datetime]").forEach((each) => {
      const date = new Date(each.dateTime);
      if (Number.isNaN(date.getTime())) return;
      each.textContent = clock(date);
      each.title = each.dateTime.slice(0, 19).replace("T", " ") + " UTC";
    });
    place.querySelectorAll("input[data-kind=time]").forEach((field) => {
      if (field.value) field.value = field.defaultValue = clock(new Date(field.value + "Z")).replace(" ", "T");
    });
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "your zone";
    place.querySelectorAll("[data-zone]").forEach((each) => { each.textContent = `Times are in ${zone}.`; });
    place.querySelectorAll("[data-zone-name]").forEach((each) => { each.textContent = zone; });
  };
  localise(document);
  document.addEventListener("shown", (event) => localise(event.target));  // by another script

  const menu = document.getElementById("menu");
  if (menu !== null) {
    const fold = (open) => {
      menu.setAttribute("aria-expanded", String(open));
      document.body.classList.toggle("menu-open", open);
    };
    menu.hidden = false;
    document.body.classList.add("folds");
    menu.addEventListener("click", () => fold(menu.getAttribute("aria-expanded") !== "true"));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || menu.getAttribute("aria-expanded") !== "true") return;
      fold(false);
      menu.focus();
    });
  }

  const show = (state, text) => {
    live.dataset.state = state;
    live.textContent = text;
  };

  // Parts of a page that are fetched anew when something of a kind in data-live happens: the id says which.
  const parts = [...document.querySelectorAll("[data-live]")];

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
      localise(place);
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

  const seen = (seconds) => {
    const time = document.createElement("time");
    if (seconds === null) return "–";
    time.dateTime = new Date(seconds * 1000).toISOString();
    return time;
  };

  const setRow = (row, device) => {
    const texts = {
      presence: device.presence,
      site: device.site || "–",
      runs: device.runs || "no model",
      score: device.score === null ? "–" : device.score.toFixed(2),
      severity: device.severity || (device.no_score_since !== null ? "no score" : "–"),
      update: device.execution_state === null ? "–" : device.execution_state.toLowerCase().replaceAll("_", " "),
      seen: seen(device.last_seen_at),
    };
    row.dataset.severity = device.severity || "none";
    row.dataset.online = device.online ? "yes" : "no";
    row.querySelectorAll("[data-field]").forEach((cell) => cell.replaceChildren(texts[cell.dataset.field]));
    localise(row);
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
      if (stale) want(...parts.map((each) => each.id), "totals", "devices", "campaigns", "alerts", "cases", ...(alone !== null ? [alone.id] : []));
      stale = false;
    });
    events.addEventListener("error", () => {
      stale = true;
      show("waiting", "reconnecting");
      if (events.readyState === EventSource.CLOSED) window.setTimeout(() => window.location.reload(), 5000);
    });
    Object.entries(handlers).forEach(([kind, handle]) => {
      events.addEventListener(kind, (event) => {
        handle(JSON.parse(event.data));
        want(...parts.filter((each) => each.dataset.live.split(" ").includes(kind)).map((each) => each.id));
      });
    });
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-action]");
    if (button === null) return;
    const { action, campaign, version } = button.dataset;
    if (action === "abort" && !window.confirm("End this campaign for good?")) return;
    button.disabled = true;
    const [problem] = await ask("POST", `/api/v1/campaigns/${encodeURIComponent(campaign)}/${action}`, { expected_version: Number(version) });
    await refreshAlone();
    const said = document.getElementById("acted");  // nothing is left to do where it is gone
    if (said !== null) said.textContent = problem;
  });

  // What a request was refused for, empty if it was done; and what was answered.
  const ask = async (method, path, body) => {
    const answer = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": document.querySelector("meta[name=csrf]").content },
      body: JSON.stringify(body),
    });
    const value = await answer.json().catch(() => ({}));
    return [answer.ok ? "" : value.detail || value.message || "the server answered " + answer.status, value];
  };

  const fieldValue = (field) => {
    const text = field.value.trim();
    if (text === "") return field.closest("form").dataset.wrap || field.dataset.kind === "nullable" ? null : undefined;
    if (field.dataset.kind === "time") return Date.parse(text) / 1000;
    if (field.dataset.kind === "list") return text.split(/[,\s]+/);
    if (field.dataset.kind === "pairs") return Object.fromEntries(text.split("\n").filter((line) => line.trim()).map((line) => [line.split("=", 1)[0].trim(), line.split("=").slice(1).join("=").trim() || null]));
    if (field.dataset.kind === "boolean") return text === "true";
    return field.dataset.kind === "number" ? Number(text) : text;
  };

  const unchanged = (field) => field.tagName === "SELECT" ? field.selectedOptions[0].defaultSelected || (field.selectedIndex === 0 && !field.querySelector("[selected]")) : field.value === field.defaultValue;

  // A form names its request in data-api (and data-method); its fields are the body, with the version that is shown.
  // With data-show a field of the answer, which is said this once, is shown. With data-wrap only those that were changed are, below that name; an empty one takes back what was wanted.
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-api]");
    if (form === null) return;
    event.preventDefault();
    if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
    const values = {};
    const wrap = form.dataset.wrap;
    form.querySelectorAll(":is(input, select, textarea)[name]").forEach((field) => { if (!wrap || !unchanged(field)) values[field.name] = fieldValue(field); });
    if (event.submitter !== null && event.submitter.name) values[event.submitter.name] = event.submitter.value;
    const body = wrap ? { [wrap]: values } : values;
    const shown = form.dataset.version ? form : document.querySelector("#case [data-version]");
    if (shown !== null) body.expected_version = Number(shown.dataset.version);
    const button = form.querySelector("button");
    button.disabled = true;
    const [problem, done] = await ask(form.dataset.method || "POST", form.dataset.api, body).catch((error) => [String(error), {}]);
    button.disabled = false;
    form.querySelector(".acted").textContent = problem;
    if (problem !== "") return;
    if (form.dataset.show) { form.querySelector("output").textContent = done[form.dataset.show] || "done"; return; }
    const next = (form.dataset.next || "").replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(done[name]));
    if (next) window.location.assign(next); else window.location.reload();
  });

  const refreshAlone = async () => {
    wanted.add(alone.id);
    await refresh();
  };
})();
