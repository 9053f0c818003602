"use strict";
// What the other scripts share. Foreign text enters the page as text only, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Fills a <select> with [value, text] pairs; one that offers no choice cannot be opened.
function offer(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value, textContent: text })));
  select.disabled = pairs.length < 2;
  return select;
}

// Black is the baseline; on a dark page it is drawn in the colour of the text.
function ink(color) {
  return color === "#000000" ? getComputedStyle(document.documentElement).getPropertyValue("--text").trim() : color;
}

// Draws now, and again whenever the page turns dark or light.
function drawing(draw) {
  matchMedia("screen and (prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}

async function embed(name) {
  const views = await Bokeh.embed.embed_item(DATA.figures[name], byId(name));
  return views.roots[0].model;
}

const sourceOf = (figure, name) => figure.renderers.map((r) => r.data_source).find((s) => s.name === name);

// Columns from records; `figure` then paints them.
function put(source, records, names = Object.keys(source.data)) {
  source.data = Object.fromEntries(names.map((name) => [name, records.map((record) => record[name])]));
}

// A line of buttons that hide and show what is drawn: {name, sign, color}. Returns the set of hidden names.
function key(container, title, entries, draw) {
  const hidden = new Set();
  const buttons = entries.map(({ name, sign, color }) => {
    const mark = make("span", { textContent: sign, className: color === "#000000" ? "sign base" : "sign" });
    if (color && color !== "#000000") mark.style.color = color;
    const button = make("button", { type: "button" }, mark, ` ${name}`);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      draw();
    });
    return button;
  });
  container.append(make("div", { className: "key" }, make("span", { textContent: title }), ...buttons));
  return hidden;
}
