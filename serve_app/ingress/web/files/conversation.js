/** What was said so far, as the model is told it. Knows nothing of the page. */

export class Conversation {
  constructor() {
    this.clear();
  }

  clear() {
    this._exchanges = [];
  }

  /** A new question, not answered yet. */
  ask(question) {
    const exchange = { question, answer: "" };
    this._exchanges.push(exchange);
    return exchange;
  }

  /** The messages to send for `exchange`: what was answered before it, and its question. */
  messages(exchange, system) {
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const each of this._exchanges) {
      if (each === exchange) break;
      // A question without an answer would be answered again with the next one.
      if (!each.answer) continue;
      messages.push({ role: "user", content: each.question }, { role: "assistant", content: each.answer });
    }
    messages.push({ role: "user", content: exchange.question });
    return messages;
  }
}
