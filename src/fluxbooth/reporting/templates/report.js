"use strict";
// A picture that the page has twice is in the file once.
for (const image of document.querySelectorAll("img[data-same]")) {
  image.src = document.getElementById(image.dataset.same).src;
}

// Enlarging: a dialog, so that Escape, the focus and what lies behind it are the browser's business.
const large = document.getElementById("large");
let shown = null;

function rows() {
  return [...document.querySelectorAll(".strip, .trio")].map((row) => [...row.querySelectorAll(".shot")]);
}

function fill(figure, source, label) {
  const image = figure.querySelector("img");
  figure.hidden = !source;
  if (!source) return;
  image.src = source.src;
  image.alt = source.alt;
  image.classList.toggle("exact", source.naturalWidth > 0 && Math.max(source.naturalWidth, source.naturalHeight) <= 160);
  figure.querySelector("figcaption").textContent = label;
}

function show(shot) {
  shown = shot;
  const label = shot.querySelector("span");
  const beside = document.getElementById(shot.dataset.beside || "");
  fill(large.querySelector(".other"), beside, shot.dataset.besideLabel || "");
  fill(large.querySelector(".this"), shot.querySelector("img"), label ? label.textContent : "");
  large.classList.toggle("paired", Boolean(beside));
  large.querySelector(".what").textContent = shot.dataset.about;
  if (!large.open) large.showModal();
}

function walk(across, down) {
  const all = rows();
  const row = all.findIndex((shots) => shots.includes(shown));
  const place = all[row].indexOf(shown);
  if (across && all[row][place + across]) show(all[row][place + across]);
  if (down && all[row + down] && all[row + down].length) {
    show(all[row + down][Math.min(place, all[row + down].length - 1)]);
  }
}

document.addEventListener("click", (event) => {
  const shot = event.target.closest(".shot");
  if (shot) show(shot);
});
large.addEventListener("click", (event) => {
  const step = event.target.dataset.walk;
  if (step === "row" || step === "-row") walk(0, step === "row" ? 1 : -1);
  else if (step) walk(Number(step), 0);
  else if (event.target === large || event.target.closest(".close, figure")) large.close();
});
large.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!(event.key in steps)) return;
  event.preventDefault();
  walk(...steps[event.key]);
});
large.addEventListener("close", () => shown && shown.focus());

// Copying a command, where the browser lets a page do it.
for (const button of document.querySelectorAll(".copy")) {
  if (!navigator.clipboard) break;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}

// While the run goes on the file is written again and again; the page then loads itself, where it was scrolled to.
const period = Number(document.body.dataset.reload || 0);
const place = "fluxbooth place";
const folds = [...document.querySelectorAll("details")];
const sections = [...document.querySelectorAll("main > section")];
const kept = sessionStorage.getItem(place);
if (kept !== null) {
  sessionStorage.removeItem(place);
  history.scrollRestoration = "manual";
  const { open, number, section, below } = JSON.parse(kept);
  if (number === folds.length) folds.forEach((fold, at) => { fold.open = open.includes(at); });
  const reached = document.getElementById(section);
  scrollTo({ top: below + (reached ? reached.getBoundingClientRect().top + scrollY : 0), behavior: "instant" });
}

// What stands above may have grown meanwhile, so that a place is a section and how far below its top.
function keepPlace() {
  const section = sections.filter((one) => one.id && one.getBoundingClientRect().top <= 0).pop();
  sessionStorage.setItem(place, JSON.stringify({
    open: folds.flatMap((fold, at) => (fold.open ? [at] : [])),
    number: folds.length,
    section: section ? section.id : "",
    below: section ? -section.getBoundingClientRect().top : scrollY,
  }));
}

if (period) {
  setInterval(() => {
    if (large.open || document.hidden) return;
    const age = Date.now() / 1000 - Number(document.body.dataset.written);
    if (age > 10 * period + 60) {
      const news = document.querySelector(".news");
      news.hidden = false;
      news.textContent = "No news for " + Math.round(age / 60) + " minutes: whatever wrote this page has ended.";
      return;
    }
    keepPlace();
    location.reload();
  }, 1000 * period);
}
