// Pages of lists and records. A part that is under way is asked for again, rendered and escaped by the server, one
// request at a time and none while nobody looks; when it has ended, the whole page is loaded anew. A form with data-plan
// shows beside it what would come of it, while somebody writes; data-create sends what was shown.
"use strict";
(() => {
  const EVERY_MS = 2000;
  const WRITING_MS = 400;

  const shown = (place) => place.dispatchEvent(new Event("shown", { bubbles: true }));

  const again = async (place) => {
    const answer = await fetch(place.dataset.again, { credentials: "same-origin" });
    if (answer.status === 401) { window.location.reload(); return; }
    if (!answer.ok) return;
    place.innerHTML = await answer.text();
    shown(place);
    if (place.querySelector("[data-going]") === null) window.location.reload();
  };

  const turn = async () => {
    if (!document.hidden) {
      try { await Promise.all([...document.querySelectorAll("[data-again]")].map(again)); } catch (error) { console.warn(error); }
    }
    window.setTimeout(turn, EVERY_MS);
  };
  if (document.querySelector("[data-again]") !== null) window.setTimeout(turn, EVERY_MS);

  const form = document.querySelector("form[data-plan]");
  if (form === null) return;
  const place = document.getElementById("plan");
  let timer = null;
  let asked = null;

  const plan = async (full) => {
    if (asked !== null) asked.abort();
    asked = new AbortController();
    const fields = new URLSearchParams(new FormData(form));
    if (full) fields.set("full", "yes");
    try {
      const answer = await fetch(form.dataset.plan + "?" + fields, { credentials: "same-origin", signal: asked.signal });
      if (answer.status === 401) { window.location.reload(); return; }
      place.innerHTML = answer.ok ? await answer.text() : "";
      shown(place);
    } catch (error) { if (error.name !== "AbortError") console.warn(error); }
  };

  form.addEventListener("input", () => {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => plan(false), WRITING_MS);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    window.clearTimeout(timer);
    plan(true);
  });

  place.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-create]");
    if (button === null) return;
    const section = button.closest("[data-spec]");
    button.disabled = true;
    const answer = await fetch(button.dataset.create, {
      method: "POST",
      credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": document.querySelector("meta[name=csrf]").content },
      body: JSON.stringify({ spec: JSON.parse(section.dataset.spec) }),
    });
    const value = await answer.json().catch(() => ({}));
    if (answer.ok) { window.location.assign("/campaigns/" + encodeURIComponent(value.id)); return; }
    button.disabled = false;
    section.querySelector(".acted").textContent = value.detail || "the server answered " + answer.status;
  });
})();
