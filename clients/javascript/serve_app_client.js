/**
 * Client for serve_app's chat completions: streams that survive broken connections. No dependencies; runs in browsers
 * and in Node 18 and newer. See README.md beside this file; the types are in serve_app_client.d.ts.
 *
 *     const client = new ServeAppClient("http://127.0.0.1:8000");
 *     for await (const token of client.stream("Hello!")) process.stdout.write(token.text);
 */

const DEFAULTS = {
  firstTokenTimeoutMs: 60_000,
  stallTimeoutMs: 30_000,
  maxRetries: 6,
  baseDelayMs: 250,
  maxDelayMs: 8_000,
  longestRetryAfterMs: 60_000,
};
const CANCEL_TIMEOUT_MS = 2_000;
const MAX_EVENT_CHARACTERS = 16 * 1024 * 1024;
/** Node 18 has it in a module only. */
const webCrypto = globalThis.crypto ?? (await import("node:crypto")).webcrypto;
/** Codes of errors in the middle of a stream after which another attempt can help. */
const PASSING = new Set([
  "queue_full",
  "deadline_unattainable",
  "no_engine_available",
  "engine_lost",
  "channel_lost",
  "stream_stalled",
  "not_continuable",
]);

/** The status that an error in the middle of a stream would have had; by OpenAI's `error.type`. */
const STATUS_OF_TYPE = { invalid_request_error: 400, rate_limit_error: 429 };

/**
 * Every error of this client. `kind` is one of `unreachable`, `stream_lost`, `first_token_timeout`, `stall_timeout`,
 * `deadline_exceeded`, `refused` (4xx), `overloaded` (429, 503) and `server_failed` (other 5xx).
 */
export class ServeAppError extends Error {
  constructor(kind, message, { status, code, param, retryAfterMs, shouldRetry = false, cause } = {}) {
    super(message, { cause });
    this.name = "ServeAppError";
    this.kind = kind;
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfterMs = retryAfterMs;
    this.shouldRetry = shouldRetry;
  }
}

export class ServeAppClient {
  /** `baseUrl` may end in `/v1`; "" is the page's own server. */
  constructor(baseUrl = "", { apiKey, fetch: fetchFunction, random = Math.random, sleep = sleepFor, ...settings } = {}) {
    for (const name of Object.keys(settings)) {
      if (!(name in DEFAULTS)) throw new TypeError(`unknown setting: ${name}`);
    }
    this._base = baseUrl.replace(/\/+$/, "").replace(/\/v1$/, "");
    this._apiKey = apiKey;
    this._fetch = fetchFunction ?? globalThis.fetch.bind(globalThis);
    this._random = random;
    this._sleep = sleep;
    this._settings = { ...DEFAULTS, ...settings };
    this._firstModel = undefined;
  }

  /**
   * The answer as it is generated: an async iterable of tokens, read once. `prompt` is a string or OpenAI chat messages;
   * `signal` (an AbortSignal), `deadlineMs`, `priority` and `model` apart, the options are the body's parameters. Leaving
   * the loop early cancels the generation on the server.
   */
  stream(prompt, options = {}) {
    return new AnswerStream(this, prompt, options);
  }

  /** The whole answer: `{ text, finishReason, usage, model, ttftMs, durationMs, reconnects }`. */
  async ask(prompt, options = {}) {
    const stream = this.stream(prompt, options);
    for await (const token of stream) void token;
    return stream.answer;
  }

