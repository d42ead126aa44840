// Files are sent to the JSON endpoint one after the other, and the answers are added in that order.
// Text is set as text and never as HTML, because names of files and labels are not trusted.
const main = document.querySelector("main");
const [form, input, status, tools, list, csv, clear, overlay] =
  ["form", "files", "status", "tools", "list", "csv", "clear", "overlay"].map((id) => document.getElementById(id));
const maxBytes = Number(main.dataset.maxBytes), explains = Boolean(main.dataset.saliency);
const waiting = [];
let busy = false, sent = 0, last = "", failed = 0, header = "", rows = "", generation = 0;

input.addEventListener("change", () => { add(input.files); input.value = ""; });
form.addEventListener("submit", (event) => event.preventDefault());
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => { event.preventDefault(); form.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) addEventListener(name, () => form.classList.remove("over"));
addEventListener("drop", (event) => { event.preventDefault(); add(event.dataTransfer.files); });
clear.addEventListener("click", () => {
  generation += 1; // discards an answer that is still awaited
  waiting.length = 0;
  list.replaceChildren();
  [sent, failed, rows, tools.hidden] = [0, 0, "", true];
  URL.revokeObjectURL(csv.href);
  say("All predictions were removed.");
  input.focus();
});
overlay?.addEventListener("change", () => { for (const show of document.querySelectorAll("#list li")) show.draw?.(); });

function add(files) {
  waiting.push(...files);
  if (!busy && waiting.length) work();
}

async function work() {
  busy = true;
  while (waiting.length) {
    const file = waiting.shift(), at = generation;
    say(`Reading ${sent + 1} of ${sent + 1 + waiting.length}: ${file.name}`);
    const answer = await ask(file);
    if (at !== generation) continue;
    sent += 1;
    failed += answer.error ? 1 : 0;
    last = answer.error ?? `${answer.file} – ${decision(answer)}`;
    list.append(answer.error ? problem(answer) : card(answer));
    tools.hidden = false;
  }
  busy = false;
  if (sent === 1) say(last);
  else if (sent) say(`${count(sent - failed)} predicted${failed ? `, ${count(failed)} failed` : ""}. Last: ${last}`);
}

// Return the answer for a file, or an object with its error.
async function ask(file) {
  if (file.size > maxBytes) {
    const size = Math.ceil(file.size / 2 ** 20);
    return { file: file.name, error: `${file.name}: found ${size} MB; expected at most ${maxBytes / 2 ** 20}. Scale the image down.` };
  }
  const body = new FormData();
  body.append("files", file, file.name);
  let response, answer;
  try {
    response = await fetch(`api/predict?image=true&saliency=${explains}`, { method: "POST", body });
    answer = await response.json();
  } catch {
    const why = "can't be sent. It may be a folder, the file may have moved, or the server may have stopped.";
    return { file: file.name, error: `${file.name}: ${why}` };
  }
  if (!response.ok) return { file: file.name, error: answer.error };
  header = answer.csv.header;
  rows += answer.csv.rows;
  URL.revokeObjectURL(csv.href);
  csv.href = URL.createObjectURL(new Blob([header, rows], { type: "text/csv" }));
  return answer.files[0];
}

function problem(answer) {
  const item = copy("problem");
  item.querySelector(".file").textContent = answer.file;
  item.querySelector(".reason").textContent = answer.error;
  return item;
}

function card(answer) {
  const item = copy("answer"), body = item.querySelector("tbody"), [image, caption] = item.querySelectorAll("img, figcaption");
  item.querySelector(".file").textContent = answer.file;
  item.querySelector(".decision").textContent = decision(answer);
  item.querySelector("caption").textContent = `Calibrated probabilities of ${answer.file}`;
  for (const label of answer.labels) body.append(row(label));
  const table = item.querySelector("table");
  table.classList.toggle("without-threshold", answer.labels.every((label) => label.threshold === null));
  table.classList.toggle("without-spread", answer.labels.every((label) => label.spread === null));
  for (const note of answer.notes) {
    item.querySelector(".notes").append(Object.assign(document.createElement("li"), { textContent: note }));
  }
  item.draw = () => {
    const map = overlay?.checked ? answer.saliency : null;
    image.src = map ? map.image : answer.image;
    image.alt = map ? `${answer.file} with Grad-CAM of ${map.label}` : `${answer.file} as the network sees it`;
    caption.textContent = !map ? "" : map.outside === null ? `Grad-CAM shows no evidence for ${map.label}.`
      : `Bright areas raise the output for ${map.label}. ${percent(map.outside)} of the map is outside the central thorax. ${map.note}`;
  };
  item.draw();
  return item;
}

function row(label) {
  const line = copy("row");
  line.classList.toggle("yes", label.predicted);
  line.querySelector(".name").textContent = label.label;
  line.querySelector(".probability").textContent = label.probability.toFixed(3);
  line.querySelector(".fill").style.width = `${100 * label.probability}%`;
  if (label.threshold !== null) {
    line.querySelector(".threshold").textContent = label.threshold.toFixed(3);
    line.querySelector(".mark").style.left = `${100 * label.threshold}%`;
  }
  if (label.spread !== null) line.querySelector(".spread").textContent = label.spread.toFixed(3);
  line.querySelector(".is").textContent = label.abstained ? "no answer" : label.predicted ? "yes" : "no";
  return line;
}

function decision(answer) {
  const names = (chosen) => answer.labels.filter(chosen).map((label) => label.label).join(", ");
  const predicted = names((label) => label.predicted), abstained = names((label) => label.abstained);
  const said = predicted ? `Predicted: ${predicted}` : abstained ? "" : "Predicted: no label";
  return [said, abstained && `No answer on: ${abstained}`].filter(Boolean).join(". ");
}

function copy(id) { return document.getElementById(id).content.firstElementChild.cloneNode(true); }
function count(files) { return `${files} file${files === 1 ? "" : "s"}`; }
function percent(share) { return `${Math.round(100 * share)}%`; }
function say(text) { status.textContent = text; }
