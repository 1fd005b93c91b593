// Sorting, moving between buttons, copying, and links to evidence. Everything else works without this script.
(() => {
  "use strict";
  const MISSING = new Set(["", "–", "not run", "not-run"]);
  const UNITS = { ms: 1e-3, s: 1, min: 60, h: 3600, K: 1e3, M: 1e6, B: 1e9, T: 1e12 };
  const NUMBER = /^(?:< )?([+−-]?\d[\d,]*(?:\.\d+)?(?:e[+−-]?\d+)?)\s*(ms|s|min|h|K|M|B|T|%)?(?:\s*(?:[±(]|to ).*)?$/;
  const said = document.getElementById("said");

  const textOf = (cell) => (cell ? cell.textContent.trim() : "");

  function numberOf(text) {
    const found = NUMBER.exec(text);
    return found ? Number(found[1].replaceAll(",", "").replaceAll("−", "-")) * (UNITS[found[2]] ?? 1) : NaN;
  }

  // The column of each heading, with headings that span rows and columns taken into account.
  function columnsOf(head) {
    const taken = [...head.rows].map(() => []);
    const found = [];
    [...head.rows].forEach((row, y) => {
      let x = 0;
      for (const cell of row.cells) {
        while (taken[y][x]) x += 1;
        for (let down = 0; down < cell.rowSpan; down += 1)
          for (let right = 0; right < cell.colSpan; right += 1) taken[y + down][x + right] = cell;
        if (cell.colSpan === 1) found.push({ cell, column: x, group: y > 0 ? textOf(taken[y - 1][x]) : "" });
        x += cell.colSpan;
      }
    });
    return found;
  }

  function sort(table, column, direction) {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("block"));
      rows.forEach((row, place) => (row.dataset.place ??= String(place)));
      const keyed = rows.map((row) => {
        const text = textOf(row.cells[column]);
        return { row, text, place: Number(row.dataset.place), missing: MISSING.has(text), number: numberOf(text) };
      });
      const numeric = keyed.every((one) => one.missing || !Number.isNaN(one.number));
      const compare = (a, b) => {
        if (direction === "none") return a.place - b.place;
        if (a.missing !== b.missing) return a.missing ? 1 : -1;
        if (a.missing) return a.place - b.place;
        const order = numeric ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true });
        return (direction === "ascending" ? order : -order) || a.place - b.place;
      };
      body.append(...keyed.sort(compare).map((one) => one.row));
    }
  }

  function makeSortable(table) {
    if (!table.tHead || table.dataset.sortable) return;
    table.dataset.sortable = "yes";
    const columns = columnsOf(table.tHead);
    for (const { cell, column, group } of columns) {
      const name = textOf(cell);
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.textContent = name;
      button.setAttribute("aria-label", `Sort by ${group ? `${group}: ` : ""}${name}`);
      button.dataset.column = String(column);
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "none" }[cell.ariaSort] ?? "ascending";
        for (const other of columns) other.cell.removeAttribute("aria-sort");
        if (next !== "none") cell.setAttribute("aria-sort", next);
        sort(table, column, next);
        said.textContent = next === "none" ? "In the order of the file" : `Sorted by ${name}, ${next}`;
      });
    }
    makeOneStop(table);
  }

  // One stop of the Tab key a table, arrow keys within it: a table of a hundred buttons is not a hundred stops.
  function makeOneStop(table) {
    const buttons = [...table.querySelectorAll("button")];
    buttons.forEach((button, index) => (button.tabIndex = index ? -1 : 0));
    table.closest(".scroll")?.removeAttribute("tabindex");
    const columnOf = (button) => Number(button.dataset.column ?? button.closest("td, th").cellIndex);
    const go = (button) => {
      for (const other of table.querySelectorAll("button")) other.tabIndex = -1;
      button.tabIndex = 0;
      button.focus();
    };
    table.addEventListener("keydown", (event) => {
      const here = event.target.closest("button");
      if (!here || event.ctrlKey || event.altKey || event.metaKey) return;
      // Headings that span rows stand in the line of the buttons below them.
      const all = [...table.querySelectorAll("button")];
      const lineOf = (button) => (button.classList.contains("sort") ? table.tHead : button.closest("tr"));
      const line = all.filter((button) => lineOf(button) === lineOf(here)).sort((a, b) => columnOf(a) - columnOf(b));
      let target;
      if (event.key === "ArrowRight") target = line[line.indexOf(here) + 1];
      else if (event.key === "ArrowLeft") target = line[line.indexOf(here) - 1];
      else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        const lines = [...new Set(all.map(lineOf))];
        const other = lines[lines.indexOf(lineOf(here)) + (event.key === "ArrowDown" ? 1 : -1)];
        const near = (button) => Math.abs(columnOf(button) - columnOf(here));
        target = all.filter((button) => lineOf(button) === other).sort((a, b) => near(a) - near(b))[0];
      } else return;
      event.preventDefault();
      if (target) go(target);
    });
  }

  function addCopyButton(pre) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy the command");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(textOf(pre));
        button.textContent = "Copied";
        said.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(pre);
        said.textContent = "Selected: press Ctrl+C";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    pre.after(button);
  }

  function heading(button) {
    const table = button.closest("table");
    const column = button.closest("td")?.cellIndex;
    return table && column !== undefined ? textOf(table.querySelector(`button.sort[data-column="${column}"]`)) : "";
  }

  function openLinked() {
    const linked = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (linked?.matches("[popover]:not(:popover-open)")) linked.showPopover();
  }

  for (const table of document.querySelectorAll("table")) if (!table.closest("[popover]")) makeSortable(table);
  for (const pre of document.querySelectorAll("pre.command")) if (!pre.closest("[popover]")) addCopyButton(pre);
  for (const note of document.querySelectorAll(".scripted")) note.hidden = false;

  let asked = "";
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button.open");
    if (button) asked = heading(button);
  });
  // What stands in a panel is made ready when it opens: most are never looked at.
  for (const panel of document.querySelectorAll("[popover]")) {
    panel.addEventListener("toggle", (event) => {
      const open = event.newState === "open";
      if (open) {
        for (const table of panel.querySelectorAll("table")) makeSortable(table);
        for (const pre of panel.querySelectorAll("pre.command")) if (!pre.nextElementSibling?.matches(".copy")) addCopyButton(pre);
        for (const row of panel.querySelectorAll("tr[data-metric]")) row.classList.toggle("asked", row.dataset.metric === asked);
        asked = "";
        panel.scrollTop = 0;
        panel.focus({ preventScroll: true });
        history.replaceState(null, "", `#${panel.id}`);
      } else if (location.hash === `#${panel.id}`) history.replaceState(null, "", location.pathname + location.search);
    });
  }
  addEventListener("hashchange", openLinked);
  openLinked();

  // On paper everything that is folded is read; older browsers cannot say so in a style sheet.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")].filter((one) => !one.closest("[popover]"));
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
})();
