/**
 * A Cloudflare Worker in front of serve_app: passes everything on as it comes. See README.md and docs/proxies.md.
 *
 * Bindings: `ORIGIN`, the server's address, as "https://llm.example.com"; and, if there is one, `RATE_LIMITER`.
 */

const RETRY_AFTER_S = 10;

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    // What operators see is not for everyone.
    if (url.pathname === "/metrics") return refusal(404, "unknown_url", "Unknown path.");
    if (env.RATE_LIMITER !== undefined && counts(url.pathname)) {
      const { success } = await env.RATE_LIMITER.limit({ key: await clientOf(request) });
      if (!success) {
        const headers = { "retry-after": String(RETRY_AFTER_S), "x-should-retry": "true" };
        return refusal(429, "rate_limited", "Too many requests.", headers);
      }
    }

    const headers = new Headers(request.headers);
    if (!headers.has("x-request-id")) headers.set("x-request-id", `req_${crypto.randomUUID()}`);
    try {
      // The body of the answer, and a WebSocket, are handed over as they are: the runtime passes them on without
      // buffering, and cancels this request with the client's.
      return await fetch(env.ORIGIN.replace(/\/$/, "") + url.pathname + url.search, {
        method: request.method,
        headers,
        body: request.body,
        redirect: "manual",
      });
    } catch {
      return refusal(502, "origin_unreachable", "The server cannot be reached.", { "x-should-retry": "true" });
    }
  },
};

/** Whether a request of this path asks for a generation. */
function counts(path) {
  return /^\/(v1\/(chat|completions|responses|ws)|stream$|ws\/)/.test(path);
}

/** Who is counted: whose token it is, by its hash, or else the address. */
async function clientOf(request) {
  const token = request.headers.get("authorization");
  if (token === null) return request.headers.get("cf-connecting-ip") ?? "unknown";
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(token)));
  return Array.from(hash.slice(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** An error in OpenAI's words. */
function refusal(status, code, message, headers = {}) {
  const type = status === 429 ? "rate_limit_error" : status >= 500 ? "server_error" : "invalid_request_error";
  return Response.json({ error: { message, type, param: null, code } }, { status, headers });
}
