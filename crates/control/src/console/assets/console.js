// Keeps an open page up to date. The server sends sections of the page as they change; they are
// merged into what is there, so that focus, selection and scrolling stay where they are.
(() => {
  "use strict";

  const address = document.body.dataset.live;
  const connection = document.getElementById("connection");
  // After a lost connection, wait this long, then twice as long, and so on.
  const FIRST_WAIT_MS = 500;
  const LONGEST_WAIT_MS = 10000;
  // Rows that a table which grows may have.
  const MOST_ROWS = 1000;

  let source = null;
  let timer = 0;
  let wait = FIRST_WAIT_MS;

  function say(words, look) {
    if (connection.textContent !== words) connection.textContent = words;
    connection.className = look;
    connection.hidden = false;
  }

  // Makes `old` like `fresh`, changing as little as possible.
  function merge(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    // Children with ids are followed, so that a new row is put in and the others stay themselves.
    let next = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      if (child.id && next && next.id !== child.id) {
        const known = [...old.children].find((other) => other.id === child.id);
        if (!known) {
          old.insertBefore(child, next);
          continue;
        }
        old.insertBefore(known, next);
        merge(known, child);
      } else if (next) {
        const current = next;
        next = next.nextSibling;
        merge(current, child);
      } else {
        old.append(child);
      }
    }
    while (next) {
      const rest = next;
      next = next.nextSibling;
      rest.remove();
    }
  }

  function take(html) {
    const parsed = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
    const old = parsed && document.getElementById(parsed.id);
    if (old) merge(old, document.importNode(parsed, true));
  }

  // Puts new rows into the table that has them, and lets the oldest go.
  function add(html) {
    const parsed = new DOMParser().parseFromString(html, "text/html").querySelector("tbody");
    const table = parsed && document.getElementById(parsed.id);
    if (!table) return;
    const onTop = table.dataset.order !== "oldest-first";
    for (const row of [...parsed.rows]) {
      const fresh = document.importNode(row, true);
      if (onTop) table.prepend(fresh);
      else table.append(fresh);
    }
    while (table.rows.length > MOST_ROWS) {
      (onTop ? table.lastElementChild : table.firstElementChild).remove();
    }
  }

  function close() {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  }

  function open() {
    close();
    source = new EventSource(address);
    source.addEventListener("open", () => {
      wait = FIRST_WAIT_MS;
      say("Live", "good");
    });
    source.addEventListener("version", (event) => {
      // Control was updated: the page, its script and its look belong together.
      if (event.data !== document.body.dataset.version) location.reload();
    });
    source.addEventListener("section", (event) => take(event.data));
    source.addEventListener("rows", (event) => add(event.data));
    source.addEventListener("signed-out", () => {
      close();
      say("Signed out", "bad");
      location.assign("/console");
    });
    source.addEventListener("gone", () => {
      close();
      location.reload();
    });
    source.addEventListener("error", () => {
      // Whatever it was, a new connection starts from the newest state.
      close();
      say("Reconnecting…", "bad");
      timer = setTimeout(open, wait);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    });
  }

  // Browsers allow few connections to a server. A window that nobody sees needs none.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else open();
  });
  // A page that is left must not be kept alive by its stream.
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && !document.hidden && open());

  say("Connecting…", "");
  if (!document.hidden) open();
})();
