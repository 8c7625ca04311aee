"use strict";
// The table of a policy: sorted, filtered, a page of rows at a time. Labels reach the
// page as text nodes only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 100; // rows in the document at once: ten thousand would take seconds
  const $ = (id) => document.getElementById(id);
  const format = new Intl.NumberFormat("en", {
    minimumSignificantDigits: 3, maximumSignificantDigits: 3,
  });
  const whole = new Intl.NumberFormat("en");
  const percent = new Intl.NumberFormat("en", { style: "percent" });
  const collator = new Intl.Collator("en", { numeric: true });
  const action = (code) => (code === null ? "–" : data.actions[code]);
  const shown = {
    state: (x) => x, action,
    value: (x) => (x === null ? "–" : format.format(x)),
    share: (x) => (x === null ? "–" : percent.format(x)),
    count: (x) => whole.format(x),
  };
  const columns = data.columns; // name, kind, heading, help
  const table = data.rows; // by name, one array each
  const n = table.state.length;
  const text = Array.from({ length: n }, (_, i) =>
    [table.state[i], action(table.action[i]), action(table.today[i])].join(" ").toLowerCase());
  const keep = {
    all: () => true,
    changed: (i) => table.today[i] !== null && table.today[i] !== table.action[i],
    thin: (i) => table.tried[i] < data.thin,
  };
  let sorted = { name: "visits", down: true };
  let page = 0;
  let chosen = [];

  function compare(name, kind) {
    const column = table[name];
    if (kind === "state" || kind === "action") {
      const by = kind === "state" ? (x) => x : action;
      return (a, b) => collator.compare(by(column[a]), by(column[b]));
    }
    return (a, b) => (column[a] ?? -Infinity) - (column[b] ?? -Infinity);
  }

  function choose() {
    const wanted = $("find").value.trim().toLowerCase();
    const test = keep[$("show").value];
    chosen = [];
    for (let i = 0; i < n; i++) if (test(i) && text[i].includes(wanted)) chosen.push(i);
    const kind = columns.find((column) => column.name === sorted.name).kind;
    const order = compare(sorted.name, kind);
    const sign = sorted.down ? -1 : 1;
    chosen.sort((a, b) => sign * order(a, b) || a - b);
    page = 0;
    draw();
  }

  function draw() {
    const rows = chosen.slice(page * PAGE, (page + 1) * PAGE).map((i) => {
      const row = document.createElement("tr");
      for (const { name, kind } of columns) {
        const cell = row.insertCell();
        cell.textContent = shown[kind](table[name][i]);
        if (kind !== "state" && kind !== "action") cell.className = "number";
        if (name === "state") cell.title = table.state[i];
        if (name === "action" && keep.changed(i)) cell.classList.add("changed");
        if (name === "tried" && keep.thin(i)) cell.classList.add("few");
      }
      return row;
    });
    $("policy").tBodies[0].replaceChildren(...rows);
    for (const head of $("policy").tHead.rows[0].cells) {
      if (head.dataset.name !== sorted.name) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    }
    const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
    $("count").textContent = `${whole.format(chosen.length)} of ${whole.format(n)} states`;
    $("where").textContent = `Page ${page + 1} of ${pages}`;
    $("before").disabled = page === 0;
    $("after").disabled = page + 1 >= pages;
  }

  for (const { name, kind, heading, help } of columns) {
    const head = document.createElement("th");
    const button = document.createElement("button");
    head.scope = "col";
    head.dataset.name = name;
    const numeric = kind !== "state" && kind !== "action";
    if (numeric) head.className = "number";
    button.type = "button";
    button.textContent = heading;
    button.title = help;
    button.addEventListener("click", () => {
      sorted = { name, down: sorted.name === name ? !sorted.down : numeric };
      choose();
    });
    head.append(button);
    $("policy").tHead.rows[0].append(head);
  }
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("find").addEventListener("input", choose);
  $("show").addEventListener("change", choose);
  $("before").addEventListener("click", () => { page -= 1; draw(); });
  $("after").addEventListener("click", () => { page += 1; draw(); });
  choose();
})();
