// The playground: a question to one alias or two, streamed, with the figures of each answer.

const play = document.getElementById("play");
const form = document.getElementById("ask");
const stop = document.getElementById("stop");
const problem = form.querySelector(".problem");
const CHAT = "/v1/chat/completions";
const SIDES = ["left", "right"];
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
let asking = null;

async function models() {
  const answer = await fetch("/v1/models");
  const names = answer.ok ? (await answer.json()).data.filter((one) => one.sumika.endpoints.includes(CHAT)).map((one) => one.id) : [];
  for (const side of SIDES) form.elements[side].append(...names.map((name) => new Option(name, name)));
  if (!names.length) problem.textContent = play.dataset.empty;
  show();
}

function body(model) {
  const messages = [{ role: "user", content: form.elements.question.value }];
  const system = form.elements.system.value.trim();
  if (system) messages.unshift({ role: "system", content: system });
  const given = NUMBERS.map((name) => [name, form.elements[name].value]).filter(([, value]) => value !== "");
  return { model, messages, ...Object.fromEntries(given.map(([name, value]) => [name, Number(value)])) };
}

// The same request as code, for whoever builds on it.
function show() {
  const asked = body(form.elements.left.value || "ALIAS");
  const text = JSON.stringify(asked, null, 2);
  const quoted = text.replaceAll("'", "'\\''");
  document.getElementById("curl").textContent = `curl ${location.origin}/v1/chat/completions \\\n  -H "Authorization: Bearer $SUMIKA_API_KEY" \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
  const { model, messages, ...more } = asked;
  const args = [`    model=${JSON.stringify(model)},`, `    messages=${JSON.stringify(messages)},`, ...Object.entries(more).map(([name, value]) => `    ${name}=${value},`)];
  document.getElementById("python").textContent = `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key=os.environ["SUMIKA_API_KEY"])\nanswer = client.chat.completions.create(\n${args.join("\n")}\n)\nprint(answer.choices[0].message.content)`;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (kept + value).split("\n\n");
    kept = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function ask(side, model, signal) {
  const article = document.querySelector(`[data-side="${side}"]`);
  const [title, figures, said] = ["h2", ".figures", ".said"].map((part) => article.querySelector(part));
  article.hidden = false;
  article.setAttribute("aria-busy", "true");
  title.textContent = model;
  figures.textContent = "";
  said.className = "said muted";
  said.textContent = play.dataset.waiting;
  const began = performance.now();
  let first = null, chunks = 0, usage = null, text = "";
  const tell = (end) => {
    const seconds = (performance.now() - began) / 1000;
    const tokens = usage?.completion_tokens ?? chunks;
    const busy = Math.max(seconds - (first ?? 0), 0.001);
    const speed = tokens > 1 ? ((tokens - 1) / busy).toFixed(1) : "–";
    figures.textContent = [`${speed} ${play.dataset.speed}`, `${play.dataset.first} ${first === null ? "–" : Math.round(first * 1000)} ms`, `${tokens} ${play.dataset.tokens}`, end].filter(Boolean).join(" · ");
  };
  try {
    const answer = await fetch(CHAT, {
      method: "POST", signal, headers: { "content-type": "application/json", "accept-language": document.documentElement.lang },
      body: JSON.stringify({ ...body(model), stream: true, stream_options: { include_usage: true } }),
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    title.textContent = answer.headers.get("x-sumika-version") ?? model;
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const piece = event.choices[0]?.delta?.content;
      if (!piece) continue;
      first ??= (performance.now() - began) / 1000;
      chunks += 1;
      text += piece;
      said.className = "said";
      said.textContent = text;
      tell();
    }
    said.className = "said";
    said.textContent = text || "–";
    tell();
  } catch (error) {
    if (error.name === "AbortError") {
      said.textContent = text;
      tell(play.dataset.stopped);
    } else {
      said.className = "said bad";
      said.textContent = `${text ? `${text}\n\n` : ""}${error instanceof TypeError ? play.dataset.lost : error.message}`;
    }
  } finally {
    article.removeAttribute("aria-busy");
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (asking) return;
  asking = new AbortController();
  stop.hidden = false;
  problem.replaceChildren();
  const chosen = SIDES.filter((side) => form.elements[side].value);
  for (const side of SIDES) document.querySelector(`[data-side="${side}"]`).hidden = !chosen.includes(side);
  await Promise.all(chosen.map((side) => ask(side, form.elements[side].value, asking.signal)));
  asking = null;
  stop.hidden = true;
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
form.addEventListener("input", show);
stop.addEventListener("click", () => asking?.abort());
models();
