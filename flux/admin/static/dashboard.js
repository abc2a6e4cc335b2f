// The dashboard: asks /api/overview every few seconds and shows what it says. All text goes in as text.

const EVERY = 5000;
const SAMPLES = 180;
const SURE_FOR = 4000;
const COLOURS = 6;
const STATES = { up: "good", draining: "warn", unready: "bad", down: "bad", stopped: "", unknown: "warn" };

const at = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") ?? "";
let timer = 0;
const failed = new Map(); // server -> what went wrong with the last button
const busy = new Set();

// --- the server ---

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers, cache: "no-store", signal: AbortSignal.timeout(10000) };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused(0, "the server does not answer");
  }
  const value = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, value?.detail ?? `status ${answer.status}`);
  return value;
}

async function look() {
  clearTimeout(timer);
  try {
    show(await ask(`/api/overview?samples=${SAMPLES}`));
    at("away").hidden = true;
  } catch (error) {
    if (error.status === 401) {
      want();
      return;
    }
    at("away").textContent = `What you see is old: ${error.message}.`;
    at("away").hidden = false;
    pill(at("state"), "no answer", "bad");
  }
  timer = setTimeout(look, document.hidden ? EVERY * 6 : EVERY);
}

function want() {
  at("wrong").hidden = !token;
  at("wrong").textContent = "This is not the token.";
  at("ask").hidden = false;
  at("all").hidden = true;
  pill(at("state"), "token needed", "");
  at("token").focus();
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem("token", token);
  look();
});
document.addEventListener("visibilitychange", () => document.hidden || look());

// --- elements ---

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function pill(where, text, kind) {
  where.textContent = text;
  where.className = `pill ${kind}`;
  return where;
}

// --- numbers in words ---

const whole = (value) => Math.round(value).toLocaleString("en");
const few = (value) => (value >= 100 || value === 0 ? whole(value) : value.toPrecision(2).replace(/\.0$/, ""));
const perSecond = (value) => `${few(value)}/s`;
const percent = (value) => `${few(value * 100)} %`;
const megabytes = (value) => `${whole(value / 1e6)} MB`;
const time = (value) => (value >= 1 ? `${few(value)} s` : `${few(value * 1000)} ms`);

