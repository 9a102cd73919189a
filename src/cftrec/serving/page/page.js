// Titles are other people's text: they reach the page by textContent alone.
const $ = (id) => document.getElementById(id);
const state = { history: [], models: [], k: 10, gamma: 0, prior: "counts", why: new Set() };
const PRIORS = {
  counts: ["Training frequencies", "how often each title came next in training (prior counts)"],
  trained: ["The model, trained for it", "the model's own answer to no history, which its training kept (prior trained)"],
  counterfactual: ["The model as it is", "the model's own answer to no history, which training may have erased (prior counterfactual)"],
};
const plain = (number) => (number < 0 ? "−" : "") + Math.abs(number).toFixed(2);
const format = (number) => (number < 0 ? "" : "+") + plain(number);
let round = new AbortController(); // what older requests ask for is wanted no more

function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// ---- the service

class Refused extends Error {
  constructor(status, problem, retry) {
    super(problem.detail ?? `the service answered ${status}`);
    this.status = status;
    this.retry = retry;
  }
}

async function call(path, body, signal) {
  // A header's characters are bytes, here those of UTF-8.
  const token = String.fromCharCode(...new TextEncoder().encode(sessionStorage.getItem("token") ?? ""));
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { ...options, headers, signal });
  const value = await answer.json().catch(() => ({}));
  if (answer.ok) return value;
  throw new Refused(answer.status, value, Number(answer.headers.get("Retry-After")));
}

function complain(error, again, place = $("status")) {
  if (error.name === "AbortError") return;
  $("bearer").hidden = error.status !== 401;
  if (error.status === 503) {
    const wait = error.retry || 1;
    place.textContent = `The service is busy; trying again in ${wait} s.`;
    const now = round;
    setTimeout(() => now === round && again(), 1000 * wait);
  } else {
    place.textContent = error.status ? `Not answered: ${error.message}.` : "The service cannot be reached.";
  }
}

// ---- the state in the address

function readAddress() {
  const given = new URLSearchParams(location.search);
  state.k = Math.min(1000, Math.max(1, Math.trunc(Number(given.get("k"))) || 10));
  state.gamma = Math.min(2, Math.max(0, Number(given.get("gamma")) || 0));
  state.prior = given.get("prior") in PRIORS ? given.get("prior") : "counts";
  state.why = new Set(given.getAll("why").slice(0, 1000));
  return given.getAll("h").slice(0, 1000);
}

function writeAddress() {
  const kept = new URLSearchParams(state.history.map((item) => ["h", item.item_id]));
  if (state.k !== 10) kept.set("k", state.k);
  if (state.gamma) kept.set("gamma", state.gamma);
  if (state.prior !== "counts") kept.set("prior", state.prior);
  for (const id of state.why) kept.append("why", id);
  const text = kept.toString();
  window.history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

async function fromAddress() {
  $("asked").inert = true; // a change before all is restored would write over the address
  const ids = readAddress();
  let known = [];
  if (ids.length) known = (await call(`/v1/items?${new URLSearchParams(ids.map((id) => ["id", id]))}`)).items;
  const byId = new Map(known.map((item) => [item.item_id, item]));
  state.history = ids.filter((id) => byId.has(id)).map((id) => byId.get(id));
  if (![...$("k").options].some((option) => Number(option.value) === state.k)) $("k").append(element("option", { text: state.k }));
  $("k").value = String(state.k);
  $("gamma").value = state.gamma;
  state.gamma = Number($("gamma").value); // rounded to the slider's steps
  $("gamma-value").textContent = state.gamma;
  $("prior").value = state.prior;
  if (!$("prior").value) $("prior").value = state.prior = "counts";
  $("asked").inert = false;
  changed();
}

// ---- finding titles

let offered = [], marked = -1, looking = null, typing = 0, sliding = 0;
let looked = ""; // the text of which the list is

function offer(items) {
  offered = items;
  marked = items.length ? 0 : -1;
  $("found").replaceChildren(
    ...items.map((item, place) => {
      const option = element("li", { id: `found-${place}`, role: "option", dir: "auto", text: item.title });
      option.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
      option.addEventListener("click", () => choose(place));
      return option;
    }),
  );
  $("found").hidden = !items.length;
  $("query").setAttribute("aria-expanded", String(items.length > 0));
  mark(marked);
}

function mark(place) {
  marked = place;
  [...$("found").children].forEach((option, at) => option.setAttribute("aria-selected", String(at === place)));
  if (place < 0) return $("query").removeAttribute("aria-activedescendant");
  $("query").setAttribute("aria-activedescendant", `found-${place}`);
  $("found").children[place].scrollIntoView({ block: "nearest" });
}

function choose(place) {
  state.history.push(offered[place]);
  looking?.abort();
  clearTimeout(typing);
  $("query").value = looked = "";
  offer([]);
  changed();
}

async function look() {
  looking?.abort();
  clearTimeout(typing);
  looking = new AbortController();
  const q = $("query").value;
  try {
    const { items } = await call(`/v1/items?${new URLSearchParams({ q, limit: 8 })}`, null, looking.signal);
    if (document.activeElement !== $("query")) return;
    looked = q;
    offer(items);
  } catch (error) {
    complain(error, look);
  }
}

async function pick() {
  const wanted = $("query").value;
  if (looked !== wanted) await look(); // the list is still of an earlier text
  if (looked === wanted && $("query").value === wanted && marked >= 0) choose(marked);
}

$("query").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(look, 100);
});
$("query").addEventListener("focus", look);
$("query").addEventListener("blur", () => offer([]));
$("query").addEventListener("keydown", (event) => {
  if (event.isComposing) return; // Enter chooses characters then, not a title
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && offered.length) mark((marked + step + offered.length) % offered.length);
  else if (step) look(); // the list was closed
  else if (event.key === "Enter" && (marked >= 0 || $("query").value !== looked)) pick();
  else if (event.key === "Escape" && offered.length) offer([]);
  else return;
  event.preventDefault();
});

