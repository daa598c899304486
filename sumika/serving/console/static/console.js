// What all pages share: dialogs, switches, errors where they happened, copying. htmx does the rest.
"use strict";

const cookie = (name, value) => {
  document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=strict${location.protocol === "https:" ? "; secure" : ""}`;
};

document.addEventListener("click", async (event) => {
  const on = (selector) => event.target.closest(selector);
  let found;
  if ((found = on("[data-opens]"))) document.getElementById(found.dataset.opens).showModal();
  else if ((found = on("[data-closes]"))) found.closest("dialog").close();
  else if ((found = on("[data-sets]"))) {
    cookie(...found.dataset.sets.split("="));
    location.reload();
  } else if (on("[data-signs-out]")) {
    await fetch("/auth/logout", { method: "POST" });
    location.assign("/console/sign-in");
  } else if ((found = on("[data-copies]"))) {
    await navigator.clipboard.writeText(document.getElementById(found.dataset.copies).textContent);
    const label = found.textContent;
    found.textContent = found.dataset.said;
    setTimeout(() => { found.textContent = label; }, 1500);
  } else if ((found = on("[data-clones]"))) {
    const into = document.getElementById(found.dataset.into);
    into.append(document.getElementById(found.dataset.clones).content.cloneNode(true));
    into.lastElementChild.querySelector("input").focus();
  } else if ((found = on("[data-drops]"))) found.closest("[data-row]").remove();
  else if ((found = on("[data-goes]"))) toLine(document.getElementById(found.dataset.in), Number(found.dataset.goes));
  else if ((found = on(".menu"))) {
    const open = document.getElementById("nav").classList.toggle("open");
    found.setAttribute("aria-expanded", String(open));
  } else if (event.target instanceof HTMLDialogElement) event.target.close();
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submits]")) event.target.form.submit();
});

function toLine(area, number) {
  const lines = area.value.split("\n");
  const start = lines.slice(0, number - 1).join("\n").length + (number > 1 ? 1 : 0);
  area.focus();
  area.setSelectionRange(start, start + lines[number - 1].length);
  area.scrollTop = (number - 4) * (area.scrollHeight / lines.length);
}

// A refusal appears in the form that asked, in words that the server chose for the reader.
const placeOf = (element) => element.querySelector(":scope .problem") ?? document.getElementById("problem");

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt.matches("form")) placeOf(event.detail.elt).replaceChildren();
});
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, elt } = event.detail;
  if (xhr.status < 400) return;
  event.detail.shouldSwap = true;
  if (!xhr.responseText.includes("findings")) event.detail.target = placeOf(elt);
});
document.addEventListener("htmx:sendError", (event) => {
  placeOf(event.detail.elt).textContent = document.body.dataset.offline;
});
document.addEventListener("htmx:afterSwap", (event) => {
  const problem = document.getElementById("problem");
  if (event.detail.xhr.status < 400 && problem.textContent === document.body.dataset.offline) problem.replaceChildren();
  event.detail.target.querySelector?.("[data-focus]")?.focus();
  toEnd();
});
// Who goes by keys stays where they are while a part of the page is renewed around them.
const likeOf = (element) => {
  const name = ["href", "data-opens", "aria-label"].find((one) => element.hasAttribute(one));
  return name ? [...document.querySelectorAll(`#main [${name}="${CSS.escape(element.getAttribute(name))}"]`)] : [];
};
let held = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  const active = document.activeElement;
  held = event.detail.target.contains(active) ? { active, place: likeOf(active).indexOf(active) } : null;
});
document.addEventListener("htmx:afterSwap", () => {
  if (held && !held.active.isConnected && document.activeElement === document.body) likeOf(held.active)[held.place]?.focus({ preventScroll: true });
  held = null;
});
// The end of a log is what is new in it.
function toEnd() {
  for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
}
document.addEventListener("DOMContentLoaded", toEnd);
// A part of a page is not renewed while somebody reads a question in it.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.requestConfig.verb === "get" && event.detail.elt.querySelector("dialog[open]")) event.preventDefault();
});
