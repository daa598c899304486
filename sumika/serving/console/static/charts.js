// Charts by uPlot, from the JSON of the admin API, in the page's colours.
"use strict";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const words = (element) => element.dataset.words.split("|");
const short = new Intl.NumberFormat(document.documentElement.lang, { notation: "compact", maximumFractionDigits: 1 });
const LINES = ["--accent", "--chart-2", "--good", "--bad", "--warn", "--muted"];
const GRID = 46;
// Steps of an axis that counts things.
const WHOLE = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((n) => n * 10 ** power));

const axis = (more = {}) => ({
  stroke: colour("--muted"), font: `11px ${colour("--sans")}`, ticks: { show: false }, grid: { stroke: colour("--line"), width: 1 }, size: 30, ...more,
});
const dayOf = (seconds) => new Date(seconds * 1000);
const two = (number) => String(number).padStart(2, "0");
const clock = (_, splits) => splits.map((s) => `${two(dayOf(s).getHours())}:${two(dayOf(s).getMinutes())}`);
const numbers = (_, splits) => splits.map((value) => (value === null ? "" : short.format(value)));

function draw(element, data, { series, x = {}, scales = {}, height = 170, y = {} }) {
  element.replaceChildren();
  const size = () => ({ width: element.clientWidth, height });
  const plot = new uPlot({
    ...size(), padding: [8, 20, 0, 0], cursor: { y: false, points: { size: 6 } }, scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] }, ...scales },
    axes: [axis({ space: 60, ...x }), axis({ size: GRID, values: numbers, ...y })],
    series: [{ label: " ", value: x.value }, ...series],
  }, data, element);
  new ResizeObserver(() => { if (element.clientWidth) plot.setSize(size()); }).observe(element);
  return plot;
}

const line = (label, at, more = {}) => ({
  label, stroke: colour(LINES[at % LINES.length]), width: 1.75, points: { show: false }, value: (_, v) => (v === null || v === undefined ? "–" : short.format(v)), ...more,
});

async function json(address) {
  const answer = await fetch(address, { headers: { accept: "application/json" } });
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

function activity(group) {
  const plots = new Map();
  const figures = {
    requests: (slots) => [slots.map((s) => s.requests), slots.map((s) => s.failed)],
    tokens: (slots, seconds) => [slots.map((s) => s.completion_tokens / seconds)],
    first: (slots) => [slots.map((s) => s.first_ms)],
  };
  async function renew() {
    const told = await json(group.dataset.activity).catch(() => null);
    if (!told) return;
    const at = told.data.map((slot) => Date.parse(slot.at) / 1000);
    for (const element of group.querySelectorAll("[data-figure]")) {
      const data = [at, ...figures[element.dataset.figure](told.data, told.slot_s)];
      if (plots.has(element)) plots.get(element).setData(data);
      else {
        const series = words(element).map((word, n) => line(word, element.dataset.figure === "requests" && n ? 3 : 0, n ? {} : { spanGaps: true, fill: `${colour("--accent")}18` }));
        plots.set(element, draw(element, data, { series, x: { values: clock, value: (_, v) => (v ? clock(null, [v])[0] : "–") }, y: element.dataset.figure === "requests" ? { incrs: WHOLE } : {} }));
      }
    }
  }
  renew();
  setInterval(renew, 10000);
}

const stepsOf = (told) => told.data.filter((row) => row.loss !== undefined || row.eval_loss !== undefined);

function merged(lists) {
  const steps = [...new Set(lists.flat().map((row) => row.step))].sort((a, b) => a - b);
  const column = (rows, name) => {
    const by = new Map(rows.filter((row) => row[name] !== undefined).map((row) => [row.step, row[name]]));
    return steps.map((step) => by.get(step) ?? null);
  };
  return [steps, column];
}

function loss(element) {
  let plot;
  async function renew() {
    const addresses = [element.dataset.loss, element.dataset.beside].filter(Boolean);
    const told = await Promise.all(addresses.map(json)).catch(() => null);
    if (!told) return;
    const lists = told.map(stepsOf);
    const [steps, column] = merged(lists);
    const names = words(element);
    const data = lists.length > 1 ? [steps, ...lists.map((rows) => column(rows, "loss"))] : [steps, column(lists[0], "loss"), column(lists[0], "eval_loss")];
    if (!steps.length) element.textContent = element.dataset.empty;
    else if (plot) plot.setData(data);
    else plot = draw(element, data, {
      height: 260, scales: { x: { time: false } }, y: { values: (_, s) => s.map((v) => v.toFixed(1)) },
      series: names.map((name, n) => line(name, n, { spanGaps: true, points: { show: n === 1 && lists.length === 1, size: 5 }, value: (_, v) => (v == null ? "–" : v.toFixed(4)) })),
    });
    if (told.every((one) => ["done", "refused", "failed", "cancelled"].includes(one.state))) clearInterval(timer);
  }
  const timer = setInterval(renew, 3000);
  renew();
}

function days(element) {
  const rows = [...document.getElementById(element.dataset.days).children];
  const data = [rows.map((_, n) => n), ...[0, 1].map((n) => rows.map((row) => Number(row.dataset.values.split("|")[n])))];
  const day = (_, splits) => splits.map((n) => (Number.isInteger(n) && rows[n] ? rows[n].dataset.day.slice(5).replace("-", "/") : ""));
  const bars = (at, side) => ({ paths: uPlot.paths.bars({ size: [0.3, 40], align: side }), fill: colour(LINES[at]) });
  draw(element, data, {
    height: 200, scales: { x: { time: false, range: (_, low, high) => [low - 0.6, high + 0.6] } }, x: { values: day, grid: { show: false }, incrs: [1, 2, 5, 7, 14, 30], value: (_, n) => (rows[n] ? rows[n].dataset.day : "–") },
    series: words(element).map((word, n) => line(word, n, bars(n, n ? 1 : -1))),
  });
}

async function costs(element) {
  const told = (await json(element.dataset.costs)).chart;
  const names = Object.keys(told.apis);
  const data = [told.tokens, told.tokens.map(() => told.own), ...names.map((name) => told.apis[name])];
  const most = told.own * 3;
  draw(element, data, {
    height: 280, scales: { x: { time: false, distr: 3, range: () => [told.tokens[0], told.tokens.at(-1)] }, y: { range: () => [0, most] } },
    x: { values: numbers, value: (_, v) => (v ? `${short.format(v)} tokens` : "–"), space: 40 }, y: { values: (_, s) => s.map((v) => `¥${short.format(v)}`), size: 64 },
    series: [line(words(element)[0], 0, { width: 2.5, dash: [6, 4] }), ...names.map((name, n) => line(name, n + 1))],
  });
}

function all() {
  for (const element of document.querySelectorAll("[data-activity]")) activity(element);
  for (const element of document.querySelectorAll("[data-loss]")) loss(element);
  for (const element of document.querySelectorAll("[data-days]")) days(element);
  for (const element of document.querySelectorAll("[data-costs]")) costs(element);
}
document.addEventListener("DOMContentLoaded", all);
