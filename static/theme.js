/** Light and dark, or as the system says. */

import { $, titleOf } from "./dom.js";
import { recall, remember } from "./storage.js";

const THEMES = ["auto", "light", "dark"];
const TITLES = { auto: "Colours: as the system says", light: "Colours: light", dark: "Colours: dark" };

function show(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme-name").textContent = titleOf(theme);
  $("theme").title = TITLES[theme];
  remember("theme", theme);
}

export function startTheme() {
  show(THEMES.includes(recall("theme")) ? recall("theme") : "auto");
  $("theme").addEventListener("click", () => {
    show(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length]);
  });
}