// ---- the history

function showHistory(focused) {
  const last = state.history.length - 1;
  $("history").replaceChildren(
    ...state.history.map((item, place) => {
      const button = (text, label, off, act) => {
        const made = element("button", { type: "button", text, "aria-label": `${label}: ${item.title}`, "data-act": label });
        made.disabled = off;
        made.addEventListener("click", act);
        return made;
      };
      return element(
        "li",
        {},
        element("span", { dir: "auto", text: item.title }),
        button("↑", "Move earlier", place === 0, () => move(place, place - 1, "Move earlier")),
        button("↓", "Move later", place === last, () => move(place, place + 1, "Move later")),
        button("×", "Remove", false, () => remove(place)),
      );
    }),
  );
  $("nothing").hidden = state.history.length > 0;
  $("clear").hidden = state.history.length < 2;
  if (!focused) return;
  const row = $("history").children[focused.place];
  const wanted = row?.querySelector(`button[data-act="${focused.act}"]:enabled`) ?? row?.querySelector("button:enabled");
  (wanted ?? $("query")).focus();
}

function move(from, to, act) {
  state.history.splice(to, 0, ...state.history.splice(from, 1));
  changed({ place: to, act });
}

function remove(place) {
  state.history.splice(place, 1);
  changed({ place: Math.min(place, state.history.length - 1), act: "Remove" });
}

$("clear").addEventListener("click", () => {
  state.history = [];
  changed({ place: 0, act: "Remove" });
});
$("gamma").addEventListener("input", () => {
  state.gamma = Number($("gamma").value);
  $("gamma-value").textContent = state.gamma;
  clearTimeout(sliding);
  sliding = setTimeout(changed, 100);
});
for (const id of ["prior", "k"])
  $(id).addEventListener("change", () => {
    state[id] = id === "k" ? Number($(id).value) : $(id).value;
    changed();
  });

// ---- the answer

function changed(focused) {
  round.abort();
  round = new AbortController();
  writeAddress();
  showHistory(focused);
  $("status").textContent = state.history.length ? "" : "Nothing is picked, so the lists show what is expected of anyone.";
  for (const model of state.models) {
    model.place.querySelector(".lists")?.classList.add("busy");
    answer(model);
  }
}

async function answer(model) {
  const { signal } = round;
  try {
    const foreign = await strangers(model, signal);
    if (foreign.length) return showStrangers(model, foreign);
    const { version, results } = await call("/v1/recommend", request(model), signal);
    if (signal.aborted) return;
    if (version !== model.version) { // loaded anew meanwhile, perhaps with other items
      model.version = version;
      model.titles.clear();
      return answer(model);
    }
    $("bearer").hidden = true;
    showAnswer(model, results[0]);
  } catch (error) {
    if (signal.aborted) return;
    const said = element("p", { class: "quiet", role: "status" });
    model.place.replaceChildren(...heading(model), said, ...model.place.querySelectorAll(".lists"));
    complain(error, () => answer(model), said);
  }
}

