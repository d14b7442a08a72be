// The slice viewer, and rows that stay unfolded. Everything else works without this file; htmx keeps lists up to date.
"use strict";

function startViewer(viewer) {
  const find = (id) => document.getElementById(id);
  const [image, map] = [viewer.querySelector(".slice"), viewer.querySelector(".map")];
  const [position, keySlice, fault] = [find("position"), find("key-slice"), viewer.querySelector(".fault")];
  const [place, edges] = [find("place"), [...viewer.querySelectorAll(".edge")]];
  const numbers = (text) => new Set(text.split(" ").filter(Boolean).map(Number));
  const [maps, keySlices] = [numbers(viewer.dataset.maps), numbers(viewer.dataset.keySlices)];
  const count = Number(viewer.dataset.count);
  const controls = { slice: find("slice"), level: find("level"), window: find("window"), opacity: find("opacity") };
  const loaded = new Map(); // address → image, so that a slice is fetched once
  const facts = new Map(); // ordinal → edges and position
  let shown = Number(viewer.dataset.shown);
  let wanted = null; // the picture that was asked for last; one that arrives after it is old
  let mapOn = true;

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
  }

  // Fit the map to the slice's pixels; the viewer is black beside them.
  function placeMap() {
    if (!image.naturalWidth) return;
    const scale = Math.min(viewer.clientWidth / image.naturalWidth, viewer.clientHeight / image.naturalHeight);
    const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    map.style.width = `${width}px`;
    map.style.height = `${height}px`;
    map.style.left = `${(viewer.clientWidth - width) / 2}px`;
    map.style.top = `${(viewer.clientHeight - height) / 2}px`;
  }

  function draw() {
    const ordinal = shown;
    const next = load(address(ordinal));
    wanted = next;
    next.decode().then(
      () => {
        if (next !== wanted) return;
        fault.hidden = true;
        image.hidden = false;
        image.src = next.src;
        placeMap();
        for (const near of [ordinal + 1, ordinal - 1, ordinal + 2]) if (near >= 0 && near < count) load(address(near));
      },
      () => {
        if (next === wanted) fail();
      },
    );
    label(ordinal);
    image.alt = `Slice ${ordinal + 1} of ${count}`;
    position.textContent = `${ordinal + 1} / ${count}`;
    keySlice.hidden = !keySlices.has(ordinal);
    map.hidden = !mapOn || !maps.has(ordinal);
    if (!map.hidden) {
      map.src = `${viewer.dataset.base}${ordinal}/activation.png`;
      map.style.opacity = controls.opacity.value / 100;
    }
    controls.slice.value = ordinal + 1;
    const cursor = find("cursor");
    if (cursor) for (const end of ["x1", "x2"]) cursor.setAttribute(end, ordinal + 0.5);
  }

  function fail() {
    fault.hidden = false;
    image.hidden = true;
  }

  function show(ordinal) {
    shown = Math.max(0, Math.min(count - 1, ordinal));
    draw();
  }

  const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 5, PageUp: -5, Home: -count, End: count };
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) show(shown + steps[event.key]);
    else if (event.key === "m" || event.key === "M") {
      mapOn = !mapOn;
      draw();
    }
    else return;
    event.preventDefault();
  });
  let scrolled = 0;
  viewer.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      scrolled += event.deltaY;
      if (Math.abs(scrolled) >= 30) {
        show(shown + Math.sign(scrolled));
        scrolled = 0;
      }
    },
    { passive: false },
  );
  // Capture ends with the drag in whatever way it ends, so what it listens to ends there, too.
  viewer.addEventListener("dragstart", (event) => event.preventDefault());
  viewer.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    const from = [Number(controls.window.value), Number(controls.level.value)];
    const set = (window, level) => {
      [controls.window.value, controls.level.value] = [window, level];
      draw();
    };
    const dragging = new AbortController();
    const during = (name, act) =>
      viewer.addEventListener(name, (later) => later.pointerId === event.pointerId && act(later), {
        signal: dragging.signal,
      });
    during("pointermove", (move) =>
      set(from[0] + (move.clientX - event.clientX) / 3, from[1] - (move.clientY - event.clientY) / 5),
    );
    during("pointercancel", () => set(...from)); // the browser scrolls the page instead
    during("lostpointercapture", () => dragging.abort());
    viewer.setPointerCapture(event.pointerId);
  });
  controls.slice.addEventListener("input", () => show(controls.slice.value - 1));
  for (const control of [controls.level, controls.window, controls.opacity]) control?.addEventListener("input", draw);
  find("reset").addEventListener("click", () => {
    [controls.level.value, controls.window.value] = [50, 100];
    draw();
  });
  find("next")?.addEventListener("click", () => {
    const order = [...keySlices].sort((a, b) => a - b);
    show(order.find((ordinal) => ordinal > shown) ?? order[0]);
  });
  document.querySelector("#chart svg")?.addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    show(Math.floor(((event.clientX - box.left) / box.width) * count));
  });
  new ResizeObserver(placeMap).observe(viewer);
  image.addEventListener("load", placeMap);
  image.addEventListener("error", fail);
  draw();
}

// A list that is brought up to date keeps its rows unfolded.
let unfolded = [];
document.addEventListener("htmx:beforeSwap", () => {
  unfolded = [...document.querySelectorAll("#list details[open]")].map((details) => details.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
});

for (const viewer of document.querySelectorAll("#viewer")) startViewer(viewer);
