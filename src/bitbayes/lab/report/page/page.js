"use strict";
// Charts take their colours from the page, and lines are shown and hidden by the legend's boxes.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const stored = { // a page from a file may have no storage
    get: () => { try { return localStorage.getItem("bitbayes-theme"); } catch { return null; } },
    set: (name) => { try { localStorage.setItem("bitbayes-theme", name); } catch { /* not remembered */ } },
  };
  const models = () => Bokeh.documents.flatMap((made) => [...made.all_models]);
  const colour = (name) => {
    const probe = document.body.appendChild(document.createElement("span"));
    probe.style.color = `var(--${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const paint = () => {
    const [text, quiet, line, card] = ["text", "quiet", "line", "card"].map(colour);
    for (const model of models()) {
      const set = {};
      if (model.type.endsWith("Axis")) {
        Object.assign(set, { axis_label_text_color: text, major_label_text_color: quiet, axis_line_color: quiet });
        Object.assign(set, { major_tick_line_color: quiet, minor_tick_line_color: null });
      } else if (model.type === "Grid") {
        set.grid_line_color = line;
      } else if (model.type === "Figure") {
        // Filled, so that a picture that is saved from a dark page has its ground.
        Object.assign(set, { outline_line_color: line, border_fill_color: card, background_fill_color: card });
      } else if (model.type === "ColorBar") {
        set.major_label_text_color = quiet;
      }
      if (Object.keys(set).length) model.setv(set);
    }
    button.textContent = dark() ? "Light mode" : "Dark mode";
  };
  const choose = (name) => {
    if (name === "dark" || name === "light") root.dataset.theme = name;
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    choose(dark() ? "light" : "dark");
    stored.set(root.dataset.theme);
    paint();
  });
  system.addEventListener("change", paint);
  for (const box of document.querySelectorAll("input[data-tag]")) {
    box.checked = true; // a browser may remember another state
    box.addEventListener("change", () => {
      for (const model of models()) {
        if (model.type === "GlyphRenderer" && model.tags.includes(box.dataset.tag)) model.visible = box.checked;
      }
    });
  }
  choose(stored.get());
  const begin = () => (Bokeh.documents.length || !document.querySelector(".plot") ? paint() : setTimeout(begin, 20));
  begin();
})();
