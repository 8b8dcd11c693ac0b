// The status page: asks the daemon every second while somebody looks, and shows what it says.

const STATUS_EVERY = 1000;
const LAG_EVERY = 5000;
// A daemon that runs answers from memory.
const PATIENCE = 5000;
// A table of more rows is of no use to a person.
const MOST_TABLES = 1000;

const MOODS = {
  streaming: "good", applying: "good", ready: "good", retrying: "bad", halted: "bad", failed: "bad",
  quarantined: "bad",
};
const MEANINGS = {
  connecting: "connecting", standby: "standing by", copying: "copying", streaming: "streaming",
  applying: "in step with the stream", retrying: "trying again", draining: "finishing", halted: "halted",
  paused: "paused",
};

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

// Only what has changed is touched: the rest stays as a screen reader, or a selection, has it.
function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function field(card, name, value) {
  text(card.querySelector(`[data-field=${name}]`), value);
}

function mood(element, value) {
  if (element.dataset.mood !== value) element.dataset.mood = value;
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function bytes(value) {
  if (value === null || value === undefined) return "not known";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "not known";
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 100) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);

function kinds(counts) {
  const some = Object.entries(counts).filter(([, count]) => count > 0);
  const total = number.format(sum(counts));
  return some.length === 0 ? total : `${total} (${some.map(([k, n]) => `${number.format(n)} ${k}`).join(", ")})`;
}

// Transactions of each target at the last answer, for its rate.
const before = new Map();

function rate(target, now) {
  const last = before.get(target.name);
  before.set(target.name, { at: now, transactions: target.transactions });
  if (!last || now <= last.at || target.transactions < last.transactions) return "";
  const seconds = (now - last.at) / 1000;
  return `, ${number.format(Math.round((target.transactions - last.transactions) / seconds))} a second`;
}

function showError(card, error, current) {
  const place = card.querySelector(".error");
  place.hidden = !error;
  if (!error) return;
  const when = `${current ? "Error" : "Last error, which has passed"}, ${new Date(error.at).toLocaleString()}`;
  const shown = [when, error.message, error.hint ?? ""].join("\n");
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren(element("p", { class: "when" }, when), element("p", {}, error.message));
  if (error.hint) place.append(element("p", { class: "way-out" }, `What helps: ${error.hint}`));
}

function showState(card, state) {
  mood(card.querySelector(".state"), MOODS[state] ?? "busy");
  field(card, "state", MEANINGS[state] ?? state);
}

function showSource(source) {
  const card = byId("source");
  showState(card, source.state);
  field(card, "slot", source.slot_state);
  field(card, "retained", bytes(source.retained_wal_bytes));
  field(card, "safe", source.safe_wal_bytes === null ? "no limit known" : bytes(source.safe_wal_bytes));
  field(card, "received", source.received_lsn ?? "–");
  field(card, "confirmed", source.confirmed_lsn ?? "–");
  field(card, "reconnects", number.format(source.reconnects));
  showError(card, source.last_error, MOODS[source.state] === "bad");
}

const cards = new Map();

function cardOf(name) {
  if (!cards.has(name)) {
    const card = byId("target-card").content.firstElementChild.cloneNode(true);
    field(card, "name", name);
    card.setAttribute("aria-label", `Target ${name}`);
    cards.set(name, card);
    byId("targets").append(card);
  }
  return cards.get(name);
}

function showTarget(target, now) {
  const card = cardOf(target.name);
  showState(card, target.state);
  if (target.paused_at) field(card, "state", `paused since ${new Date(target.paused_at).toLocaleString()}`);
  field(card, "lag", duration(target.lag_seconds));
  field(card, "behind", bytes(target.lag_bytes));
  field(card, "transactions", number.format(target.transactions) + rate(target, now));
  field(card, "rows", kinds(target.rows));
  field(card, "queue", bytes(target.queue_bytes));
  field(card, "durable", target.durable_lsn ?? "–");
  field(card, "conflicts", kinds(target.conflicts));
  field(card, "retries", number.format(target.retries));
  showError(card, target.last_error, MOODS[target.state] === "bad");
}

function forget(names) {
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    card.remove();
    cards.delete(name);
    before.delete(name);
  }
}

// The state, and how far a copy is, as far as that is known: what is read may be more than the table's size.
function progress(table) {
  if (table.state !== "copying" || !table.size_bytes) return table.state;
  const part = Math.min(table.bytes / table.size_bytes, 0.99);
  const percent = `copying, about ${Math.round(part * 100)} %`;
  const name = `Copy of ${table.schema}.${table.name}`;
  const bar = element("progress", { max: "1", value: String(part), "aria-label": name });
  return element("span", {}, `${percent} `, bar);
}

