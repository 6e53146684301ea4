// Light or dark, before anything is drawn: as the system says, unless the other was chosen here.

const system = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

function stored() {
  try { return localStorage.getItem("fcn-serve.theme"); } catch { return null; } // storage may be forbidden
}

function store(theme) {
  try {
    if (theme) localStorage.setItem("fcn-serve.theme", theme);
    else localStorage.removeItem("fcn-serve.theme");
  } catch { /* then it lasts as long as the page */ }
}

function show(theme) {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  const dark = theme ? theme === "dark" : system.matches;
  document.getElementById("theme")?.setAttribute("aria-pressed", String(dark));
  return dark;
}

show(stored());
document.addEventListener("DOMContentLoaded", () => {
  show(stored());
  system.addEventListener("change", () => show(stored()));
  document.getElementById("theme").addEventListener("click", ({ currentTarget }) => {
    const dark = currentTarget.getAttribute("aria-pressed") !== "true";
    const chosen = dark === system.matches ? null : dark ? "dark" : "light"; // the system's own: follow it again
    store(chosen);
    show(chosen);
  });
});