// Titles are found in the first model's catalogue. In another's their ids may be missing, or mean something else.
async function strangers(model, signal) {
  if (model === state.models[0]) return [];
  const picked = state.history;
  const fresh = picked.filter((item) => !model.titles.has(item.item_id)).map((item) => item.item_id);
  if (fresh.length) {
    const { items } = await call(`/v1/items?${new URLSearchParams([["model", model.name], ...fresh.map((id) => ["id", id])])}`, null, signal);
    for (const id of fresh) model.titles.set(id, null);
    for (const item of items) model.titles.set(item.item_id, item.title);
  }
  return picked.filter((item) => model.titles.get(item.item_id) !== item.title);
}

function showStrangers(model, foreign) {
  const named = foreign.slice(0, 3).flatMap((item, place) => [place ? ", " : "", element("bdi", { text: item.title })]);
  const said = element("p", { class: "quiet", role: "status", text: "This RUN has another catalogue, and these titles are not in it: " });
  said.append(...named, foreign.length > 3 ? ", …" : "");
  model.place.replaceChildren(...heading(model), said);
}

const heading = (model) => (state.models.length > 1 ? [element("h3", { text: model.name })] : []);

function request(model) {
  const histories = [state.history.map((item) => item.item_id)];
  const { k, gamma } = state;
  return { histories, by: "id", k, gamma, prior: priorOf(model), without_history: true, model: model.name };
}

const priorOf = (model) => (model.priors.includes(state.prior) ? state.prior : "counts");

function showAnswer(model, { items, exact, without_history: without }) {
  const expected = new Set(without.map((item) => item.item_id));
  const likely = element("section", { class: "card", "aria-label": "With your history" }, element("h3", { text: "With your history" }));
  likely.append(element("p", { class: "quiet small", text: "How likely each is to be next, and how many times as likely as for anyone." }));
  likely.append(element("ol", {}, ...items.map((item, place) => row(model, item, place, expected.has(item.item_id)))));
  if (!items.length) likely.append(element("p", { class: "quiet", text: "Nothing is left to recommend." }));
  if (!exact) likely.append(element("p", { class: "quiet small", text: "The search ended early; a better title may be missing." }));
  const usual = element("section", { class: "card", "aria-label": "Without any" }, element("h3", { text: "Without any" }));
  usual.append(
    element(
      "ol",
      {},
      ...without.map((item, place) => {
        const line = element("div", { class: "item" });
        line.append(
          element("span", { class: "place", text: place + 1 }),
          element("span", { class: "title", dir: "auto", text: item.title }),
          element("span", { class: "numbers", text: percent(item.log_prior), title: `log prior ${item.log_prior.toFixed(3)}` }),
        );
        return element("li", {}, line);
      }),
    ),
    element("p", { class: "quiet small", text: `Expected of anyone: ${PRIORS[priorOf(model)][1]}.` }),
  );
  model.place.replaceChildren(
    ...heading(model),
    element("div", { class: "lists" }, likely, usual),
  );
}

function percent(logP) {
  const share = 100 * Math.exp(logP);
  return share >= 0.1 ? `${share.toFixed(1)} %` : share >= 0.001 ? `${share.toFixed(3)} %` : "< 0.001 %";
}

function rounded(factor) {
  if (factor < 0.0001) return "< 0.0001";
  if (factor > 1e6) return "> 1,000,000";
  return factor >= 10 ? Math.round(factor).toLocaleString("en") : factor.toPrecision(2);
}

const opened = () => [...document.querySelectorAll("button.item[aria-expanded=true]")].map((one) => one.dataset.item);

