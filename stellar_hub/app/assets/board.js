// An image on which a place can be clicked and the chosen token dragged. Places are rows and columns of patches, and
// (0, 0) is the centre of the first patch. Texts are set as text, never as HTML.
const figure = element.querySelector(".board");
const frame = figure.querySelector(".frame");
const image = frame.querySelector("img");
const handle = frame.querySelector(".handle");
const caption = figure.querySelector("figcaption");
const STEP = 0.5; // patches that an arrow key moves
const DRAG = 0.4; // patches; less is a click

function grid() {
  return props.value?.grid ?? [1, 1];
}

function show() {
  const value = props.value ?? {};
  figure.classList.toggle("empty", !value.image);
  if (value.image) {
    image.src = value.image;
    image.alt = value.alt;
  } else {
    image.removeAttribute("src");
    image.alt = "";
  }
  frame.setAttribute("aria-label", `${props.name}: ${value.alt || "nothing yet"}`);
  caption.textContent = value.caption ?? "";
  handle.hidden = !value.center;
  if (value.center) {
    const [rows, columns] = grid();
    handle.style.top = `${((value.center[0] + 0.5) / rows) * 100}%`;
    handle.style.left = `${((value.center[1] + 0.5) / columns) * 100}%`;
  }
  handle.style.transform = "";
}

function place(event) {
  const box = frame.getBoundingClientRect();
  const [rows, columns] = grid();
  return [
    ((event.clientY - box.top) / box.height) * rows - 0.5,
    ((event.clientX - box.left) / box.width) * columns - 0.5,
  ];
}

let start = null;
frame.addEventListener("pointerdown", (event) => {
  if (!props.value?.image || event.button !== 0) return;
  start = { place: place(event), x: event.clientX, y: event.clientY };
  frame.setPointerCapture(event.pointerId);
});
frame.addEventListener("pointermove", (event) => {
  if (start && props.draggable) {
    handle.style.transform = `translate(${event.clientX - start.x}px, ${event.clientY - start.y}px)`;
  }
});
frame.addEventListener("pointercancel", () => {
  start = null;
  handle.style.transform = "";
});
frame.addEventListener("pointerup", (event) => {
  if (!start) return;
  const [from, to] = [start.place, place(event)];
  const [rows, columns] = [to[0] - from[0], to[1] - from[1]];
  start = null;
  if (props.draggable && Math.hypot(rows, columns) >= DRAG) {
    trigger("release", { row: from[0], column: from[1], rows, columns });
  } else {
    handle.style.transform = "";
    trigger("select", { row: from[0], column: from[1] });
  }
});

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
frame.addEventListener("keydown", (event) => {
  if (!props.value?.image || !props.draggable || event.altKey || event.metaKey) return;
  const arrow = ARROWS[event.key];
  if (arrow && !event.ctrlKey) {
    trigger("key_up", { rows: arrow[0] * STEP, columns: arrow[1] * STEP });
  } else if (event.key === "Delete" || event.key === "Backspace") {
    trigger("delete");
  } else if (event.key === "z" && event.ctrlKey) {
    trigger("undo");
  } else {
    return;
  }
  event.preventDefault();
});

watch("value", show);
show();
