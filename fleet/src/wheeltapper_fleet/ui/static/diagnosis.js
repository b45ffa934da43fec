// Moves the markers of a bearing's faults with speed, harmonics and sidebands, reads values off the charts, and zooms by
// dragging or keys. What is zoomed to is in the address: the server draws it anew, as finely as there are bins.
"use strict";
(() => {
  const WIDTH = 1000;
  const HEIGHT = 180;
  const FOOT = 4;
  const form = document.getElementById("choose");
  const charts = document.getElementById("charts");
  if (form === null || charts === null) return;
  const fields = { spectrum: ["low", "high"], envelope: ["envelope_low", "envelope_high"] };
  const number = (value) => String(Number(value.toPrecision(Math.abs(value) < 1000 ? 4 : 5)));
  const ordinal = (n) => n + ([11, 12, 13].includes(n % 100) ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th");
  const hidden = new Set();

  const faults = () => JSON.parse(charts.dataset.faults);
  const range = (svg) => [Number(svg.dataset.low), Number(svg.dataset.high)];
  const hzOf = (fault, n, side, rpm) => (fault.order * n + side * fault.step) * rpm / 60;

  // Place every marker for the speed, harmonics and sidebands in the form.
  const place = () => {
    const rpm = Number(form.elements.rpm.value);
    const harmonics = Number(form.elements.harmonics.value);
    const sides = Number(form.elements.sides.value);
    const known = new Map(faults().map((fault) => [fault.name, fault]));
    charts.querySelectorAll("svg.spectrum").forEach((svg) => {
      const [low, high] = range(svg);
      svg.querySelectorAll("line[data-fault]").forEach((line) => {
        const fault = known.get(line.dataset.fault);
        const n = Number(line.dataset.n);
        const side = Number(line.dataset.side);
        const hz = hzOf(fault, n, side, rpm);
        const shown = rpm > 0 && hz >= low && hz <= high && hz > 0 && n <= harmonics && Math.abs(side) <= sides && !hidden.has(fault.name);
        line.classList.toggle("off", !shown);
        const x = shown ? (WIDTH * (hz - low) / (high - low)).toFixed(1) : "-10";
        line.setAttribute("x1", x);
        line.setAttribute("x2", x);
      });
    });
    charts.querySelectorAll("[data-hz]").forEach((cell) => { cell.textContent = rpm > 0 ? number(hzOf(known.get(cell.dataset.hz), 1, 0, rpm)) + " Hz" : "–"; });
  };

  // What is at a place of a chart, and which marker is nearest.
  const read = (svg, x) => {
    const [low, high] = range(svg);
    const hz = low + x / WIDTH * (high - low);
    let best = null;
    svg.querySelector("polyline.line").getAttribute("points").split(" ").forEach((point) => {
      const [px, py] = point.split(",").map(Number);
      if (best === null || Math.abs(px - x) < Math.abs(best[0] - x)) best = [px, py];
    });
    const amplitude = best === null ? null : (HEIGHT - FOOT - best[1]) / (HEIGHT - 2 * FOOT) * Number(svg.dataset.top);
    let nearest = null;
    svg.querySelectorAll("line[data-fault]:not(.off)").forEach((line) => {
      const away = Number(line.getAttribute("x1")) - x;
      if (nearest === null || Math.abs(away) < Math.abs(nearest[0])) nearest = [away, line];
    });
    const cursor = svg.querySelector(".cursor");
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    let said = `${number(hz)} Hz` + (amplitude === null ? "" : `: ${number(amplitude)}`);
    if (nearest !== null) {
      const { fault, n, side } = nearest[1].dataset;
      const name = faults().find((each) => each.name === fault).said;
      const sideband = Number(side) === 0 ? "" : `, sideband ${Number(side) > 0 ? "+" : "−"}${Math.abs(Number(side))}`;
      said += `. Nearest: ${name}, ${ordinal(Number(n))} harmonic${sideband}, ${number(nearest[0] / WIDTH * (high - low))} Hz away`;
    }
    charts.querySelector(`.readout[data-of=${svg.dataset.kind}]`).textContent = said;
  };

  let asked = 0;
  const show = async () => {
    const mine = ++asked;
    const params = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    const address = `${window.location.pathname}?${params}`;
    const answer = await fetch(address, { credentials: "same-origin" });
    if (!answer.ok) { form.requestSubmit(); return; }
    const made = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("charts");
    if (mine !== asked) return;
    if (made === null) { window.location.assign(address); return; }
    const focused = document.activeElement instanceof SVGElement ? document.activeElement.dataset.kind : null;
    charts.replaceChildren(...made.childNodes);
    charts.dataset.faults = made.dataset.faults;
    window.history.replaceState(null, "", address);
    charts.querySelectorAll("[data-show]").forEach((box) => { box.checked = !hidden.has(box.dataset.show); });
    place();
    if (focused !== null) charts.querySelector(`svg[data-kind=${focused}]`).focus();
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  };

  const zoom = (svg, low, high) => {
    const most = Number(svg.dataset.most);
    const wide = Math.min(Math.max(high - low, most / 1e5), most);
    const begin = Math.min(Math.max(0, low), most - wide);
    const [first, last] = fields[svg.dataset.kind];
    form.elements[first].value = number(begin);
    form.elements[last].value = number(begin + wide);
    return show();
  };

  const at = (svg, event) => {
    const box = svg.getBoundingClientRect();
    return Math.min(WIDTH, Math.max(0, (event.clientX - box.left) / box.width * WIDTH));
  };

  let drag = null;
  charts.addEventListener("pointerdown", (event) => {
    const svg = event.target.closest("svg.spectrum");
    if (svg === null || event.button !== 0) return;
    drag = { svg, from: at(svg, event) };
    svg.setPointerCapture(event.pointerId);
  });
  charts.addEventListener("pointermove", (event) => {
    const svg = drag !== null ? drag.svg : event.target.closest("svg.spectrum");
    if (svg === null) return;
    const x = at(svg, event);
    read(svg, x);
    if (drag === null) return;
    const chosen = svg.querySelector(".chosen");
    chosen.setAttribute("x", Math.min(x, drag.from));
    chosen.setAttribute("width", Math.abs(x - drag.from));
  });
  charts.addEventListener("pointerup", (event) => {
    if (drag === null) return;
    const { svg, from } = drag;
    drag = null;
    const x = at(svg, event);
    svg.querySelector(".chosen").setAttribute("width", 0);
    if (Math.abs(x - from) < 5) return;
    const [low, high] = range(svg);
    zoom(svg, low + Math.min(x, from) / WIDTH * (high - low), low + Math.max(x, from) / WIDTH * (high - low));
  });
  charts.addEventListener("pointercancel", () => { drag = null; });

  charts.addEventListener("keydown", (event) => {
    const svg = event.target.closest("svg.spectrum");
    if (svg === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const [low, high] = range(svg);
    const x = Number(svg.querySelector(".cursor").getAttribute("x1"));
    const middle = x >= 0 ? low + x / WIDTH * (high - low) : (low + high) / 2;
    const half = (high - low) / 2;
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key in steps && event.shiftKey) zoom(svg, low + steps[event.key] * half / 2, high + steps[event.key] * half / 2);
    else if (event.key in steps) read(svg, Math.min(WIDTH, Math.max(0, (x < 0 ? WIDTH / 2 : x) + 4 * steps[event.key])));
    else if (event.key === "+" || event.key === "=") zoom(svg, middle - half / 2, middle + half / 2);
    else if (event.key === "-") zoom(svg, middle - 2 * half, middle + 2 * half);
    else if (event.key === "0") { fields[svg.dataset.kind].forEach((name) => { form.elements[name].value = ""; }); show(); }
    else return;
    event.preventDefault();
  });

  form.addEventListener("input", (event) => {
    if (["rpm", "harmonics", "sides"].includes(event.target.name)) place();
  });
  charts.addEventListener("change", (event) => {
    const name = event.target.dataset.show;
    if (name === undefined) return;
    if (event.target.checked) hidden.delete(name); else hidden.add(name);
    place();
  });
})();