  /** Ids of the served models. */
  async models({ signal } = {}) {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this._listModels(signal);
      } catch (error) {
        if (!(error instanceof ServeAppError) || !error.shouldRetry) throw error;
        await this._pause(attempt, error, Infinity, signal);
      }
    }
  }

  async _listModels(signal) {
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), this._settings.firstTokenTimeoutMs);
    const forward = () => limit.abort(signal.reason);
    signal?.throwIfAborted();
    signal?.addEventListener("abort", forward);
    try {
      const response = await this._fetch(`${this._base}/v1/models`, {
        headers: this._authorization(),
        signal: limit.signal,
      });
      if (!response.ok) throw await errorOfResponse(response);
      return (await response.json()).data.map((card) => card.id);
    } catch (error) {
      if (error instanceof ServeAppError) throw error;
      signal?.throwIfAborted();
      throw this._unreachable(error);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", forward);
    }
  }

  async _model(signal) {
    this._firstModel ??= (await this.models({ signal }))[0];
    if (this._firstModel === undefined) throw new ServeAppError("server_failed", "The server serves no model.");
    return this._firstModel;
  }

  /** Without an id, which had not come yet, the key names the stream. */
  async _cancel(streamId, key) {
    try {
      await this._fetch(`${this._base}/v1/streams${streamId === undefined ? "" : `/${streamId}`}`, {
        method: "DELETE",
        headers: { ...this._authorization(), "idempotency-key": key },
        keepalive: true, // also when the page is being left
        signal: AbortSignal.timeout(CANCEL_TIMEOUT_MS),
      });
    } catch {
      // A courtesy: the generation ends by itself after its grace time.
    }
  }

  _authorization() {
    return this._apiKey === undefined ? {} : { authorization: `Bearer ${this._apiKey}` };
  }

  _unreachable(cause) {
    const reason = cause?.cause?.message ?? cause?.message ?? String(cause);
    const message = `${this._base || "The server"} cannot be reached: ${reason}`;
    return new ServeAppError("unreachable", message, { shouldRetry: true, cause });
  }

  /**
   * Wait before retry number `attempt`; throws `error` when there is to be none. Full jitter: M. Brooker, "Exponential
   * Backoff And Jitter", AWS Architecture Blog, 2015.
   */
  async _pause(attempt, error, deadlineAt, signal) {
    const settings = this._settings;
    const askedMs = error.retryAfterMs ?? 0;
    const longestMs = Math.min(settings.maxDelayMs, settings.baseDelayMs * 2 ** Math.min(attempt, 30));
    const pauseMs = askedMs + this._random() * longestMs;
    const tooLong = askedMs > settings.longestRetryAfterMs || performance.now() + pauseMs >= deadlineAt;
    if (attempt >= settings.maxRetries || tooLong) throw error;
    await this._sleep(pauseMs, signal);
  }
}

class AnswerStream {
  constructor(client, prompt, { model, signal, deadlineMs, priority, ...parameters }) {
    this._client = client;
    this._signal = signal;
    this._deadlineMs = deadlineMs;
    this._priority = priority;
    this._body = {
      messages: typeof prompt === "string" ? [{ role: "user", content: prompt }] : prompt,
      stream: true,
      stream_options: { include_usage: true },
      ...parameters,
    };
    this._key = newKey();
    this._lastId = undefined;
    this._connections = 0;
    this._sends = 0;
    this._underWay = false;
    this._fruitless = 0;
    this._failedCode = undefined;
    /** The server's name for the stream; undefined when it does not keep it. */
    this.streamId = undefined;
    /** Output tokens whose text has arrived. */
    this.position = undefined;
    /** Requests ahead in the server's queue; undefined once it runs. */
    this.queuePosition = undefined;
    this.text = "";
    this.model = model;
    this.finishReason = undefined;
    this.usage = undefined;
    this.ended = false;
  }

  /** How often the connection was made anew. */
  get reconnects() {
    return Math.max(this._connections - 1, 0);
  }

  /** The answer as far as it has come. */
  get answer() {
    const { text, finishReason, usage, model, reconnects } = this;
    const ttftMs = this._firstTextAt === undefined ? undefined : this._firstTextAt - this._askedAt;
    const durationMs = (this._endedAt ?? performance.now()) - this._askedAt;
    return { text, finishReason, usage, model, ttftMs, durationMs, reconnects };
  }

