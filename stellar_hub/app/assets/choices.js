// Buttons with small images: the maps of tokens, or examples. Texts are set as text, never as HTML.
const list = element.querySelector(".choices");

function button(item) {
  const made = document.createElement("button");
  const image = document.createElement("img");
  const name = document.createElement("span");
  made.type = "button";
  made.title = item.title;
  made.setAttribute("aria-label", item.title);
  made.className = item.used === false ? "unused" : "";
  made.setAttribute("aria-pressed", item.chosen ? "true" : "false");
  made.dataset.key = item.key;
  image.src = item.image;
  image.alt = "";
  name.textContent = item.label;
  if (item.color) {
    const swatch = document.createElement("i");
    swatch.style.background = item.color;
    name.prepend(swatch);
  }
  made.append(image, name);
  if (item.note) {
    const note = document.createElement("small");
    note.textContent = item.note;
    made.append(note);
  }
  made.addEventListener("click", () => trigger("select", { key: item.key }));
  return made;
}

function show() {
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const items = props.value?.items ?? [];
  list.replaceChildren(...items.map(button));
  list.setAttribute("aria-label", props.name);
  if (focused !== null) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

watch("value", show);
show();
