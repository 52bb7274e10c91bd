// Before anything is drawn, so that nothing flashes.
"use strict";
try {
  const chosen = localStorage.getItem("theatre-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch { /* storage is forbidden here: the system's choice will do */ }