  async *[Symbol.asyncIterator]() {
    if (this._askedAt !== undefined) throw new TypeError("a stream is read once");
    this._askedAt = performance.now();
    this._deadlineAt = this._deadlineMs === undefined ? Infinity : this._askedAt + this._deadlineMs;
    try {
      this.model ??= await this._client._model(this._signal);
      this._encoded = JSON.stringify({ model: this.model, ...this._body });
      while (!this.ended) {
        try {
          yield* this._attempt();
        } catch (error) {
          if (error instanceof ServeAppError) this._underWay = false; // it failed, and nobody left
          await this._recover(error);
        }
      }
      yield this._token("");
    } finally {
      const leaves = this.streamId !== undefined || this._underWay;
      if (!this.ended && leaves) await this._client._cancel(this.streamId, this._key);
    }
  }

  /** Wait before the next attempt; throws when there is to be none. */
  async _recover(error) {
    try {
      this._judge(error);
      await this._client._pause(this._fruitless++, error, this._deadlineAt, this._signal);
    } catch (final) {
      // An answer of which only the usage is missing is whole.
      if (!(final instanceof ServeAppError) || this.finishReason === undefined) throw final;
      this._end();
    }
  }

  /** Throws when `error` is final; otherwise decides whether the next attempt resumes or begins anew. */
  _judge(error) {
    if (!(error instanceof ServeAppError)) throw error;
    const late = performance.now() >= this._deadlineAt || error.code === "deadline_exceeded";
    if (error.kind === "deadline_exceeded") throw error;
    if (this._deadlineMs !== undefined && late) throw this._deadlineExceeded(error);
    const resuming = this._lastId !== undefined;
    if (error.status === undefined) {
      if (this.text && !resuming) {
        throw new ServeAppError("stream_lost", "The connection broke, and the server does not resume streams.", {
          cause: error,
        });
      }
      return;
    }
    const gone = resuming && error.status === 404;
    if (gone && this.text) {
      const message = `The answer broke off, and the server cannot go on with it: ${error.message}`;
      throw new ServeAppError("stream_lost", message, { status: 404, code: error.code, cause: error });
    }
    if (!gone && (!error.shouldRetry || (this.text && !resuming))) throw error;
    if (this.text && error.inStream) {
      // Another router may still go on with it; when it says the same, nothing can.
      if (error.code === this._failedCode) throw error;
      this._failedCode = error.code;
    }
    if (!this.text && error.code !== undefined) {
      // The application itself said how that attempt ended: the same key would only bring the same answer.
      this._key = newKey();
      this._lastId = this.streamId = undefined;
    }
  }

  /** One connection: its tokens, until the answer has ended. Throws `ServeAppError`, or what the caller's signal says. */
  async *_attempt() {
    const watch = new Watch(this._client._settings, this._deadlineAt, this._signal, () => this.text !== "");
    let reader;
    try {
      this._connections++;
      this._underWay = true;
      const response = await watch.during((signal) => this._send(signal));
      reader = response.body.getReader();
      const events = new EventReader();
      while (!this.ended) {
        const { done, value } = await watch.during(() => reader.read());
        if (done) throw new Error("the connection ended before the answer did");
        for (const event of events.feed(value)) {
          if (this.ended) break;
          const before = this.position ?? 0;
          const token = this._take(event);
          if (token !== undefined || this.position > before) {
            watch.progressed(); // also without text: a character may be open
            this._fruitless = 0;
          }
          if (token !== undefined) yield token;
        }
      }
    } catch (error) {
      if (error instanceof ServeAppError) throw error;
      this._signal?.throwIfAborted();
      throw watch.error ?? this._client._unreachable(error);
    } finally {
      reader?.cancel().catch(() => {});
      watch.close();
    }
  }

  async _send(signal) {
    const headers = {
      ...this._client._authorization(),
      "content-type": "application/json",
      accept: "text/event-stream",
      "x-stream-resume": "true",
      "idempotency-key": this._key,
      "x-retry-count": String(this._sends++), // "0" spares the server a search for a stream that was never begun
      prefer: "wait=1", // the stream's id and its place in the queue are wanted soon; errors may be events
    };
    if (this._priority !== undefined) headers["x-priority"] = this._priority;
    if (this._lastId !== undefined) headers["last-event-id"] = this._lastId;
    if (this._deadlineAt !== Infinity) {
      const leftMs = Math.floor(this._deadlineAt - performance.now());
      if (leftMs <= 0) throw this._deadlineExceeded();
      headers["x-deadline-ms"] = String(leftMs);
    }
    const url = `${this._client._base}/v1/chat/completions`;
    const response = await this._client._fetch(url, { method: "POST", headers, body: this._encoded, signal });
    if (response.status !== 200) throw await errorOfResponse(response);
    const streamId = response.headers.get("x-stream-id");
    if (streamId !== null) {
      this.streamId = streamId;
      this._lastId ??= `${streamId}.0`;
    }
    return response;
  }

