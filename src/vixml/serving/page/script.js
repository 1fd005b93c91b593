"use strict";

const byId = (id) => document.getElementById(id);
const LABELS = 10, VOTERS = 3;
let model = null, token = "", image = null, running = null, asked = false, ready = null;
let own = [];

/* Return an element; text is text, never markup. */
function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(text) { byId("status").textContent = text; }

function fail(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  let message = `The server answered ${answer.status}`;
  try { message = (await answer.json()).error.message; } catch { /* not of our server */ }
  if (answer.status === 401) byId("access").hidden = false;
  const wait = answer.headers.get("Retry-After");
  throw new Error(wait ? `${message} (${wait} s)` : message);
}

async function open() {
  try {
    model = (await (await call("/v1/models")).json()).data[0];
  } catch (error) {
    fail(error.message);
    byId("about").textContent = "";
    if (!byId("access").hidden) byId("token").focus();
    return;
  }
  fail("");
  byId("access").hidden = true;
  const reads = model.reads_images ? "text and images" : "text";
  byId("about").textContent = `${model.title}: ${model.n_labels.toLocaleString("en")} labels; the model reads ${reads}.`;
  document.title = `Tag an item: ${model.title}`;
  byId("drop").hidden = !model.reads_images;
  byId("own").hidden = !model.adds_labels;
}

/* -- the image -- */

/* Take an image in place of the last one, or none; return whether it was taken. */
function use(file) {
  if (file && model && file.size > model.max_body * 0.7) {
    byId("image").value = ""; /* it would name this file; the last image stays, as the preview shows */
    fail(`The image is too large: ${(file.size / 2 ** 20).toFixed(1)} MB`);
    return false;
  }
  fail("");
  image = file || null;
  const preview = byId("preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = byId("remove").hidden = !image;
  if (image) preview.src = URL.createObjectURL(image);
  else byId("image").value = "";
  say(image ? `Image chosen: ${image.name || "pasted"}` : "Image removed");
  return true;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The image cannot be read"));
    reader.readAsDataURL(file);
  });
}

/* -- labels -- */

async function ask() {
  const text = byId("text").value.trim();
  if (!text && !image) {
    fail(model.reads_images ? "Type a text or choose an image first." : "Type a text first.");
    byId("text").focus();
    return;
  }
  running?.abort();
  const mine = running = new AbortController();
  const titles = image ? ["With the image", "Text alone"] : ["Labels"]; /* of what is sent; another image may be chosen meanwhile */
  fail("");
  say("Looking for labels …");
  try {
    const items = [];
    if (image) items.push({ text, images: [await base64(image)] });
    if (text) items.push({ text });
    const body = JSON.stringify({ items, k: LABELS, voters: VOTERS, labels: own, labels_offset: Number(byId("offset").value) });
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body, signal: mine.signal };
    const found = (await (await call("/v1/tags", options)).json()).items;
    if (running !== mine) return;
    asked = true;
    byId("results").replaceChildren(...found.map((item, number) => column(titles[number], item, number)));
    say(found.map((item, number) => spoken(titles[number], item)).join(" "));
    await images();
  } catch (error) {
    if (error.name === "AbortError" || running !== mine) return;
    say("");
    fail(error.message);
  }
}

function spoken(title, item) {
  const own = item.added.map((one) => `${one.label} ${ranked(one)}.`).join(" ");
  return `${title}: ${item.tags.length} labels, the best is ${item.tags[0]?.label ?? "none"}. ${own}`;
}

function ranked(one) {
  return one.rank === null ? "is not among the first 1,000" : `has rank ${one.rank}`;
}

function column(title, item, number) {
  const best = Math.max(...item.tags.map((tag) => tag.score), Number.MIN_VALUE);
  const list = make("ol", { className: "tags" }, ...item.tags.map((tag) => entry(tag, best)));
  list.setAttribute("aria-labelledby", `column-${number}`);
  const made = make("section", {}, make("h2", { id: `column-${number}`, textContent: title }), list);
  for (const one of item.added) {
    made.append(make("p", { className: "added", textContent: `“${one.label}” ${ranked(one)}.` }));
  }
  for (const note of item.notes) made.append(make("p", { className: "soft", textContent: note }));
  made.setAttribute("aria-labelledby", `column-${number}`);
  return made;
}

