// The slice viewer. Everything else on the page works without this file; lists are kept up to date by htmx.
"use strict";

function startViewer(viewer) {
  const find = (id) => document.getElementById(id);
  const [image, map] = [viewer.querySelector(".slice"), viewer.querySelector(".map")];
  const [caption, decides, fault] = [find("place"), find("decides"), viewer.querySelector(".fault")];
  const numbers = (text) => new Set(text.split(" ").filter(Boolean).map(Number));
  const [maps, deciding] = [numbers(viewer.dataset.maps), numbers(viewer.dataset.deciding)];
  const count = Number(viewer.dataset.count);
  const controls = { slice: find("slice"), level: find("level"), window: find("window"), opacity: find("opacity") };
  const kept = new Map(); // addresses → loaded pictures, so that a slice is fetched once
  let shown = Number(viewer.dataset.shown);
  let mapWanted = true;

  function address(ordinal) {
    const [level, window] = [controls.level.value / 100, controls.window.value / 100];
    const [low, high] = [level - window / 2, level + window / 2];
    const grey = low === 0 && high === 1 ? "" : `?low=${low.toFixed(3)}&high=${high.toFixed(3)}`;
    return `${viewer.dataset.base}${ordinal}.png${grey}`;
  }

  function load(url) {
    if (!kept.has(url)) {
      const picture = new Image();
      picture.src = url;
      kept.set(url, picture);
      if (kept.size > 400) kept.delete(kept.keys().next().value);
    }
    return kept.get(url);
  }

  // The map lies over the slice's pixels, not over the black beside them.
  function place() {
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
    next.decode().then(
      () => {
        if (ordinal !== shown) return;
        fault.hidden = true;
        image.hidden = false;
        image.src = next.src;
        place();
        for (const near of [ordinal + 1, ordinal - 1, ordinal + 2]) if (near >= 0 && near < count) load(address(near));
      },
      () => {
        if (ordinal === shown) fail();
      },
    );
    image.alt = `Slice ${ordinal + 1} of ${count}`;
    caption.textContent = `${ordinal + 1} / ${count}`;
    decides.hidden = !deciding.has(ordinal);
    map.hidden = !mapWanted || !maps.has(ordinal);
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
      mapWanted = !mapWanted;
      draw();
    }
    else return;
    event.preventDefault();
  });
  let turned = 0;
  viewer.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      turned += event.deltaY;
      if (Math.abs(turned) >= 30) {
        show(shown + Math.sign(turned));
        turned = 0;
      }
    },
    { passive: false },
  );
  viewer.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return;
    viewer.setPointerCapture(event.pointerId);
    const from = [event.clientX, event.clientY, Number(controls.window.value), Number(controls.level.value)];
    const drag = (move) => {
      controls.window.value = from[2] + (move.clientX - from[0]) / 3;
      controls.level.value = from[3] - (move.clientY - from[1]) / 5;
      draw();
    };
    viewer.addEventListener("pointermove", drag);
    viewer.addEventListener("pointerup", () => viewer.removeEventListener("pointermove", drag), { once: true });
  });
  controls.slice.addEventListener("input", () => show(controls.slice.value - 1));
  for (const one of [controls.level, controls.window, controls.opacity]) one?.addEventListener("input", draw);
  find("reset").addEventListener("click", () => {
    [controls.level.value, controls.window.value] = [50, 100];
    draw();
  });
  find("next")?.addEventListener("click", () => {
    const order = [...deciding].sort((a, b) => a - b);
    show(order.find((one) => one > shown) ?? order[0]);
  });
  document.querySelector("#chart svg")?.addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    show(Math.floor(((event.clientX - box.left) / box.width) * count));
  });
  new ResizeObserver(place).observe(viewer);
  image.addEventListener("load", place);
  image.addEventListener("error", fail);
  draw();
}

for (const viewer of document.querySelectorAll("#viewer")) startViewer(viewer);