  /** What an event brought: a token, or undefined. */
  _take(event) {
    if (event.comment !== undefined) {
      const queued = /^queued (\d+)$/.exec(event.comment);
      if (queued) this.queuePosition = Number(queued[1]);
      return undefined;
    }
    if (event.data === "[DONE]") {
      this._end();
      return undefined;
    }
    const document = JSON.parse(event.data);
    if (event.event === "error" || document.error !== undefined) throw errorOfEvent(document.error, event.retryMs);
    if (event.id !== undefined) this._arrivedAt(event.id);
    if (document.usage) this.usage = usageOf(document.usage);
    this.model = document.model ?? this.model;
    let text = "";
    for (const choice of document.choices) {
      text += choice.delta.content ?? "";
      this.finishReason = choice.finish_reason ?? this.finishReason;
    }
    if (!text) return undefined;
    this.text += text;
    this._firstTextAt ??= performance.now();
    this._failedCode = undefined;
    this.queuePosition = undefined;
    return this._token(text);
  }

  _arrivedAt(id) {
    this._lastId = id;
    const dot = id.lastIndexOf(".");
    if (dot > 0) this.streamId = id.slice(0, dot);
    const position = id.slice(dot + 1);
    if (/^\d+$/.test(position)) this.position = Number(position);
  }

  /** The last token has no text, but the reason and the usage. */
  _token(text) {
    if (text) return { text, position: this.position };
    return { text, position: this.position, finishReason: this.finishReason, usage: this.usage };
  }

  _end() {
    this.ended = true;
    this._endedAt = performance.now();
  }

  _deadlineExceeded(cause) {
    return new ServeAppError("deadline_exceeded", `The answer was not complete within ${this._deadlineMs} ms.`, { cause });
  }
}

/** The timers of one connection. Only time spent waiting for the server counts, not what the reader of tokens takes. */
class Watch {
  constructor(settings, deadlineAt, signal, begun) {
    this._settings = settings;
    this._deadlineAt = deadlineAt;
    this._signal = signal;
    this._begun = begun;
    this._waitedMs = 0;
    this._controller = new AbortController();
    this._forward = () => this._controller.abort(signal.reason);
    /** The timeout that ended the connection, if one did. */
    this.error = undefined;
    signal?.throwIfAborted();
    signal?.addEventListener("abort", this._forward);
  }

  /** Something new came. */
  progressed() {
    this._waitedMs = 0;
  }

  /** What `wait` gives, unless a timer or the caller's signal is first. */
  async during(wait) {
    const from = performance.now();
    const begun = this._begun();
    const patienceMs = begun ? this._settings.stallTimeoutMs : this._settings.firstTokenTimeoutMs;
    const leftMs = Math.max(Math.min(patienceMs - this._waitedMs, this._deadlineAt - from), 0);
    const signal = this._controller.signal;
    let timer, stop;
    const stopped = new Promise((_, reject) => {
      stop = () => reject(signal.reason);
      if (signal.aborted) return stop();
      signal.addEventListener("abort", stop);
      timer = setTimeout(() => {
        this.error = this._timeout(begun, patienceMs);
        this._controller.abort(this.error);
      }, leftMs);
    });
    try {
      return await Promise.race([wait(signal), stopped]);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      this._waitedMs += performance.now() - from;
    }
  }

  /** Drop the connection. */
  close() {
    this._signal?.removeEventListener("abort", this._forward);
    this._controller.abort();
  }

