// Header buttons sort the tables: numbers from the highest, texts from A; a second press reverses the order.
// Rows without a value stay last. aria-sort tells screen readers and the style sheet the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const numeric = header.classList.contains("num");
    header.querySelector("button").addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const order = before === "none" ? (numeric ? "descending" : "ascending")
        : before === "ascending" ? "descending" : "ascending";
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const body = table.tBodies[0];
      const rows = [...body.rows];
      rows.sort((one, two) => {
        if (!numeric) {
          return sign * one.cells[column].textContent.localeCompare(two.cells[column].textContent, "en", { numeric: true });
        }
        const a = one.cells[column].dataset.value, b = two.cells[column].dataset.value;
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
        return sign * (Number(a) - Number(b));
      });
      body.append(...rows);
    });
  });
}

// Open all folded sections for printing, and restore them afterwards.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
