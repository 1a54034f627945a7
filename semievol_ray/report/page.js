"use strict";
// Without this script all examples are there, one below the other.
const rows = [...document.querySelectorAll("article")];
const texts = rows.map((row) => row.textContent.toLowerCase());
const kinds = rows.map((row) => row.dataset.kinds.split("|"));
const search = document.getElementById("search");
const kind = document.getElementById("kind");
function show() {
  const wanted = search.value.trim().toLowerCase();
  let found = 0;
  rows.forEach((row, i) => {
    const fits = texts[i].includes(wanted) && (!kind.value || kinds[i].includes(kind.value));
    row.hidden = !fits;
    found += fits;
  });
  document.getElementById("found").textContent = `${found} of ${rows.length}`;
}
document.querySelector(".controls").hidden = !rows.length;
document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
search.addEventListener("input", show);
kind.addEventListener("change", show);
show();