function tableOf(tables) {
  const heads = [["Target"], ["Table"], ["State"], ["Rows copied", "number"], ["Read", "number"]];
  const title = ([name, kind]) => element("th", { scope: "col", class: kind ?? "" }, name);
  const head = element("tr", {}, ...heads.map(title));
  const rows = tables.slice(0, MOST_TABLES).map((table) => element("tr", {},
    element("td", {}, table.target),
    element("td", {}, `${table.schema}.${table.name}`),
    element("td", {}, progress(table)),
    element("td", { class: "number" }, number.format(table.rows)),
    element("td", { class: "number" }, bytes(table.bytes))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function showTable(place, tables) {
  const shown = JSON.stringify(tables);
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  const note = tables.length > MOST_TABLES ? [`The first ${number.format(MOST_TABLES)}:`] : [];
  place.replaceChildren(...(tables.length === 0 ? [] : [...note, tableOf(tables)]));
}

function showTables(tables) {
  const finished = (table) => table.state === "ready" || table.state === "copied";
  const order = ["quarantined", "failed", "paused", "copying", "pending"];
  const others = tables.filter((table) => !finished(table));
  others.sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
  const done = tables.length - others.length;
  text(byId("tables-summary"), `${number.format(done)} of ${number.format(tables.length)} tables are copied.`);
  const unfinished = byId("unfinished");
  unfinished.hidden = others.length === 0;
  showTable(unfinished, others);
  const all = byId("all-tables");
  all.hidden = tables.length === 0;
  if (all.open) showTable(all.querySelector(".scroll"), tables);
}

function showStatus(status) {
  const well = status.ready && status.problems.length === 0 ? "good" : status.standby || !isBad(status) ? "busy" : "bad";
  document.title = `${well === "bad" ? "✕ " : ""}${status.stream} – walferry`;
  text(byId("stream"), `stream ${status.stream}`);
  text(byId("version"), `version ${status.version}`);
  mood(byId("summary"), well);
  text(byId("summary"), status.summary);
  const problems = status.standby || status.problems.length < 2 ? [] : status.problems;
  const list = byId("problems");
  list.hidden = problems.length === 0;
  if (list.dataset.shown !== problems.join("\n")) {
    list.dataset.shown = problems.join("\n");
    list.replaceChildren(...problems.map((problem) => element("li", {}, problem)));
  }
  showSource(status.source);
  forget(new Set(status.targets.map((target) => target.name)));
  const now = performance.now();
  for (const target of status.targets) showTarget(target, now);
  showTables(status.tables);
}

function isBad(status) {
  const states = [status.source, ...status.targets, ...status.tables].map((part) => part.state);
  return status.dead !== null || states.some((state) => MOODS[state] === "bad");
}

// The lag as a path of 600 by 80, the last window at the right end. Where it is not known there is a gap.
function paths(windows, most) {
  const width = 600 / 119;
  const y = (lag) => 78 - (lag / most) * 74;
  let line = "";
  let area = "";
  let start = null;
  windows.forEach((lag, place) => {
    const x = 600 - (windows.length - 1 - place) * width;
    if (lag === null) {
      if (start !== null) area += `L${(x - width).toFixed(1)} 80Z`;
      start = null;
      return;
    }
    const point = `${x.toFixed(1)} ${y(lag).toFixed(1)}`;
    area += start === null ? `M${x.toFixed(1)} 80L${point}` : `L${point}`;
    line += `${start === null ? "M" : "L"}${point}`;
    start = x;
  });
  return [line, start === null ? area : `${area}L600 80Z`];
}

function showLag(report) {
  for (const [name, windows] of Object.entries(report.targets)) {
    const card = cards.get(name);
    if (!card) continue;
    const known = windows.filter((lag) => lag !== null);
    const peak = known.length === 0 ? null : Math.max(...known);
    const [line, area] = paths(windows, Math.max(1, peak ?? 0));
    card.querySelector(".line").setAttribute("d", line);
    card.querySelector(".area").setAttribute("d", area);
    const minutes = Math.max(1, Math.round((windows.length * report.window_seconds) / 60));
    const over = `over the last ${minutes === 1 ? "minute" : `${minutes} minutes`}`;
    field(card, "peak", `Lag ${over}; at most ${duration(peak)}`);
    card.querySelector("svg").setAttribute("aria-label", `Lag ${over}, at most ${duration(peak)}`);
  }
}

let answered = new Date();

async function ask(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

function showSilence(silent) {
  document.body.classList.toggle("stale", silent);
  const place = byId("silence");
  place.hidden = !silent;
  byId("summary").hidden = silent;
  const since = answered.toLocaleTimeString();
  if (silent) text(place, `The daemon has not answered since ${since}; below is what it said then.`);
}

async function look(path, show) {
  if (document.hidden) return;
  try {
    show(await ask(path));
    answered = new Date();
    showSilence(false);
  } catch {
    showSilence(true);
  }
}

// One question at a time: the next is asked so long after the last was answered.
async function keepLooking(path, show, every) {
  for (;;) {
    await look(path, show);
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}

await look("api/v1/status", showStatus);
keepLooking("api/v1/status", showStatus, STATUS_EVERY);
keepLooking("api/v1/lag", showLag, LAG_EVERY);
byId("all-tables").addEventListener("toggle", () => look("api/v1/status", showStatus));
document.addEventListener("visibilitychange", () => look("api/v1/status", showStatus));