  _timeout(begun, patienceMs) {
    if (performance.now() >= this._deadlineAt) {
      return new ServeAppError("deadline_exceeded", "The answer was not complete before its deadline.");
    }
    const kind = begun ? "stall_timeout" : "first_token_timeout";
    return new ServeAppError(kind, `No ${begun ? "further" : "first"} token came for ${patienceMs} ms.`, {
      shouldRetry: true,
    });
  }
}

/** Server-sent events out of bytes that arrive in any pieces: HTML Standard, section 9.2.6; comments are events too. */
class EventReader {
  constructor() {
    this._decoder = new TextDecoder();
    this._partial = "";
    this._skipLineFeed = false;
    this._reset();
  }

  *feed(bytes) {
    let text = this._decoder.decode(bytes, { stream: true });
    if (!text) return;
    if (this._skipLineFeed && text.startsWith("\n")) text = text.slice(1);
    this._skipLineFeed = text.endsWith("\r");
    const lines = (this._partial + text).split(/\r\n|\n|\r/);
    this._partial = lines.pop();
    if (this._partial.length > MAX_EVENT_CHARACTERS) throw new Error("the server sent an event that is too long");
    for (const line of lines) {
      if (line === "") {
        const event = this._event;
        this._reset();
        if (event.data !== undefined) yield event;
      } else if (line.startsWith(":")) {
        yield { comment: line.slice(1).trim() };
      } else {
        this._field(line);
      }
    }
  }

  _field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    const event = this._event;
    if (name === "data") event.data = event.data === undefined ? value : `${event.data}\n${value}`;
    else if (name === "event") event.event = value;
    else if (name === "id" && !value.includes("\0")) event.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) event.retryMs = Number(value);
  }

  _reset() {
    this._event = { data: undefined, event: undefined, id: undefined, retryMs: undefined };
  }
}

async function errorOfResponse(response) {
  const { status, headers } = response;
  const body = await response.text();
  const { message, code, param } = errorDocument(body);
  const told = headers.get("x-should-retry");
  const shouldRetry = told === null ? status === 408 || status === 425 || status === 429 || status >= 500 : told === "true";
  return new ServeAppError(kindOf(status), message || `HTTP status ${status}`, {
    status,
    code,
    param,
    retryAfterMs: retryAfterMs(headers),
    shouldRetry,
  });
}

function errorOfEvent(document, retryMs) {
  const code = document?.code ?? undefined;
  const shouldRetry = PASSING.has(code);
  const status = STATUS_OF_TYPE[document?.type] ?? (shouldRetry ? 503 : 500);
  const error = new ServeAppError(kindOf(status), document?.message ?? "The stream failed.", {
    status,
    code,
    param: document?.param ?? undefined,
    retryAfterMs: retryMs,
    shouldRetry,
  });
  error.inStream = true;
  return error;
}

function errorDocument(body) {
  try {
    const { message, code, param } = JSON.parse(body).error;
    return { message: String(message), code: code ?? undefined, param: param ?? undefined };
  } catch {
    return { message: body.trim().split("\n", 1)[0].slice(0, 200) };
  }
}

function kindOf(status) {
  if (status === 429 || status === 503) return "overloaded";
  return status >= 500 ? "server_failed" : "refused";
}

function retryAfterMs(headers) {
  for (const [name, unitMs] of [["retry-after-ms", 1], ["retry-after", 1000]]) {
    const text = headers.get(name);
    if (text !== null && /^\d+(\.\d+)?$/.test(text.trim())) return Number(text) * unitMs;
  }
  const waitMs = Date.parse(headers.get("retry-after")) - Date.parse(headers.get("date"));
  return Number.isNaN(waitMs) ? undefined : Math.max(waitMs, 0);
}

function usageOf(document) {
  return {
    promptTokens: document.prompt_tokens,
    completionTokens: document.completion_tokens,
    cachedTokens: document.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

/** 128 random bits; `crypto.randomUUID` is missing on pages without TLS. */
function newKey() {
  const bytes = webCrypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Resolves after `ms` milliseconds; rejects with the signal's reason when that comes first. */
export function sleepFor(ms, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
