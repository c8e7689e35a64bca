// Images with captions, to look at. Texts are set as text, never as HTML.
const list = element.querySelector(".figures");

function figure(item) {
  const made = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = item.caption;
  if (item.image) {
    const image = document.createElement("img");
    image.src = item.image;
    image.alt = item.caption;
    made.append(image);
  }
  made.append(caption);
  return made;
}

function show() {
  list.replaceChildren(...(props.value?.items ?? []).map(figure));
}

watch("value", show);
show();
