// Pages of lists and records: a part that is under way is asked for again, rendered and escaped by the server, one
// request at a time and none while nobody looks; when it has ended, the whole page is loaded anew.
"use strict";
(() => {
  const EVERY_MS = 2000;

  const again = async (place) => {
    const answer = await fetch(place.dataset.again, { credentials: "same-origin" });
    if (answer.status === 401) { window.location.reload(); return; }
    if (!answer.ok) return;
    place.innerHTML = await answer.text();
    document.body.dataset.again = String(Number(document.body.dataset.again || 0) + 1);
    if (place.querySelector("[data-going]") === null) window.location.reload();
  };

  const turn = async () => {
    if (!document.hidden) {
      try { await Promise.all([...document.querySelectorAll("[data-again]")].map(again)); } catch (error) { console.warn(error); }
    }
    window.setTimeout(turn, EVERY_MS);
  };
  if (document.querySelector("[data-again]") !== null) window.setTimeout(turn, EVERY_MS);
})();
