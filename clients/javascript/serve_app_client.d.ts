export interface Usage {
  promptTokens: number;
  completionTokens: number;
  /** Prompt tokens that came from the prefix cache. */
  cachedTokens: number;
}

/** A piece of the answer, usually one token. The last one has no text, but `finishReason` and `usage`. */
export interface Token {
  text: string;
  /** Output tokens whose text has arrived with this one; undefined when the server does not number them. */
  position: number | undefined;
  finishReason?: string;
  usage?: Usage;
}

export interface Answer {
  text: string;
  finishReason: string | undefined;
  usage: Usage | undefined;
  model: string | undefined;
  ttftMs: number | undefined;
  durationMs: number;
  reconnects: number;
}

export type Message = { role: string; content: unknown };

export interface AskOptions {
  /** The server's first model if not given. */
  model?: string;
  /** Ends the answer, also on the server; the loop then throws the signal's reason. */
  signal?: AbortSignal;
  /** Milliseconds from now after which the answer is of no use. */
  deadlineMs?: number;
  priority?: "interactive" | "default" | "batch";
  max_tokens?: number;
  temperature?: number;
  /** Further parameters of the request's body. */
  [parameter: string]: unknown;
}

export interface Settings {
  apiKey?: string;
  /** Milliseconds from sending until the first token, after which the connection is made anew; 60,000. */
  firstTokenTimeoutMs?: number;
  /** Milliseconds without a further token after which the answer is resumed; 30,000. */
  stallTimeoutMs?: number;
  /** Attempts without a new token before an answer is given up; 6. */
  maxRetries?: number;
  /** Upper end of the first pause, which doubles with each retry; 250. */
  baseDelayMs?: number;
  maxDelayMs?: number;
  /** When the server asks to wait longer, the error is thrown at once; 60,000. */
  longestRetryAfterMs?: number;
  fetch?: typeof fetch;
  random?: () => number;
  sleep?: (ms: number, signal?: AbortSignal) => Promise<void>;
}

export type ErrorKind =
  | "unreachable"
  | "stream_lost"
  | "first_token_timeout"
  | "stall_timeout"
  | "deadline_exceeded"
  | "refused"
  | "overloaded"
  | "server_failed";

export class ServeAppError extends Error {
  readonly kind: ErrorKind;
  readonly status: number | undefined;
  readonly code: string | undefined;
  readonly param: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly shouldRetry: boolean;
}

export interface AnswerStream extends AsyncIterable<Token> {
  readonly streamId: string | undefined;
  readonly position: number | undefined;
  readonly queuePosition: number | undefined;
  readonly text: string;
  readonly model: string | undefined;
  readonly finishReason: string | undefined;
  readonly usage: Usage | undefined;
  readonly ended: boolean;
  readonly reconnects: number;
  readonly answer: Answer;
}

export class ServeAppClient {
  constructor(baseUrl?: string, settings?: Settings);
  stream(prompt: string | Message[], options?: AskOptions): AnswerStream;
  ask(prompt: string | Message[], options?: AskOptions): Promise<Answer>;
  models(options?: { signal?: AbortSignal }): Promise<string[]>;
}

export function sleepFor(ms: number, signal?: AbortSignal): Promise<void>;