function span(seconds) {
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

// --- curves ---

function path(values, top, kind) {
  // Where nothing is known the line has a gap; a lone point is a short stroke.
  const last = Math.max(1, values.length - 1);
  let line = "";
  let drawing = false;
  values.forEach((value, index) => {
    if (value === null) {
      drawing = false;
      return;
    }
    const x = ((index / last) * 100).toFixed(2);
    const y = (98 - (Math.min(value, top) / top) * 96).toFixed(2);
    line += drawing ? `L${x} ${y}` : `M${x} ${y}h0.2`;
    drawing = true;
  });
  return svg("path", { d: line, class: kind });
}

function curves(lines, top, className) {
  const paths = lines.map((values, index) => path(values, top, `k${index % COLOURS}`));
  return svg("svg", { class: className, viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" }, ...paths);
}

function highest(lines) {
  return lines.flat().reduce((most, value) => (value > most ? value : most), 0);
}

function roundUp(value) {
  if (!value) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * step).find((candidate) => candidate >= value * 0.999);
}

function chart(title, lines, inWords, age) {
  const names = Object.keys(lines);
  const values = Object.values(lines);
  const top = roundUp(highest(values));
  const legend = names.map((name, index) => {
    const now = values[index].at(-1) ?? null;
    return element("li", { className: `k${index % COLOURS}` }, `${name} ${now === null ? "–" : inWords(now)}`);
  });
  const oldest = age[0] ?? 0;
  return element(
    "figure", {},
    element("figcaption", {}, element("b", { textContent: title }), element("ul", { className: "legend" }, ...legend)),
    element(
      "div", { className: "plot" },
      element("div", { className: "scale" }, element("span", { textContent: inWords(top) }), element("span", { textContent: "0" })),
      curves(values, top, "chart"),
      element("div", { className: "time" }, element("span", { textContent: oldest ? `${span(oldest)} ago` : "" }), element("span", { textContent: "now" })),
    ),
  );
}

// --- the page ---

function show(seen) {
  at("ask").hidden = true;
  at("all").hidden = false;
  const { process, problems, numbers, curves: past } = seen;
  at("name").textContent = process.name || process.roles.join(" + ");
  document.title = process.name ? `flux ${process.name}` : "flux";
  at("about").textContent = `version ${process.version}, process ${process.pid}, up for ${span(process.uptime)}`;
  if (problems.length) pill(at("state"), "not ready", "bad");
  else pill(at("state"), "ready", "good");
  at("problems").hidden = !problems.length;
  at("problems").replaceChildren(...problems.map((text) => element("li", { textContent: text })));
  showNow(numbers, past);
  showServers(seen.servers, seen.servers_problem);
  showBackends(seen.backends);
  showCurves(past);
}

function tile(title, value, inWords, values, more) {
  const text = value === undefined ? "–" : inWords(value);
  const shown = element("dd", {}, text);
  if (more) shown.append(" ", element("small", { textContent: more }));
  const about = element("div", {}, element("dt", { textContent: title }), shown);
  if (values) about.append(curves([values], highest([values]) || 1, "spark"));
  return about;
}

function showNow(now, past) {
  const tiles = [];
  if (now.sessions !== undefined) {
    const behind = now.sessions_behind ? `${whole(now.sessions_behind)} behind` : "";
    tiles.push(
      tile("sessions", now.sessions, whole, past.sessions, behind),
      tile("connections", now.connections, whole),
      tile("addresses banned", now.bans, whole, null, now.offences ? `${few(now.offences)} offences/s` : ""),
      tile("stored", now.messages, perSecond, past.messages),
      tile("delivered", now.delivered, perSecond, past.delivered),
      tile("commit, p50", now.commit_median, time, past.commit_median),
      tile("commit, p99", now.commit_slow, time, past.commit_slow),
      tile("to be stored", now.commits_waiting, whole),
    );
  }
  tiles.push(
    tile("reactor lag", now.lag, time, past.lag),
    tile("processor", now.cpu, percent, past.cpu),
    tile("memory", now.process_resident_memory_bytes, megabytes),
  );
  at("now").replaceChildren(...tiles);
}

function showServers(servers, problem) {
  at("servers-problem").hidden = !problem;
  at("servers-problem").textContent = problem ? `As of some time ago: ${problem}` : "";
  const most = Math.max(1, ...servers.map((server) => server.sessions + server.reserved));
  const focused = document.activeElement?.dataset?.server;
  const rows = servers.flatMap((server) => {
    const problem = failed.get(server.name);
    if (!problem) return [row(server, most)];
    const told = element("td", { className: "failed error", colSpan: 6, textContent: `${server.name}: ${problem}` });
    told.setAttribute("role", "alert");
    return [row(server, most), element("tr", { className: "after" }, told)];
  });
  if (!rows.length) rows.push(element("tr", {}, element("td", { className: "wide faint", colSpan: 6, textContent: "no chat server is known" })));
  at("servers").replaceChildren(...rows);
  if (focused) [...document.querySelectorAll("button[data-server]")].find((each) => each.dataset.server === focused)?.focus();
}

function row(server, most) {
  const load = server.sessions + server.reserved;
  const bar = element("span");
  bar.style.width = `${Math.min(100, (load / (server.capacity || most)) * 100)}%`;
  const words = [`${whole(server.sessions)}`];
  if (server.capacity) words.push(`of ${whole(server.capacity)}`);
  if (server.reserved) words.push(`+ ${whole(server.reserved)} coming`);
  const heard = server.heartbeat_age < 0 ? "never" : `${server.heartbeat_age.toFixed(1)} s ago`;
  const act = element("td", { className: "act" }, button(server));
  // A server that is down with nothing wrong has stopped in order.
  const state = server.state === "down" && !server.why ? "stopped" : server.state;
  return element(
    "tr", {},
    element("td", {}, element("b", { textContent: server.name })),
    element("td", { className: "where", textContent: server.host.includes(":") ? `[${server.host}]:${server.port}` : `${server.host}:${server.port}` }),
    element("td", {}, pill(element("span", { title: server.why }), state, STATES[state])),
    element("td", { className: "load-cell" }, element("div", { className: "load" }, element("div", { className: "bar" }, bar), element("span", { textContent: words.join(" ") }))),
    element("td", { className: "number", textContent: heard }),
    act,
  );
}

let sure = "";

function button(server) {
  const draining = server.state === "draining";
  const made = element("button", { type: "button", disabled: busy.has(server.name) || server.state === "down" });
  made.dataset.server = server.name;
  made.textContent = draining ? "Resume" : sure === server.name ? "Really drain?" : "Drain";
  made.classList.toggle("sure", !draining && sure === server.name);
  made.setAttribute("aria-label", `${made.textContent} ${server.name}`);
  made.addEventListener("click", () => {
    if (!draining && sure !== server.name) {
      sure = server.name;
      made.textContent = "Really drain?";
      made.setAttribute("aria-label", `Really drain ${server.name}?`);
      made.classList.add("sure");
      setTimeout(() => {
        if (sure !== server.name) return;
        sure = "";
        look();
      }, SURE_FOR);
      return;
    }
    sure = "";
    made.disabled = true;
    act(draining ? "resume" : "drain", server.name);
  });
  return made;
}

async function act(what, server) {
  busy.add(server);
  failed.delete(server);
  try {
    await ask(`/api/${what}`, { server });
  } catch (error) {
    failed.set(server, `not done: ${error.message}`);
  }
  busy.delete(server);
  look();
}

function showBackends(backends) {
  const items = backends.map((backend) => {
    const item = element(
      "li", {},
      element("b", { textContent: backend.name }),
      pill(element("span"), backend.up ? "up" : "away", backend.up ? "good" : "bad"),
      element("span", { className: "number faint", textContent: backend.up ? time(backend.seconds) : "" }),
    );
    if (!backend.up) item.append(element("p", { className: "error", textContent: backend.problem }));
    return item;
  });
  at("backends").replaceChildren(...items);
}

function showCurves(past) {
  const charts = [];
  const minutes = Math.round((past.age[0] ?? 0) / 60);
  at("span").textContent = minutes > 1 ? `${minutes} minutes` : "minute";
  if (past.messages.some((value) => value !== null)) {
    charts.push(
      chart("Messages", { stored: past.messages, delivered: past.delivered }, perSecond, past.age),
      chart("Commit", { p50: past.commit_median, p99: past.commit_slow }, time, past.age),
      chart("Sessions", { "logged in": past.sessions }, whole, past.age),
    );
  }
  if (Object.keys(past.assignments).length) charts.push(chart("Assignments", past.assignments, perSecond, past.age));
  charts.push(
    chart("Processor", { "of one": past.cpu }, percent, past.age),
    chart("Reactor lag", { mean: past.lag }, time, past.age),
  );
  at("charts").replaceChildren(...charts);
}

look();
