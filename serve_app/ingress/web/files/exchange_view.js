/** A question and its answer in the page. What the model says is only ever text, never markup. */

export class ExchangeView {
  constructor(parent, question) {
    this._parent = parent;
    const mine = element("article", "mine");
    mine.append(element("h2", "", "You"), element("p", "text", question));
    this._answer = element("article", "answer");
    this._text = element("p", "text");
    this._facts = element("p", "facts");
    this._answer.append(element("h2", "", "Model"), this._text, this._facts);
    parent.append(mine, this._answer);
  }

  /** An answer begins, with nothing of an earlier attempt. Screen readers wait until it is whole. */
  begin() {
    for (const each of this._answer.querySelectorAll(".notice, .error")) each.remove();
    this._words = document.createTextNode("");
    this._text.replaceChildren(this._words);
    this._facts.textContent = "";
    this._answer.setAttribute("aria-busy", "true");
  }

  append(text) {
    this._words.appendData(text);
  }

  facts(text) {
    this._facts.textContent = text;
  }

  /** Something about this answer that the reader should know. */
  notice(text) {
    this._answer.insertBefore(element("p", "notice", text), this._facts);
  }

  error(text, again) {
    const box = element("div", "error");
    box.setAttribute("role", "alert");
    const button = element("button", "", "Try again");
    button.type = "button";
    button.addEventListener("click", again);
    box.append(element("p", "", text), button);
    this._answer.append(box);
  }

  end() {
    this._answer.removeAttribute("aria-busy");
  }
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
