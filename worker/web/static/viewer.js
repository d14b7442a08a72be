// The slice viewer: the worker renders every slice, so this scrolls, enlarges, windows and marks. docs/decisions/0015.
"use strict";

// "12-14, 18", counted from 1, and ordinals from 0.
function ordinalsOf(text) {
  const runs = [...text.matchAll(/(\d{1,4})(?:\s*[-\u2013]\s*(\d{1,4}))?/g)];
  return new Set(runs.flatMap(([, first, last = first]) => {
    const length = Math.max(0, last - first + 1);
    return Array.from({ length }, (_, place) => first - 1 + place);
  }));
}

function textOf(ordinals) {
  const runs = [];
  for (const ordinal of [...ordinals].sort((a, b) => a - b)) {
    if (runs.at(-1)?.[1] === ordinal) runs.at(-1)[1] = ordinal + 1;
    else runs.push([ordinal + 1, ordinal + 1]);
  }
  return runs.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(", ");
}

function startViewer(viewer) {
  const find = (id) => document.getElementById(id);
  const [image, copy, map] = [".slice", ".copy", ".map"].map((name) => viewer.querySelector(name));
  const [place, fault, edges] = [find("place"), viewer.querySelector(".fault"), [...viewer.querySelectorAll(".edge")]];
  const numbers = (text) => new Set(text.split(" ").filter(Boolean).map(Number));
  const [maps, keySlices] = [numbers(viewer.dataset.maps), numbers(viewer.dataset.keySlices)];
  const count = Number(viewer.dataset.count);
  const controls = { slice: find("slice"), level: find("level"), window: find("window"), opacity: find("opacity") };
  const values = { level: find("level-value"), window: find("window-value") };
  const loaded = new Map(); // address → image, so that a slice is fetched once
  const facts = new Map(); // ordinal → edges, position and range of values
  let shown = Number(viewer.dataset.shown);
  let wanted = null; // the picture that was asked for last; one that arrives after it is old
  let mapOn = true;

  // --- slices

  function address(ordinal) {
    const [level, window] = [controls.level.value / 100, controls.window.value / 100];
    const [low, high] = [level - window / 2, level + window / 2];
    const grey = low === 0 && high === 1 ? "" : `?low=${low.toFixed(3)}&high=${high.toFixed(3)}`;
    return `${viewer.dataset.base}${ordinal}.png${grey}`;
  }

  function load(url) {
    if (!loaded.has(url)) {
      const picture = new Image();
      picture.src = url;
      loaded.set(url, picture);
      if (loaded.size > 400) loaded.delete(loaded.keys().next().value);
    }
    return loaded.get(url);
  }

  // The patient's directions and the position of a slice; nothing where its header does not tell.
  async function label(ordinal) {
    for (const element of [...edges, place]) element.hidden = true;
    if (!facts.has(ordinal)) {
      const answer = await fetch(`${viewer.dataset.base}${ordinal}.json`).catch(() => null);
      if (!answer?.ok) return void answer?.body?.cancel(); // a body that nobody reads holds the connection
      facts.set(ordinal, await answer.json());
    }
    if (ordinal !== shown) return;
    const { edges: letters, position_mm: millimetres } = facts.get(ordinal);
    for (const element of edges) {
      element.textContent = letters ? letters[element.dataset.edge] : "";
      element.hidden = !element.textContent;
    }
    place.textContent = millimetres === null ? "" : `${millimetres.toFixed(1)} mm`;
    place.hidden = millimetres === null;
    drawGrey();
  }

  function draw() {
    const ordinal = shown;
    const next = load(address(ordinal));
    wanted = next;
    next.decode().then(
      () => {
        if (next !== wanted) return;
        fault.hidden = true;
        image.hidden = copy.hidden = false;
        image.src = copy.src = next.src;
        for (const near of [ordinal + 1, ordinal - 1, ordinal + 2]) if (near >= 0 && near < count) load(address(near));
      },
      () => {
        if (next === wanted) fail();
      },
    );
    label(ordinal);
    image.alt = `Slice ${ordinal + 1} of ${count}`;
    find("position").textContent = `${ordinal + 1} / ${count}`;
    find("key-slice").hidden = !keySlices.has(ordinal);
    map.hidden = !mapOn || !maps.has(ordinal);
    if (!map.hidden) {
      map.src = `${viewer.dataset.base}${ordinal}/activation.png`;
      map.style.opacity = controls.opacity.value / 100;
    }
    controls.slice.value = ordinal + 1;
    const cursor = find("cursor");
    if (cursor) for (const end of ["x1", "x2"]) cursor.setAttribute(end, ordinal + 0.5);
    drawGrey();
    drawMarks();
  }

  function fail() {
    fault.hidden = false;
    image.hidden = copy.hidden = true;
  }

  function show(ordinal) {
    shown = Math.max(0, Math.min(count - 1, ordinal));
    draw();
  }

  const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 5, PageUp: -5, Home: -count, End: count };
  const moves = { ArrowDown: [0, -0.1], ArrowUp: [0, 0.1], ArrowRight: [-0.1, 0], ArrowLeft: [0.1, 0] };
  const isInView = () => viewer.getBoundingClientRect().bottom > 0 && viewer.getBoundingClientRect().top < innerHeight;
  document.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    const isFree = isForPage(event) && isInView() && !event.target.closest?.("input, .scroll");
    if (event.target !== viewer && !isFree) return;
    event.preventDefault();
    if (event.shiftKey && event.key in moves) moveTo(view.x + moves[event.key][0], view.y + moves[event.key][1]);
    else show(shown + steps[event.key]);
  });
  let scrolled = 0;
  viewer.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1);
      if (event.ctrlKey) return zoom(Math.exp(-pixels / 300), ...at(event));
      scrolled += pixels;
      if (Math.abs(scrolled) >= 30) {
        show(shown + Math.sign(scrolled));
        scrolled = 0;
      }
    },
    { passive: false },
  );
  controls.slice.addEventListener("input", () => show(controls.slice.value - 1));
  function jump(order) {
    const next = order.find((ordinal) => (order[0] < order.at(-1) ? ordinal > shown : ordinal < shown));
    show(next ?? order[0]);
  }
  find("next")?.addEventListener("click", () => jump([...keySlices].sort((a, b) => a - b)));
  find("previous")?.addEventListener("click", () => jump([...keySlices].sort((a, b) => b - a)));
  document.querySelector("#chart svg")?.addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    show(Math.floor(((event.clientX - box.left) / box.width) * count));
  });
  find("strip").addEventListener("click", (event) => {
    const ordinal = event.target.dataset.ordinal;
    if (ordinal !== undefined) show(Number(ordinal));
  });

  // --- the map

  find("flip")?.addEventListener("click", (event) => {
    mapOn = !mapOn;
    event.currentTarget.setAttribute("aria-pressed", mapOn);
    draw();
  });
  find("beside")?.addEventListener("click", (event) => {
    const isBeside = viewer.classList.toggle("beside");
    viewer.querySelector(".plain").hidden = !isBeside;
    event.currentTarget.setAttribute("aria-pressed", isBeside);
  });

  // --- window and level: fractions of what the image is shown by, and its values

  const rounded = (value, length) => (length >= 20 ? Math.round(value) : Number(value.toPrecision(3)));

  function drawGrey() {
    const [window, level] = [Number(controls.window.value), Number(controls.level.value)];
    const chosen = `${window} ${level}`;
    find("preset").value = [...find("preset").options].some((option) => option.value === chosen) ? chosen : "";
    const [low, high] = facts.get(shown)?.range ?? [];
    for (const value of Object.values(values)) value.disabled = low === undefined;
    if (low === undefined) return;
    values.window.value = rounded(((high - low) * window) / 100, high - low);
    values.level.value = rounded(low + ((high - low) * level) / 100, high - low);
  }

  function setGrey(window, level) {
    [controls.window.value, controls.level.value] = [window, level];
    draw();
  }

  values.window.addEventListener("change", () => {
    const [low, high] = facts.get(shown).range;
    setGrey((100 * values.window.value) / (high - low), controls.level.value);
  });
  values.level.addEventListener("change", () => {
    const [low, high] = facts.get(shown).range;
    setGrey(controls.window.value, (100 * (values.level.value - low)) / (high - low));
  });
  for (const control of [controls.level, controls.window, controls.opacity]) control?.addEventListener("input", draw);
  find("preset").addEventListener("change", () => setGrey(...find("preset").value.split(" ")));
  find("reset").addEventListener("click", () => setGrey(100, 50));
  find("next-preset").addEventListener("click", () => {
    const presets = [...find("preset").options].filter((option) => option.value);
    setGrey(...presets[(find("preset").selectedIndex % presets.length)].value.split(" "));
  });

  // --- the enlarged picture: `x` and `y` move it, in widths and heights of a pane

  const view = { scale: 1, x: 0, y: 0 };
  const pane = () => image.closest(".pane").getBoundingClientRect();
  function at(event) {
    const panes = [...viewer.querySelectorAll(".pane:not([hidden])")].map((element) => element.getBoundingClientRect());
    const box = panes.find((box) => event.clientX <= box.right && event.clientY <= box.bottom) ?? panes.at(-1);
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  function moveTo(x, y) {
    [view.x, view.y] = [x, y].map((value) => Math.max(1 - view.scale, Math.min(0, value)));
    const transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.scale})`;
    for (const stage of viewer.querySelectorAll(".stage")) stage.style.transform = transform;
    viewer.classList.toggle("enlarged", view.scale > 1);
    find("zoomed").hidden = view.scale === 1;
    find("zoomed").textContent = `${view.scale.toFixed(1)} ×`;
  }

  function zoom(factor, x = 0.5, y = 0.5) {
    const before = view.scale;
    view.scale = factor ? Math.max(1, Math.min(8, before * factor)) : 1;
    moveTo(x - ((x - view.x) * view.scale) / before, y - ((y - view.y) * view.scale) / before);
  }

  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
  }

  // --- pointers. Capture ends with the drag in whatever way it ends, so the drag does, too.

  const pointers = new Map();
  let drag = null;
  viewer.addEventListener("dragstart", (event) => event.preventDefault());
  viewer.addEventListener("pointerdown", (event) => {
    if (event.button > 1 || pointers.size === 2) return;
    if (event.button === 1) event.preventDefault(); // of the browser: scrolling
    const from = [controls.window.value, controls.level.value];
    if (pointers.size === 1) {
      if (drag?.isGrey) setGrey(...drag.from);
      drag = null;
    } else {
      const isMoved = event.button === 1 || event.shiftKey || (event.pointerType === "touch" && view.scale > 1);
      drag = { from, isGrey: !isMoved, x: event.clientX, y: event.clientY, view: { ...view } };
    }
    pointers.set(event.pointerId, event);
    viewer.setPointerCapture(event.pointerId);
  });
  viewer.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    pointers.set(event.pointerId, event);
    const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    if (other) {
      const apart = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
      zoom(apart(event) / Math.max(apart(before), 1), ...at(other));
    } else if (drag?.isGrey) {
      const [window, level] = drag.from.map(Number);
      setGrey(window + (event.clientX - drag.x) / 3, level - (event.clientY - drag.y) / 5);
    } else if (drag) {
      const { width, height } = pane();
      moveTo(drag.view.x + (event.clientX - drag.x) / width, drag.view.y + (event.clientY - drag.y) / height);
    }
  });
  viewer.addEventListener("pointercancel", () => {
    if (drag?.isGrey) setGrey(...drag.from); // the browser scrolls the page instead
  });
  viewer.addEventListener("lostpointercapture", (event) => {
    pointers.delete(event.pointerId);
    drag = null;
  });

  // --- slices that the reader marks. Those of other series of the study wait in the session until a finding is saved.

  const field = () => find("marked-slices");
  const form = () => field()?.form;

  function drawMarks() {
    const marked = field() ? ordinalsOf(field().value) : new Set();
    const isMarked = marked.has(shown);
    find("marked").hidden = !isMarked;
    find("mark").hidden = !field();
    find("mark").setAttribute("aria-pressed", isMarked);
    for (const old of find("strip").querySelectorAll(".reader-mark")) old.remove();
    for (const ordinal of marked) {
      const mark = document.createElementNS("http://www.w3.org/2000/svg", "line");
      const attributes = { class: "reader-mark", "data-ordinal": ordinal, x1: ordinal, x2: ordinal, y1: 0.5, y2: 1 };
      for (const [name, value] of Object.entries(attributes)) mark.setAttribute(name, value);
      find("strip").append(mark);
    }
  }

  function remember() {
    const waiting = JSON.parse(sessionStorage.getItem(form().dataset.marks) ?? "{}");
    sessionStorage.setItem(form().dataset.marks, JSON.stringify({ ...waiting, [field().name]: field().value }));
    drawMarks();
  }

  if (field() && !document.querySelector("#reading-part [role=alert]")) {
    for (const [name, text] of Object.entries(JSON.parse(sessionStorage.getItem(form().dataset.marks) ?? "{}"))) {
      const hidden = Object.assign(document.createElement("input"), { type: "hidden", name });
      (form().elements[name] ?? form().appendChild(hidden)).value = text;
    }
  }
  document.addEventListener("input", (event) => event.target === field() && remember());
  document.addEventListener("htmx:afterSwap", drawMarks);
  find("mark").addEventListener("click", () => {
    const marked = ordinalsOf(field().value);
    if (!marked.delete(shown)) marked.add(shown);
    field().value = textOf(marked);
    remember();
  });

  image.addEventListener("error", fail);
  draw();
}

for (const viewer of document.querySelectorAll("#viewer")) startViewer(viewer);
