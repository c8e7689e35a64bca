// A place to drop an image file, or to choose one. The file is uploaded, and its path on the server is told.
const zone = element.querySelector(".drop-zone");
const input = zone.querySelector("input");
const text = zone.querySelector("span");

async function send(file) {
  if (!file) return;
  zone.classList.add("busy");
  try {
    if (file.size > props.max_bytes) {
      trigger("upload", { name: file.name, size: file.size });
    } else {
      const { path } = await upload(file);
      trigger("upload", { name: file.name, file: path });
    }
  } catch {
    trigger("upload", { name: file.name });
  } finally {
    input.value = "";
    zone.classList.remove("busy");
  }
}

text.textContent = props.name;
input.accept = props.accept;
input.addEventListener("change", () => send(input.files[0]));
zone.addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.classList.add("over");
});
zone.addEventListener("dragleave", () => zone.classList.remove("over"));
zone.addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  send(event.dataTransfer.files[0]);
});
