"use strict";
(() => {
  const CLASSES = ["clean answer", "corrupted answer", "other", "gibberish"];
  const tooltip = document.getElementById("tooltip");

  function showTip(target, x, y) {
    tooltip.textContent = target.dataset.tip;
    tooltip.hidden = false;
    const box = tooltip.getBoundingClientRect();
    const left = Math.min(x + 14, window.innerWidth - box.width - 8);
    const top = y + 18 + box.height > window.innerHeight ? y - box.height - 10 : y + 18;
    tooltip.style.left = Math.max(4, left) + "px";
    tooltip.style.top = Math.max(4, top) + "px";
  }
  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest ? event.target.closest("[data-tip]") : null;
    if (target) showTip(target, event.clientX, event.clientY);
    else tooltip.hidden = true;
  });
  document.addEventListener("pointerdown", (event) => {
    const target = event.target.closest ? event.target.closest("[data-tip]") : null;
    if (target) showTip(target, event.clientX, event.clientY);
    else tooltip.hidden = true;
  });
  window.addEventListener("scroll", () => { tooltip.hidden = true; }, { passive: true });
  // Print opens what is folded, except the controls and the pair browser; afterwards the page is as it was.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")].filter((d) => !d.closest(".stays-folded"));
    opened.forEach((d) => { d.open = true; });
  });
  window.addEventListener("afterprint", () => { opened.forEach((d) => { d.open = false; }); opened = []; });
  // A link to a folded part opens it.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const fold = target && target.querySelector(":scope > details");
    if (fold && target.querySelectorAll(":scope > details").length === 1) fold.open = true;
  };
  window.addEventListener("hashchange", unfold);
  unfold();

  function bytes(base64) {
    const raw = atob(base64);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }
  async function unpack(id) {
    const packed = bytes(document.getElementById(id).textContent.trim());
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const data = await new Response(stream).json();
    data.cls = bytes(data.cls);
    data.changedBits = bytes(data.changed);
    const answer = bytes(data.answer);
    data.answer = data.width === 2 ? new Uint16Array(answer.buffer) : new Uint32Array(answer.buffer);
    return data;
  }

  function element(tag, attributes, ...children) {
    const out = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "text") out.textContent = value; else out.setAttribute(key, value);
    }
    out.append(...children);
    return out;
  }
  function difference(a, b) {
    const x = a.split(/(\s+)/), y = b.split(/(\s+)/);
    let head = 0, tail = 0;
    while (head < Math.min(x.length, y.length) && x[head] === y[head]) head++;
    while (tail < Math.min(x.length, y.length) - head && x[x.length - 1 - tail] === y[y.length - 1 - tail]) tail++;
    return [x, y].map((words) => [words.slice(0, head).join(""), words.slice(head, words.length - tail).join(""), words.slice(words.length - tail).join("")]);
  }

  class Browser {
    constructor(root) {
      this.root = root;
      this.find = (name) => root.querySelector("[data-part=" + name + "]");
      this.cache = {};
      this.current = 0;
    }
    async start() {
      this.find("file").addEventListener("change", () => this.open());
      for (const name of ["condition", "outcomes", "search", "role"]) this.find(name).addEventListener("input", () => this.filter());
      this.find("rows").addEventListener("input", () => this.detail());
      this.find("changed").addEventListener("input", () => this.detail());
      this.find("list").addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        const next = step && (step > 0 ? event.target.nextElementSibling : event.target.previousElementSibling);
        if (next) { event.preventDefault(); next.focus(); next.click(); }
      });
      await this.open();
    }
    async open() {
      const key = this.find("file").value;
      try {
        this.data = this.cache[key] || (this.cache[key] = await unpack("data-" + key));
      } catch (error) {
        this.find("count").textContent = "This browser cannot unpack the pairs (" + error.message + ").";
        return;
      }
      const select = this.find("condition");
      select.replaceChildren(element("option", { value: "any", text: "any effect condition" }));
      this.data.conditions.forEach((c, i) => select.append(element("option", { value: i, text: c.name + (c.dead ? " (dead)" : "") })));
      this.current = 0;
      this.filter();
    }
    at(pair, condition) { return pair * this.data.own + this.data.conditions[condition].own; }
    isChanged(cell) { return (this.data.changedBits[cell >> 3] >> (7 - (cell & 7))) & 1; }
    wanted() {
      return new Set([...this.find("outcomes").querySelectorAll("input:checked")].map((box) => Number(box.value)));
    }
    filter() {
      const data = this.data, wanted = this.wanted(), chosen = this.find("condition").value;
      const search = this.find("search").value.trim().toLowerCase();
      const effects = data.conditions.map((c, i) => i).filter((i) => data.conditions[i].role === "effect" && !data.conditions[i].dead && !data.conditions[i].copy);
      const columns = chosen === "any" ? effects : [Number(chosen)];
      this.matching = [];
      data.pairs.forEach((pair, p) => {
        if (search && !(pair.id + " " + pair.q.join(" ")).toLowerCase().includes(search)) return;
        if (columns.some((c) => wanted.has(data.cls[this.at(p, c)]))) this.matching.push(p);
      });
      const list = this.find("list");
      list.replaceChildren(...this.matching.map((p) => {
        const button = element("button", { type: "button", "data-pair": p, text: data.pairs[p].id });
        button.addEventListener("click", () => { this.current = p; this.detail(); });
        return button;
      }));
      this.find("count").textContent = this.matching.length + " of " + data.pairs.length + " pairs" +
        (data.excluded.length ? " (" + data.excluded.length + " more did not pass the sweep's filter)" : "");
      if (!this.matching.includes(this.current)) this.current = this.matching.length ? this.matching[0] : -1;
      this.detail();
    }
    detail() {
      const data = this.data, p = this.current;
      this.find("list").querySelectorAll("button").forEach((b) => b.setAttribute("aria-current", Number(b.dataset.pair) === p));
      const questions = this.find("questions"), body = this.find("answers");
      if (p < 0) { questions.replaceChildren(element("p", { class: "soft", text: "No pair fits this filter." })); body.replaceChildren(); return; }
      const pair = data.pairs[p], parts = difference(pair.q[0], pair.q[1]);
      questions.replaceChildren(...["Clean", "Corrupted"].map((name, side) => element("div", { class: "card" },
        element("h4", { text: name + " · " + pair.id }),
        element("p", {}, parts[side][0], element("mark", { text: parts[side][1] }), parts[side][2]),
        element("p", { class: "soft", text: "Expected " + pair.a[side] + ". Unpatched answer: “" + pair.t[side] + "” " + (pair.ok[side] ? "(right)" : "(wrong)") }))));
      const rows = this.find("rows").value.trim().toLowerCase(), onlyChanged = this.find("changed").checked, role = this.find("role").value;
      const wanted = this.wanted(), out = [];
      data.conditions.forEach((c, i) => {
        const cell = this.at(p, i), kind = data.cls[cell];
        if ((role !== "all" && c.role !== role) || (rows && !c.name.toLowerCase().includes(rows)) || (onlyChanged && !this.isChanged(cell)) || !wanted.has(kind)) return;
        out.push(element("tr", c.dead ? { class: "dead" } : {},
          element("td", { class: "wrap", text: c.name + (c.dead ? " (dead)" : c.copy ? " (copy)" : "") }),
          element("td", {}, element("span", { class: "chip c" + kind, text: CLASSES[kind] || "not run" })),
          element("td", { class: "wrap", text: data.texts[data.answer[cell]] })));
      });
      body.replaceChildren(...out);
    }
  }
  const root = document.querySelector(".browser");
  const browser = root && new Browser(root);
  document.addEventListener("click", async (event) => {
    const target = event.target.closest ? event.target.closest("[data-cell]") : null;
    if (!target || !browser) return;
    const [file, condition] = target.dataset.cell.split(":");
    browser.find("file").value = file;
    await browser.open();
    browser.find("condition").value = condition;
    browser.find("rows").value = browser.data.conditions[condition].name;
    browser.filter();
    root.closest("details").open = true;
    document.getElementById("pairs").scrollIntoView();
  });
  if (browser) browser.start().then(() => { document.documentElement.dataset.ready = "1"; });
})();