function row(model, item, place, both) {
  const numbers = element("span", { class: "numbers" }, element("b", { text: percent(item.log_p) }), ` × ${rounded(Math.exp(item.effect))}`);
  numbers.title = `score ${item.score.toFixed(3)}, log p ${item.log_p.toFixed(3)}, effect ${format(item.effect)} nats`;
  const button = element("button", { type: "button", class: both ? "item both" : "item", "aria-expanded": "false", "data-item": item.item_id });
  button.append(
    element("span", { class: "place", text: place + 1 }),
    element("span", { class: "title", dir: "auto", text: item.title }),
    numbers,
  );
  if (both) button.append(element("span", { class: "visually-hidden", text: ", also expected without a history" }));
  const why = element("div", { class: "why", hidden: "" });
  const line = element("li", {}, button, why);
  if (!state.history.length) button.disabled = true;
  const open = async () => {
    button.setAttribute("aria-expanded", "true");
    why.hidden = false;
    const { signal } = round;
    why.replaceChildren(element("p", { class: "quiet", text: "Asking what the history causes …" }));
    try {
      const history = state.history.map((one) => one.item_id);
      const body = { history, item: item.item_id, by: "id", prior: priorOf(model), model: model.name };
      showWhy(why, await call("/v1/explain", body, signal));
    } catch (error) {
      if (!signal.aborted) why.replaceChildren(element("p", { text: `Not explained: ${error.message}.` }));
    }
  };
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-expanded") === "true";
    if (!shown) open();
    else button.setAttribute("aria-expanded", "false");
    why.hidden = shown;
    // Open in another column it stays in the address.
    if (opened().includes(item.item_id)) state.why.add(item.item_id);
    else state.why.delete(item.item_id);
    writeAddress();
  });
  if (state.why.has(item.item_id) && state.history.length) open();
  return line;
}

// ---- why

function showWhy(place, found) {
  const more = found.effect >= 0;
  const factor = Math.exp(Math.abs(found.effect));
  const amount = factor < 1.05 ? "about as likely as" : `${rounded(factor)} times ${more ? "likelier" : "less likely"} than`;
  place.replaceChildren(
    element("p", { text: `With this history it is ${amount} for anyone: ${format(found.effect)} nats (log p ${plain(found.log_p)}, prior ${plain(found.log_prior)}).` }),
    element("h4", { text: "What each title of the history adds" }),
    bars(found.history.map((item) => [item.title, item.effect])),
    element("h4", { text: "Where in the title the effect lies" }),
    bars(pieces(found.tokens)),
    element("p", { class: "quiet small", text: "Nats. The parts of the title add up to the effect. A title of the history shows how much would be lost without it; those need not add up, for one can stand in for another." }),
  );
}

function pieces(tokens) {
  // A choice and the tokens that the catalogue forces after it are one piece.
  const made = [];
  for (const { text, closing, choice, effect } of tokens) {
    if (choice || !made.length) made.push({ text, closing, effect });
    else made.at(-1).text += text;
  }
  const name = ({ text, closing }) => text.trim() || (closing ? "(end of title)" : text ? "(space)" : "(part of a character)");
  return made.map((piece) => [name(piece), piece.effect]);
}

function bars(rows) {
  const values = rows.map(([, value]) => value);
  const low = Math.min(0, ...values), high = Math.max(0, ...values), span = high - low || 1;
  const zero = (100 * -low) / span;
  return element(
    "table",
    { class: "bars" },
    ...rows.map(([label, value]) => {
      const bar = element("i", { class: value < 0 ? "against" : "for" });
      bar.style.left = `${value < 0 ? zero - (100 * -value) / span : zero}%`;
      bar.style.width = `${(100 * Math.abs(value)) / span}%`;
      const scale = element("div", { class: "scale", "aria-hidden": "true" }, bar);
      scale.style.setProperty("--zero", `${zero}%`);
      return element("tr", {}, element("th", { scope: "row", dir: "auto", text: label }), element("td", {}, scale), element("td", { text: format(value) }));
    }),
  );
}

// ---- the beginning

async function begin() {
  try {
    const { cftrec, models } = await call("/v1/model");
    state.models = models.map((model) => ({ ...model, titles: new Map(), place: element("section", { class: "model", "aria-label": model.name }) }));
    $("models").replaceChildren(...state.models.map((model) => model.place));
    const priors = new Set(models.flatMap((model) => model.priors));
    $("prior").replaceChildren(...[...priors].map((name) => element("option", { value: name, text: PRIORS[name][0] })));
    $("about").textContent = `cftrec ${cftrec}. ` + models.map((model) => `${model.name}: ${model.items.toLocaleString("en")} items, ${(model.parameters / 1e6).toFixed(1)} million parameters, shows the model ${model.window} titles at most, version ${model.version}`).join("; ") + ".";
    await fromAddress();
  } catch (error) {
    complain(error, begin);
  }
}

$("bearer").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  $("token").value = "";
  begin();
});
addEventListener("popstate", () => fromAddress().catch((error) => complain(error, begin)));
begin();