function entry(tag, best) {
  const bar = make("div", { className: "bar" });
  bar.style.width = `${Math.max(0, Math.min(1, tag.score / best)) * 100}%`;
  const track = make("div", { className: "track" }, bar);
  track.setAttribute("aria-hidden", "true");
  const name = make("div", { className: "name" }, make("b", { textContent: tag.label }),
    make("span", { className: "score" }, ...worth(tag)));
  const made = make("li", { className: tag.added ? "own" : "" }, name, track);
  if (tag.voters.length) {
    const what = model.votes ? `Training items that voted for ${tag.label}` : `Training items near it that have ${tag.label}`;
    const voters = make("ul", { className: "voters" }, ...tag.voters.map(voter));
    voters.setAttribute("aria-label", what);
    made.append(voters);
  }
  return made;
}

function worth(tag) {
  const percent = tag.probability === null ? null : `${Math.round(100 * tag.probability)} %`;
  return [make("span", { className: "hidden", textContent: percent ? "probability " : "score " }), percent ?? tag.score.toFixed(3)];
}

function voter(one) {
  const similarity = `similarity ${one.similarity.toFixed(3)}`;
  const made = make("li", { title: `${one.text || one.id}: ${similarity}` }, make("span", { textContent: one.text || one.id }),
    make("i", { className: "hidden", textContent: `, ${similarity}` }));
  if (one.image) {
    const image = make("img", { alt: "", width: 32, height: 32 });
    image.dataset.path = one.image;
    made.prepend(image);
  }
  return made;
}

/* Images of voters are fetched with the token, each once. */
const known = new Map();
async function images() {
  if (known.size > 500) {
    for (const address of known.values()) address.then((found) => URL.revokeObjectURL(found));
    known.clear();
  }
  await Promise.all([...document.querySelectorAll("img[data-path]")].map(async (image) => {
    const path = image.dataset.path;
    if (!known.has(path)) known.set(path, call(path).then((answer) => answer.blob()).then((blob) => URL.createObjectURL(blob)));
    try { image.src = await known.get(path); } catch { known.delete(path); }
  }));
}

/* -- labels of one's own -- */

function showOwn() {
  byId("labels").replaceChildren(...own.map((label) => {
    const remove = make("button", { type: "button", textContent: "×" });
    remove.setAttribute("aria-label", `Remove ${label}`);
    remove.addEventListener("click", () => {
      own = own.filter((one) => one !== label);
      showOwn();
      byId("label").focus();
      say(`${label} removed`);
      if (asked) ask();
    });
    return make("li", {}, label, remove);
  }));
  byId("offset-part").hidden = !own.length;
}

function addLabel() {
  const label = byId("label").value.trim().replace(/\s+/g, " ");
  if (!label || own.includes(label)) return;
  if (own.length >= model.max_labels) {
    fail(`At most ${model.max_labels} labels can be tried at once.`);
    return;
  }
  own.push(label);
  byId("label").value = "";
  showOwn();
  say(`${label} added`);
  if (byId("text").value.trim() || image) ask();
}

/* -- events -- */

function on(id, event, action) {
  byId(id).addEventListener(event, (given) => { given.preventDefault(); action(given); });
}

on("ask", "submit", () => ready.then(() => model && ask()));
on("add", "submit", () => addLabel());
on("access", "submit", () => { token = byId("token").value.trim(); byId("token").value = ""; ready = open(); });
on("remove", "click", () => { use(null); byId("image").focus(); if ((asked || running) && byId("text").value.trim()) ask(); });
byId("image").addEventListener("change", (event) => { if (event.target.files[0]) use(event.target.files[0]); });
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); byId("ask").requestSubmit(); }
});
byId("offset").addEventListener("input", (event) => { byId("offset-value").textContent = Number(event.target.value).toFixed(2); });
byId("offset").addEventListener("change", () => { if (asked) ask(); });
const picked = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
for (const event of ["dragover", "drop"]) {
  document.addEventListener(event, (given) => {
    if (!given.dataTransfer?.types.includes("Files")) return; /* a text that is moved into a field */
    given.preventDefault(); /* a file beside the field must not replace the page */
    byId("drop").classList.toggle("over", event === "dragover" && model?.reads_images === true);
    if (event !== "drop" || !model?.reads_images) return;
    const file = picked(given.dataTransfer);
    if (!file) fail("That is no image file.");
    else if (use(file)) ask();
  });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").classList.remove("over"); });
document.addEventListener("paste", (event) => {
  /* Spreadsheets and word processors put an image of a copied text beside it. */
  const file = model?.reads_images && !event.clipboardData?.getData("text/plain") && picked(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  if (use(file)) ask();
});
ready = open();
