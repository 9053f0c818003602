// The comparison: headings sort, boxes filter.

function comparison() {
  const body = byId("rows").querySelector("tbody");
  if (!body) return;
  const lines = [...body.rows];
  sortable([...byId("rows").querySelectorAll("thead th")], body, lines);
  filterable(lines);
}

function sortable(headings, body, lines) {
  headings.forEach((heading, column) => {
    const numeric = heading.classList.contains("right");
    heading.setAttribute("aria-sort", "none");
    heading.querySelector("button").addEventListener("click", () => {
      const way = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      const value = (line) => line.cells[column].dataset.value;
      const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", { numeric: true });
      const ordered = [...lines].sort((a, b) => {
        const [left, right] = [value(a), value(b)];
        if (left === "" || right === "") return (left === "") - (right === ""); // empty cells come last, either way
        return way * compare(left, right);
      });
      body.append(...ordered);
    });
  });
}

function filterable(lines) {
  const form = byId("filters");
  const text = byId("filter-text");
  const selects = [...form.querySelectorAll("select")];
  for (const select of selects) {
    const values = [...new Set(lines.map((line) => line.dataset[select.dataset.filter]))].filter((v) => v !== "");
    if (select.dataset.filter === "batch") values.sort((a, b) => a - b);
    offer(select, [["", "all"], ...values.map((v) => [v, v])]);
  }
  function filter() {
    const words = text.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const line of lines) {
      const said = line.textContent.toLowerCase();
      const fits = selects.every((s) => s.value === "" || line.dataset[s.dataset.filter] === s.value);
      line.hidden = !(fits && words.every((word) => said.includes(word)));
      shown += !line.hidden;
    }
    byId("count").textContent = shown === lines.length ? `${shown} rows` : `${shown} of ${lines.length} rows`;
  }
  for (const event of ["input", "change"]) form.addEventListener(event, filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
}

comparison();
