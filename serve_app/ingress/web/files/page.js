/** The chat page: sends what is typed, shows the answer as it comes, and says what is going on meanwhile. */

import { Conversation } from "./conversation.js";
import { ExchangeView } from "./exchange_view.js";
import { ServeAppClient, sleepFor } from "./serve_app_client.js";

const SHOW_EVERY_MS = 200;
const NEAR_END_PX = 60;
/** Where the API is: the page may be served below a prefix. */
const BASE_URL = new URL("..", import.meta.url).href;

const $ = (id) => document.getElementById(id);
const conversation = new Conversation();
let running;

/** What the client does between tokens, in words; its hooks are the client's own `fetch` and `sleep`. */
class Connection {
  constructor(show) {
    this._show = show;
    this._attempts = 0;
    this._trouble = "";
    /** Called with the position (tokens) at which a broken answer goes on. */
    this.onResumed = () => {};
  }

  fetch = async (url, init) => {
    if (init.method !== "POST") return fetch(url, init);
    if (this._attempts++ > 0) this._show(`${this._trouble} Reconnecting…`);
    this._trouble = "The connection broke.";
    const response = await fetch(url, init);
    if (!response.ok) this._trouble = await troubleOf(response.clone());
    else if (this._attempts > 1) {
      this._show("");
      const position = Number(init.headers["last-event-id"]?.split(".").pop() ?? 0);
      if (position > 0) this.onResumed(position);
    }
    return response;
  };

  sleep = async (ms, signal) => {
    const until = performance.now() + ms;
    for (let left = ms; left > 0; left = until - performance.now()) {
      this._show(`${this._trouble} Trying again in ${Math.ceil(left / 1000)} s.`);
      await sleepFor(Math.min(left, SHOW_EVERY_MS), signal);
    }
  };
}

async function troubleOf(response) {
  try {
    const { message } = (await response.json()).error;
    return response.status === 429 ? `The server is busy. ${message}` : message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

function clientWith(connection) {
  const { fetch, sleep } = connection;
  return new ServeAppClient(BASE_URL, { apiKey: $("api-key").value || undefined, fetch, sleep });
}

function show(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function parameters() {
  const found = { model: $("model").value || undefined };
  if ($("max-tokens").value) found.max_tokens = Number($("max-tokens").value);
  if ($("temperature").value) found.temperature = Number($("temperature").value);
  return found;
}

/** Time to first token, speed and length, as far as they are known. */
function factsOf(stream, first) {
  const { ttftMs, durationMs, reconnects } = stream.answer;
  if (ttftMs === undefined) return "";
  const tokens = stream.usage?.completionTokens ?? stream.position;
  const facts = [`TTFT ${(ttftMs / 1000).toFixed(2)} s`];
  const seconds = (durationMs - ttftMs) / 1000;
  if (tokens > first && seconds > 0) facts.push(`${((tokens - first) / seconds).toFixed(1)} tokens/s`);
  if (tokens !== undefined) facts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (reconnects) facts.push(`${reconnects} ${reconnects === 1 ? "reconnect" : "reconnects"}`);
  return facts.join(" · ");
}

function queueText(place) {
  if (place === 0) return "Waiting: next in line.";
  return `Waiting: ${place} ${place === 1 ? "request" : "requests"} ahead in the queue.`;
}

async function answer(exchange, view) {
  const stop = (running = new AbortController());
  const connection = new Connection(show);
  connection.onResumed = (position) => view.notice(`The connection broke; resumed after token ${position}.`);
  busy(true);
  view.begin();
  show("Sent. Waiting for the first token…");
  const options = { ...parameters(), signal: stop.signal };
  const stream = clientWith(connection).stream(conversation.messages(exchange, $("system").value), options);
  let first;
  const refresh = () => {
    if (stream.queuePosition !== undefined) show(queueText(stream.queuePosition));
    view.facts(factsOf(stream, first));
  };
  const timer = setInterval(refresh, SHOW_EVERY_MS);
  try {
    for await (const token of stream) {
      if (!token.text) continue;
      if (first === undefined) {
        first = token.position ?? 1;
        show("");
      }
      const follow = nearEnd();
      view.append(token.text);
      if (follow) toEnd();
    }
    if (stream.finishReason === "length") view.notice("Ended at the most tokens allowed.");
    show("Done.");
  } catch (error) {
    if (stop.signal.aborted) {
      view.notice("Stopped.");
      show("Stopped.");
    } else {
      view.error(error.message, () => answer(exchange, view));
      show("");
    }
  } finally {
    clearInterval(timer);
    exchange.answer = stream.text;
    view.facts(factsOf(stream, first));
    view.end();
    running = undefined;
    busy(false);
  }
}

function busy(on) {
  const hadFocus = document.activeElement === $("stop");
  $("send").hidden = on;
  $("stop").hidden = !on;
  for (const each of document.querySelectorAll(".error button")) each.disabled = on;
  if (hadFocus && !on) $("prompt").focus();
}

function nearEnd() {
  const main = $("conversation");
  return main.scrollHeight - main.scrollTop - main.clientHeight < NEAR_END_PX;
}

function toEnd() {
  $("conversation").scrollTop = $("conversation").scrollHeight;
}

function send() {
  const question = $("prompt").value.trim();
  if (!question || running) return;
  $("prompt").value = "";
  $("empty").hidden = true;
  const view = new ExchangeView($("exchanges"), question);
  toEnd();
  answer(conversation.ask(question), view);
}

async function listModels() {
  const chosen = $("model").value;
  try {
    const ids = await clientWith(new Connection(show)).models();
    $("model").replaceChildren(...ids.map((id) => new Option(id, id, false, id === chosen)));
    show(ids.length ? "" : "The server serves no model.");
  } catch (error) {
    show(error.message);
  }
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("prompt").addEventListener("keydown", (event) => {
  // While an input method composes, Enter chooses a word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => {
  running?.abort();
  conversation.clear();
  $("exchanges").replaceChildren();
  $("empty").hidden = false;
  show("");
  $("prompt").focus();
});
$("api-key").addEventListener("change", listModels);
// Else the server would keep the answer for a reader who does not come back.
addEventListener("pagehide", () => running?.abort());

listModels();
$("prompt").focus();
